"""Flows as guides: vijax, NumPyro's AutoIAFNormal and AutoBNAFNormal, and flowjax.

Every run is a fresh process; times are from the call to fitted parameters, including compilation.
Peers: Adam 5e-3, 2,000 steps of 32 draws, otherwise default flows. flowjax fits the unconstrained
density that NumPyro computes from the model, by its training loop, and is skipped if not installed.
Steps per second are those of compiled code; a step has 64 draws in vijax, 32 in the others. `vijax
flow, 1,000 steps` stops after the first cycle, and its time does not include the diagnostics, which
no peer has: it is the time to reach the ELBO of a peer. A run that takes longer than 100 s is
stopped, and so is the table after nine minutes; `--only` adds one problem to it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import time
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.infer.autoguide import AutoBNAFNormal, AutoIAFNormal

import vijax
from bench import _report
from bench._problems import Problem
from bench.peers import by_flowjax, by_numpyro
from bench.posteriors import hard
from vijax.contracts import Solution
from vijax.diagnostics import importance as weights
from vijax.guides import Flow
from vijax.solvers import FlowDescent, Pathfinder
from vijax.solvers.default import dense_gaussian

_DRAWS = 10_000
_PEERS = {"steps": 2000, "particles": 32, "rate": 5e-3}
_TIMED = 200  # steps that are timed after compilation
_RUN_SECONDS, _ALL_SECONDS = 100, 540


def two_moons() -> Problem:
    """The first energy of Rezende and Mohamed, 2015: two moons."""

    def model():
        z = numpyro.sample("z", dist.ImproperUniform(constraints.real, (), (2,)))
        radius = jnp.sqrt(jnp.sum(z**2))
        ring = -0.5 * ((radius - 2) / 0.4) ** 2
        sides = [-0.5 * ((z[0] - c) / 0.6) ** 2 for c in (-2.0, 2.0)]
        numpyro.factor("energy", ring + jnp.logaddexp(*sides))

    return Problem(model, (), "energy")


def horseshoe() -> Problem:
    """Breast cancer on its first fifteen features, horseshoe prior, d = 32."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)[:, :15]
    y = y.astype(np.float32)

    def model(x, y):
        alpha = numpyro.sample("alpha", dist.Normal(0.0, 1.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(0.1))
        width = x.shape[1]
        local = numpyro.sample("local", dist.HalfCauchy(1.0).expand([width]).to_event(1))
        raw = numpyro.sample("raw", dist.Normal(0.0, 1.0).expand([width]).to_event(1))
        logits = alpha + x @ (raw * local * tau)
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Bernoulli(logits=logits), obs=y)

    return Problem(model, (x, y), "scikit-learn")


def gaussian_process() -> Problem:
    """Poisson counts whose log rate is a Gaussian process: scale, length and values, d = 13."""
    x = np.linspace(-10, 10, 11, dtype=np.float32)
    counts = np.array([40, 37, 29, 12, 4, 3, 9, 19, 77, 82, 33], np.float32)

    def model(x, counts):
        rho = numpyro.sample("rho", dist.Gamma(25.0, 4.0))
        alpha = numpyro.sample("alpha", dist.HalfNormal(2.0))
        raw = numpyro.sample("raw", dist.Normal(0.0, 1.0).expand([len(x)]).to_event(1))
        kernel = alpha**2 * jnp.exp(-0.5 * ((x[:, None] - x) / rho) ** 2)
        log_rate = jnp.linalg.cholesky(kernel + 1e-4 * jnp.eye(len(x))) @ raw
        numpyro.sample("counts", dist.Poisson(jnp.exp(log_rate)).to_event(1), obs=counts)

    return Problem(model, (x, counts), "posteriordb")


def _hard(name: str) -> Callable[[], Problem]:
    def load() -> Problem:
        case = getattr(hard, name)()
        return Problem(case.model, case.args, name)

    return load


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "banana": _hard("banana"),
    "funnel": _hard("funnel"),
    "two_moons": two_moons,
    "centered_schools": _hard("centered_schools"),
    "horseshoe": horseshoe,
    "gaussian_process": gaussian_process,
}


class _Run(NamedTuple):
    """Seconds, `log p - log q` of fresh draws, steps per second, status."""

    seconds: float
    log_weights: np.ndarray
    rate: float | None = None
    status: str = ""


def _vijax(problem: Problem, guide: str, **options: Any) -> _Run:
    started = time.perf_counter()
    posterior = vijax.fit(problem.model, *problem.args, guide=guide, progress_bar=False, **options)
    seconds = (_Timed.ended or time.perf_counter()) - started
    log_weights = posterior.proposals(jax.random.key(99), _DRAWS)[0].log_weights
    return _Run(seconds, log_weights, _flow_rate(posterior), posterior.status)


def _flow_rate(posterior: vijax.Posterior) -> float | None:
    """Steps per second of a flow's descent, without the fixed cost of a solve."""
    if not isinstance(posterior.guide, Flow):
        return None

    def seconds(steps: int) -> float:
        solver = FlowDescent(num_steps=steps, max_cycles=1)
        started = time.perf_counter()
        state = (
            posterior._result.target,
            posterior.guide,
            posterior._result.variables,
            posterior._result.batch,
        )
        solver.solve(jax.random.key(1), *state)
        return time.perf_counter() - started

    seconds(_TIMED)  # compiles
    short, long = seconds(_TIMED), seconds(3 * _TIMED)
    return 2 * _TIMED / (long - short)


def _numpyro(problem: Problem, kind: type) -> _Run:
    started = time.perf_counter()
    fitted = by_numpyro.optimize(*problem[:2], kind, **_PEERS)
    seconds = time.perf_counter() - started
    log_weights = by_numpyro.log_weights(fitted, jax.random.key(99), _DRAWS)
    return _Run(seconds, log_weights, by_numpyro.steps_per_second(fitted, _TIMED))


def _flowjax(problem: Problem) -> _Run:
    started = time.perf_counter()
    fitted = by_flowjax.optimize(*problem[:2], **_PEERS)
    seconds = time.perf_counter() - started
    return _Run(seconds, by_flowjax.log_weights(fitted, jax.random.key(99), _DRAWS))


class _Timed(FlowDescent):
    """Records when it finished."""

    ended: ClassVar[float] = 0.0

    def solve(self, *args: Any) -> Solution:
        solution = super().solve(*args)
        _Timed.ended = time.perf_counter()
        return solution


_SHORT = _Timed(dense_gaussian(Pathfinder()), max_cycles=1)

METHODS: dict[str, Callable[[Problem], _Run]] = {
    "vijax auto": lambda problem: _vijax(problem, "auto"),
    "vijax flow": lambda problem: _vijax(problem, "flow"),
    "vijax flow, 1,000 steps": lambda problem: _vijax(problem, "flow", algorithm=_SHORT),
    "NumPyro AutoIAFNormal": lambda problem: _numpyro(problem, AutoIAFNormal),
    "NumPyro AutoBNAFNormal": lambda problem: _numpyro(problem, AutoBNAFNormal),
    "flowjax MAF": _flowjax,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PROBLEMS, help="one problem")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "PROBLEM"), help="one run, as JSON")
    options = parser.parse_args()
    if options.one:
        method, problem = options.one
        print(json.dumps(_one(METHODS[method], PROBLEMS[problem]())))
        return
    without = {} if importlib.util.find_spec("flowjax") else {"flowjax MAF": "not installed"}
    results: dict[str, dict[str, Any]] = {"left out": without}
    if options.only:
        results |= _report.stored("flows")
    started = time.perf_counter()
    for name in [options.only] if options.only else PROBLEMS:
        runs = results[name] = {}
        for method in METHODS:
            if method in without:
                continue
            left = _ALL_SECONDS - (time.perf_counter() - started)
            if left < _RUN_SECONDS / 4:
                runs[method] = {"ended": "no time left"}
                continue
            try:
                runs[method] = _report.in_fresh_process(
                    "bench.flows", "--one", method, name, timeout=min(left, _RUN_SECONDS)
                )
            except subprocess.TimeoutExpired:
                runs[method] = {"ended": f"after {min(left, _RUN_SECONDS):.0f} s"}
        print(f"\n{name}", flush=True)
        header = ("", "ELBO", "k-hat", "seconds", "to best peer's ELBO", "steps/s", "status")
        _report.table(header, [_row(method, run, _peak(runs)) for method, run in runs.items()])
    _report.save("flows", results)


def _peak(runs: dict[str, dict[str, Any]]) -> float:
    """The highest ELBO of the peers, minus its standard error."""
    ended = [run for method, run in runs.items() if "vijax" not in method and "elbo" in run]
    return max((run["elbo"] - run["elbo_se"] for run in ended), default=float("inf"))


def _row(method: str, run: dict[str, Any], peak: float) -> tuple[str, ...]:
    if "ended" in run:
        return (method, f"ended {run['ended']}", "", "", "", "", "")
    reached = f"at most {run['seconds']:.1f}" if run["elbo"] >= peak else "not reached"
    reached = reached if "vijax" in method else ""
    return (
        method,
        f"{run['elbo']:.3f} ± {run['elbo_se']:.2g}",
        f"{run['khat']:.2f}",
        f"{run['seconds']:.1f}",
        reached,
        "" if run["rate"] is None else f"{run['rate']:.0f}",
        run["status"],
    )


def _one(method: Callable[[Problem], _Run], problem: Problem) -> dict[str, Any]:
    """One run; the same diagnostics from fresh draws for every method."""
    jax.block_until_ready(jax.device_put(0.0))  # initializes the backend
    run = method(problem)
    elbo, elbo_se = weights.elbo(run.log_weights)
    khat = weights.importance(run.log_weights).khat
    return {
        "seconds": run.seconds,
        "elbo": elbo,
        "elbo_se": elbo_se,
        "khat": khat,
        "rate": run.rate,
        "status": run.status,
    }


if __name__ == "__main__":
    main()

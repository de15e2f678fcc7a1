"""From the call to the posterior, compilation included: vijax beside NumPyro's SVI.

Every run is a fresh process, since whatever a process has compiled before is for nothing later.
The clock starts after the imports and the loading of data (`--import` measures the import).
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bench import _problems, _report

PROBLEMS = {
    "eight schools": _problems.eight_schools,
    "logistic regression": _problems.breast_cancer,
    "varying intercepts": _problems.varying_intercepts,
}
_ELBO_DRAWS = 10_000
_BLOCK = 1000
_STEPS = 5000
_LOADED_FIRST = "import numpyro"
_IMPORT = "import time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=PROBLEMS, help="one problem")
    parser.add_argument("--import", dest="imports", action="store_true", help="import time alone")
    parser.add_argument("--profile", choices=PROBLEMS, help="where the seconds of one fit go")
    parser.add_argument("--child", nargs=2, metavar=("WHO", "PROBLEM"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        who, problem = options.child
        print(json.dumps(CONTENDERS[who](PROBLEMS[problem]())))
    elif options.imports:
        _imports()
    elif options.profile:
        _profile(PROBLEMS[options.profile]())
    else:
        _compare([options.only] if options.only else list(PROBLEMS), options.repeats)


def _compare(names: list[str], repeats: int) -> None:
    results = {}
    for name in names:
        runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for _ in range(repeats):
            for who in CONTENDERS:
                run = _report.in_fresh_process("bench.time_to_posterior", "--child", who, name)
                runs[who].append(run)
        print(f"\n{name}: {PROBLEMS[name]().source}, full-rank guides, {repeats} fresh processes")
        rows, reference = [], [run["seconds"] for run in runs["vijax"]]
        for who, each in runs.items():
            seconds = [run["seconds"] for run in each]
            drawn = [run["drawn"] for run in each]
            elbo = [f"{run['elbo']:.2f} +- {run['elbo_se']:.2g}" for run in each]
            rows.append(
                (who, _report.spread(seconds), _report.spread(drawn), elbo[0],
                 f"{each[0]['khat']:.2f}", _report.ratios(seconds, reference))
            )  # fmt: skip
        header = ("", "seconds", "with 1,000 draws", "ELBO", "k-hat", "seconds over vijax's")
        _report.table(header, rows)
        results[name] = runs
    _report.save("time_to_posterior", results)


def _vijax(problem: _problems.Problem) -> dict[str, Any]:
    import vijax

    began = time.perf_counter()
    posterior = vijax.fit(problem.model, *problem.args, guide="fullrank", progress_bar=False)
    seconds = time.perf_counter() - began
    posterior.sample(1, 1000)
    drawn = time.perf_counter() - began
    log_weights = posterior.proposals(jax.random.key(99), _ELBO_DRAWS)[0].log_weights
    return _outcome(seconds, drawn, log_weights) | {"status": posterior.status}


def _numpyro(problem: _problems.Problem) -> dict[str, Any]:
    import numpyro
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoMultivariateNormal

    began = time.perf_counter()
    guide = AutoMultivariateNormal(problem.model)
    svi = SVI(problem.model, guide, numpyro.optim.Adam(1e-2), Trace_ELBO())
    fitted = svi.run(jax.random.key(0), _STEPS, *problem.args, progress_bar=False)
    jax.block_until_ready(fitted.params)
    seconds = time.perf_counter() - began
    jax.block_until_ready(guide.sample_posterior(jax.random.key(1), fitted.params, (1000,)))
    drawn = time.perf_counter() - began

    @jax.jit
    def log_weights(keys: jax.Array) -> jax.Array:
        def one(key: jax.Array) -> jax.Array:
            return -Trace_ELBO().loss(key, fitted.params, problem.model, guide, *problem.args)

        return jax.vmap(one)(keys)

    keys = jax.random.split(jax.random.key(99), _ELBO_DRAWS).reshape(-1, _BLOCK)
    return _outcome(seconds, drawn, np.concatenate([log_weights(block) for block in keys]))


CONTENDERS: dict[str, Callable[[_problems.Problem], dict[str, Any]]] = {
    "vijax": _vijax,
    "NumPyro": _numpyro,
}


def _outcome(seconds: float, drawn: float, log_weights: np.ndarray) -> dict[str, Any]:
    """Seconds, and the same diagnostics from `log p - log q` for everybody."""
    from vijax.diagnostics import weights

    log_weights = np.asarray(log_weights, np.float64)
    elbo, elbo_se = weights.elbo(log_weights)
    return {
        "seconds": seconds,
        "drawn": drawn,
        "elbo": elbo,
        "elbo_se": elbo_se,
        "khat": weights.importance(log_weights).khat,
    }


def _imports() -> None:
    """Import time of vijax in a process that has NumPyro, and of NumPyro itself."""
    seconds: dict[str, list[float]] = {"NumPyro": [], "vijax on top": []}
    statements = {
        "NumPyro": _IMPORT.format(_LOADED_FIRST),
        "vijax on top": f"{_LOADED_FIRST}; " + _IMPORT.format("import vijax"),
    }
    for _ in range(7):
        for who, statement in statements.items():
            done = subprocess.run(
                [sys.executable, "-c", statement], capture_output=True, text=True, check=True
            )
            seconds[who].append(float(done.stdout))
    _report.table(
        ("import", "seconds"), [(who, _report.spread(one)) for who, one in seconds.items()]
    )
    _report.save("import_time", seconds)


class _Log(logging.Handler):
    """What JAX says about each program: `{program: {stage: seconds}}`."""

    line = re.compile(
        r"Finished (tracing|jaxpr to MLIR|XLA comp)\S*.*?([^\s()]+)\)?(?: for \w+)? in (\S+) sec"
    )

    def __init__(self) -> None:
        super().__init__()
        self.programs: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def emit(self, record: logging.LogRecord) -> None:
        found = self.line.match(record.getMessage())
        if found:
            stage, program, seconds = found.groups()
            self.programs[program][stage] += float(seconds)


def _profile(problem: _problems.Problem) -> None:
    """Prints every program that one fit traces and compiles, and what is left."""
    import vijax

    log = _Log()
    loggers = [logging.getLogger(f"jax._src.{name}") for name in ("dispatch", "interpreters.pxla")]
    for logger in loggers:
        logger.addHandler(log)
        logger.propagate = False
    jax.config.update("jax_log_compiles", True)
    began = time.perf_counter()
    vijax.fit(problem.model, *problem.args, guide="fullrank", progress_bar=False)
    seconds = time.perf_counter() - began
    jax.config.update("jax_log_compiles", False)

    stages = ("tracing", "jaxpr to MLIR", "XLA comp")
    rows = [
        (program, *(f"{times[stage]:.3f}" for stage in stages))
        for program, times in log.programs.items()
    ]
    sums = [sum(times[stage] for times in log.programs.values()) for stage in stages]
    rows.append(("all programs", *(f"{one:.3f}" for one in sums)))
    _report.table(("program", "trace", "lower", "compile"), rows)
    print(f"\none fit: {seconds:.2f} s, of which {seconds - sum(sums):.2f} s outside of these")


if __name__ == "__main__":
    main()

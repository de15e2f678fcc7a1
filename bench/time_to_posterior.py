"""Seconds from the call to the posterior, compilation included, every run in a fresh process.

`python -m bench.time_to_posterior` compares `vijax.fit(guide="fullrank")` with NumPyro's
`AutoMultivariateNormal`, Adam 1e-2, 5,000 steps, and estimates both ELBOs from 20,000 draws.
`--import` measures what importing vijax adds to importing numpyro.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np

from bench import _report

PROBLEMS = ("eight_schools", "breast_cancer", "varying_intercepts")
METHODS = ("vijax", "vijax gradient", "numpyro")
_ELBO_DRAWS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds from the call to the posterior.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--import", action="store_true", dest="imports", help="import time only")
    parser.add_argument("--only", choices=PROBLEMS)
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "PROBLEM"), help="one run, as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_one(*options.one)))
    elif options.imports:
        _imports(options.repeats)
    else:
        _compare(options.repeats, [options.only] if options.only else list(PROBLEMS))


def _compare(repeats: int, problems: list[str]) -> None:
    results: dict[str, Any] = {}
    for problem in problems:
        runs: dict[str, list[dict[str, Any]]] = {method: [] for method in METHODS}

        def contender(method: str, problem: str = problem, runs: Any = runs) -> None:
            module = "bench.time_to_posterior"
            runs[method].append(_report.in_fresh_process(module, "--one", method, problem))

        for repeat in range(repeats):
            for method in METHODS[:: 1 if repeat % 2 == 0 else -1]:
                contender(method)
        numpyro = [run["seconds"] for run in runs["numpyro"]]
        results[problem] = {
            method: {
                "seconds": _report.spread([run["seconds"] for run in of]),
                "speed": _report.ratios(numpyro, [run["seconds"] for run in of]),
                "elbo": of[0]["elbo"],
                "elbo_se": of[0]["elbo_se"],
            }
            for method, of in runs.items()
        }
        print(f"\n{problem}, {repeats} fresh processes each")
        rows = [
            (who, r["seconds"], r["speed"], f"{r['elbo']:.3f} +- {r['elbo_se']:.3f}")
            for who, r in results[problem].items()
        ]
        _report.table(("", "seconds", "times faster than NumPyro", "ELBO"), rows)
    _report.save("time_to_posterior", results)


def _one(method: str, problem: str) -> dict[str, Any]:
    import jax

    from bench import _problems

    model, args, _ = getattr(_problems, problem)()
    jax.numpy.zeros(()).block_until_ready()  # the backend is up, whoever comes first
    began = time.perf_counter()
    if method == "numpyro":
        log_weights, seconds = _numpyro(model, args, began)
    else:
        log_weights, seconds = _vijax(model, args, method, began)
    return {
        "seconds": seconds,
        "elbo": float(np.mean(log_weights)),
        "elbo_se": float(np.std(log_weights) / np.sqrt(len(log_weights))),
    }


def _vijax(model: Any, args: Any, method: str, began: float) -> tuple[np.ndarray, float]:
    import jax

    import vijax

    algorithm = "gradient" if method.endswith("gradient") else "auto"
    posterior = vijax.fit(model, *args, guide="fullrank", algorithm=algorithm, progress_bar=False)
    seconds = time.perf_counter() - began
    draws, _ = posterior.proposals(jax.random.key(1), _ELBO_DRAWS)
    return draws.log_weights, seconds


def _numpyro(model: Any, args: Any, began: float) -> tuple[np.ndarray, float]:
    import jax
    import numpyro
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoMultivariateNormal

    guide = AutoMultivariateNormal(model)
    svi = SVI(model, guide, numpyro.optim.Adam(1e-2), Trace_ELBO())
    found = svi.run(jax.random.key(0), 5_000, *args, progress_bar=False)
    jax.block_until_ready(found.params)
    seconds = time.perf_counter() - began

    def one(key: jax.Array) -> jax.Array:
        return -Trace_ELBO().loss(key, found.params, model, guide, *args)

    keys = jax.random.split(jax.random.key(1), _ELBO_DRAWS)
    return np.asarray(jax.jit(lambda k: jax.lax.map(one, k, batch_size=500))(keys)), seconds


def _imports(repeats: int) -> None:
    program = "import time; a=time.perf_counter(); import numpyro; b=time.perf_counter(); "
    program += "import vijax; c=time.perf_counter(); import json; print(json.dumps([b-a, c-b]))"
    times = [_report.in_fresh_process("bench._run", program) for _ in range(repeats)]
    results = {
        "numpyro": _report.spread([one[0] for one in times]),
        "vijax on top": _report.spread([one[1] for one in times]),
    }
    _report.table(("import", "seconds"), list(results.items()))
    _report.save("import", results)


if __name__ == "__main__":
    main()

"""The models of NumPyro's examples: fitted or refused with the reason, means against NUTS.

The models are written anew, on simulated data of the same shapes. Each runs in a fresh process: the
default fit (or the guide that the example is about), and NumPyro's NUTS on the same model, with
discrete sites marginalized by hand. A status of `certified` or `corrected` is FALSE if a mean is
off by more than 0.3 sds beyond the Monte Carlo error of NUTS.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from typing import Any

import jax
import numpy as np
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS, init_to_median

import vijax
from bench import _report
from bench.examples import EXAMPLES
from bench.examples.case import Example
from bench.posteriors.score import TOLERANCE

_RHAT = 1.05  # above it the chains of NUTS disagree, and are no reference
_CHAINS = {"num_warmup": 400, "num_samples": 600, "num_chains": 2}
_HEADER = ("example", "status", "seconds", "largest error of a mean (sds)", "NUTS", "verdict")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", nargs="+", metavar="NAME", help="names, or parts of names")
    parser.add_argument("--limit", type=float, default=15.0, help="seconds of a fit (max_seconds)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds of fit and NUTS")
    parser.add_argument("--one", metavar="NAME", help="one example in this process, as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_one(EXAMPLES[options.one](), options.limit)))
        return
    parts = options.examples
    names = [name for name in EXAMPLES if parts is None or any(part in name for part in parts)]
    results = {name: _run(name, options.limit, options.timeout) for name in names}
    _report.table(_HEADER, [_row(name, found) for name, found in results.items()])
    false = [name for name, found in results.items() if found.get("false")]
    refused = [name for name, found in results.items() if found["status"] == "refused"]
    print(f"\n{len(results)} examples, {len(false)} FALSE, {len(refused)} refused")
    if parts is None:
        _report.save("numpyro_examples", results)


def _run(name: str, limit: float, timeout: float) -> dict[str, Any]:
    args = ("--one", name, "--limit", str(limit))
    try:
        found = _report.in_fresh_process("bench.numpyro_examples", *args, timeout=timeout)
    except subprocess.TimeoutExpired as error:  # what was printed before: the fit without NUTS
        lines = (error.stdout or b"").decode().splitlines()
        none = {"status": "none", "reason": f"the fit did not end in {timeout:.0f} s"}
        found = json.loads(lines[-1]) if lines else none
    except RuntimeError as error:
        found = {"status": "error", "reason": str(error).splitlines()[-1]}
    print("  ".join(_row(name, found)), flush=True)
    return found


def _one(example: Example, limit: float) -> dict[str, Any]:
    jax.block_until_ready(jax.device_put(0.0))
    start = time.perf_counter()
    try:
        posterior = vijax.fit(
            example.model, *example.args, max_seconds=limit, progress_bar=False, **example.options
        )
    except vijax.VijaxError as error:
        return {"status": "refused", "reason": str(error)}
    found: dict[str, Any] = {
        "status": posterior.status,
        "guide": repr(posterior.guide),
        "elbo": posterior.elbo,
        "khat": posterior.khat,
        "reason": "; ".join(_reasons(posterior)),
        "seconds": time.perf_counter() - start,
    }
    print(json.dumps(found), flush=True)
    if example.nuts is None:
        return found
    draws = posterior.sample(4000)
    model = example.model if example.nuts == "same" else example.nuts
    return found | _compared(example, draws, _by_nuts(model, example.args), posterior.status)


def _reasons(posterior: vijax.Posterior) -> list[str]:
    """What the report says about the status."""
    lines = posterior.report().splitlines()
    return [line.removeprefix("- ") for line in lines if line.startswith("- ")]


def _by_nuts(model: Any, args: tuple[Any, ...]) -> dict[str, np.ndarray]:
    """Draws `(chains, draws, *shape)` by site."""
    kernel = NUTS(model, init_strategy=init_to_median(num_samples=10))
    mcmc = MCMC(kernel, chain_method="sequential", progress_bar=False, **_CHAINS)
    mcmc.run(jax.random.key(0), *args)
    return {n: np.asarray(x, np.float64) for n, x in mcmc.get_samples(True).items()}


def _compared(
    example: Example, draws: dict[str, Any], reference: dict[str, np.ndarray], status: str
) -> dict[str, Any]:
    worst, where, rhats, excess = 0.0, "", [1.0], 0.0
    for name, right in reference.items():
        found = np.asarray(draws.get(name, np.zeros(0)), np.float64)
        skipped = example.compared is not None and name not in example.compared
        if skipped or found.shape[1:] != right.shape[2:] or not found.size:
            continue
        sd = right.std((0, 1))
        free = sd > 1e-9  # a corner of a Cholesky factor is fixed
        error = np.where(
            free, np.abs(found.mean(0) - right.mean((0, 1))) / np.where(free, sd, 1), 0
        )
        noise = 4 / np.sqrt(np.where(free, effective_sample_size(right), np.inf))
        rhats.append(float(np.max(np.where(free, split_gelman_rubin(right), 1.0))))
        excess = max(excess, float(np.max(error - noise)))
        if np.max(error) > worst or not where:
            worst, where = float(np.max(error)), name
    usable = max(rhats) < _RHAT
    trusted = status in ("certified", "corrected")
    return {
        "error": worst,
        "site": where,
        "rhat": max(rhats),
        "false": bool(trusted and usable and excess > TOLERANCE),
    }


def _row(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    seconds = f"{found['seconds']:.1f}" if "seconds" in found else ""
    error = f"{found['error']:.2f} ({found['site']})" if "error" in found else ""
    nuts = "" if "rhat" not in found else f"R-hat {found['rhat']:.2f}"
    trusted = found["status"] in ("certified", "corrected")
    if found.get("false"):
        verdict = "FALSE"
    elif trusted:
        verdict = "" if "error" not in found or found["rhat"] < _RHAT else "NUTS did not mix"
    else:
        verdict = found["reason"][:160]
    return name, found["status"], seconds, error, nuts, verdict


if __name__ == "__main__":
    main()

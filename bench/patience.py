"""Does Ctrl-C return an answer within two seconds, at any moment, and is `max_seconds` kept?

Every fit runs in a fresh process, so that it compiles, and gets a real SIGINT. Moments are random,
uniform over the time of an uninterrupted fit of the same kind.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import _report

LIMITS = (0.5, 2.0, 10.0)
_TRUSTED = ("certified", "corrected")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=20, help="number of interrupted fits")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", choices=KINDS, help="one fit, as JSON")
    parser.add_argument("--max-seconds", type=float)
    options = parser.parse_args()
    if options.one:
        one(options.one, options.max_seconds)
        return
    whole = {kind: Run(kind).finish() for kind in options.kinds}
    rows = [(kind, f"{found['seconds']:.1f}", found["status"]) for kind, found in whole.items()]
    _report.table(("kind", "seconds", "status"), rows)
    print()
    results: dict[str, Any] = {"whole": whole}
    results["interrupted"] = interrupts(whole, options.moments, random.Random(options.seed))
    stopped = results["second"] = twice(options.kinds[0])
    print(f"\nsecond Ctrl-C: {stopped['ended']} after {stopped['seconds']:.2f} s\n")
    results["limited"] = limits(options.kinds)
    if options.kinds == list(KINDS):
        _report.save("patience", results)


def interrupts(
    whole: dict[str, dict[str, Any]], moments: int, rng: random.Random
) -> list[dict[str, Any]]:
    """Fits that are interrupted: seconds from the signal to the answer, and its status."""
    found = []
    for i in range(moments):
        kind = list(whole)[i % len(whole)]
        after = rng.uniform(0.05, whole[kind]["seconds"])
        run = Run(kind)
        sent = run.interrupt(after)
        result = run.finish()
        entry = {"kind": kind, "after": after, **result}
        if result.get("warned"):
            entry["seconds"] = result["returned"] - sent
        else:  # it was over before
            entry["seconds"] = 0.0
        found.append(entry)
    rows = [
        (
            one["kind"],
            f"{one['after']:.1f}",
            f"{one['seconds']:.2f}",
            one["status"] if one.get("warned") else f"{one['status']} (not interrupted)",
            one["reason"][:60],
        )
        for one in found
    ]
    _report.table(("kind", "after s", "answer s", "status", "reason"), rows)
    seconds = [one["seconds"] for one in found]
    false = [one for one in found if one.get("warned") and one["status"] in _TRUSTED]
    print(f"largest {max(seconds):.2f} s; trusted though interrupted: {len(false)}")
    return found


def twice(kind: str) -> dict[str, Any]:
    """A fit that is interrupted twice: how it ended, and seconds from the second signal."""
    run = Run(kind)
    run.interrupt(1.0)
    sent = run.interrupt(0.2)
    result = run.finish()
    return {"ended": result["status"], "seconds": result["returned"] - sent}


def limits(kinds: list[str]) -> list[dict[str, Any]]:
    """Fits with `max_seconds`: seconds beyond it, and those of the longest compilation."""
    found = [
        {"kind": kind, "limit": limit, **Run(kind, limit).finish()}
        for kind in kinds
        for limit in LIMITS
    ]
    rows = [
        (
            one["kind"],
            f"{one['limit']:g}",
            f"{one['seconds']:.1f}",
            f"{max(0.0, one['seconds'] - one['limit']):.1f}",
            f"{one['compiling']:.1f}",
            one["status"],
            one["reason"][-60:],
        )
        for one in found
    ]
    header = ("kind", "max_seconds", "seconds", "beyond", "longest compilation", "status", "reason")
    _report.table(header, rows)
    return found


class Run:
    """A fit in a process of its own, from the moment that it begins."""

    def __init__(self, kind: str, max_seconds: float | None = None) -> None:
        command = [sys.executable, "-m", "bench.patience", "--one", kind]
        command += [] if max_seconds is None else ["--max-seconds", str(max_seconds)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def interrupt(self, after: float) -> float:
        """Sends SIGINT; returns the time at which it was sent."""
        time.sleep(after)
        sent = time.time()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return sent

    def finish(self) -> dict[str, Any]:
        """What the fit reports."""
        assert self.process.stdout is not None
        lines = self.process.stdout.read().splitlines()
        self.process.wait()
        if not lines:
            raise RuntimeError(f"{self.process.args} ended with {self.process.returncode}")
        return dict(json.loads(lines[-1]))


def one(kind: str, max_seconds: float | None) -> None:
    """Runs a fit and prints what became of it."""
    import warnings

    import jax

    # a process in the background ignores SIGINT
    signal.signal(signal.SIGINT, signal.default_int_handler)
    compilations: dict[str, float] = {"compiling": 0.0}

    def listen(event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compilations["compiling"] = max(compilations["compiling"], seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    fit = KINDS[kind]()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        print("begins", flush=True)
        start = time.time()
        try:
            posterior = fit(max_seconds=max_seconds)
            result = {"status": posterior.status, "reason": posterior.stop_reason}
        except KeyboardInterrupt as error:
            notes = getattr(error, "__notes__", [])
            result = {"status": "KeyboardInterrupt", "reason": " ".join(map(str, notes))}
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    returned = time.time()
    warned = any("interrupted by Ctrl-C" in str(one.message) for one in caught)
    fields = {**result, **compilations, "warned": warned or "KeyboardInterrupt" in result["status"]}
    print(json.dumps({**fields, "seconds": returned - start, "returned": returned}), flush=True)


def _hierarchy(**options: Any) -> Callable[..., Any]:
    import numpyro
    import numpyro.distributions as dist

    import vijax

    rng = np.random.default_rng(0)
    x, group = rng.normal(size=(300, 4)).astype(np.float32), rng.integers(0, 8, 300)
    y = (x @ np.array([1, -1, 0.5, 0]) + rng.normal(size=300)).astype(np.float32)

    def model(x: Any, y: Any, group: Any) -> None:
        slope = numpyro.sample("slope", dist.Normal(0, 1).expand([4]).to_event(1))
        tau, sigma = (numpyro.sample(name, dist.HalfNormal(1.0)) for name in ("tau", "sigma"))
        with numpyro.plate("groups", 8):
            effect = numpyro.sample("effect", dist.Normal(0, tau))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(x @ slope + effect[group], sigma), obs=y)

    return lambda **more: vijax.fit(model, x, y, group, **options, **more)


def _rows(**options: Any) -> Callable[..., Any]:
    import numpyro
    import numpyro.distributions as dist

    import vijax

    rng = np.random.default_rng(0)
    x = rng.normal(size=(200_000, 10)).astype(np.float32)
    y = (rng.random(200_000) < 1 / (1 + np.exp(-x @ np.linspace(-1, 1, 10)))).astype(np.int32)

    def model(x: Any, y: Any) -> None:
        slope = numpyro.sample("slope", dist.Normal(0, 1).expand([10]).to_event(1))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Bernoulli(logits=x @ slope), obs=y)

    return lambda **more: vijax.fit(model, x, y, **options, **more)


def _mixture() -> Callable[..., Any]:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    import vijax

    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(-2, 1, 150), rng.normal(2, 0.5, 150)]).astype(np.float32)

    def model(y: Any) -> None:
        share = numpyro.sample("share", dist.Beta(2, 2))
        mean = numpyro.sample("mean", dist.Normal(0, 3).expand([2]).to_event(1))
        sd = numpyro.sample("sd", dist.HalfNormal(2).expand([2]).to_event(1))
        with numpyro.plate("rows", len(y)):
            k = numpyro.sample("k", dist.Bernoulli(share), infer={"enumerate": "parallel"})
            numpyro.sample("y", dist.Normal(jnp.take(mean, k), jnp.take(sd, k)), obs=y)

    return lambda **more: vijax.fit(model, y, **more)


KINDS: dict[str, Callable[[], Callable[..., Any]]] = {
    "auto": _hierarchy,
    "minibatches": lambda: _rows(batch_size=1000),
    "flow": lambda: _hierarchy(guide="flow"),
    "enumerated mixture": _mixture,
    "gradient steps": lambda: _rows(batch_size=1000, num_steps=8000),
    "direct solver": lambda: _hierarchy(guide="lowrank"),
}


if __name__ == "__main__":
    main()

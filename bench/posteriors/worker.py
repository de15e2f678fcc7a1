"""Runs one method on one posterior and prints the result as JSON.

    python -m bench.posteriors.worker METHOD POSTERIOR [--data DIR] [--device cpu|gpu] [--seed N]

The clock starts after imports, loading of the data and initialization of the device, and stops when
the draws are on the host. `--warm S` repeats the run in the same process, with another seed, unless
the first took more than `S` seconds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from pathlib import Path
from typing import Any

from bench.peers.methods import METHODS

_STARTED = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("posterior")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--device", choices=("cpu", "gpu"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm", type=float, default=0.0, metavar="S")
    options = parser.parse_args()
    print(json.dumps(one(**vars(options))))


def one(
    method: str, posterior: str, data: Path | None, device: str | None, seed: int, warm: float
) -> dict[str, Any]:
    """Seconds of every part, the diagnostics of the method, and its errors."""
    use(device)
    module, name = METHODS[method]
    run = importlib.import_module(module).run
    imported = time.perf_counter() - _STARTED

    import jax

    from bench.posteriors import everyday, hard, load, score
    from bench.posteriors.answer import Skipped
    from bench.posteriors.clock import Clock

    if posterior in load.MODELS:
        case = load.load(posterior, data or load.DATA)
    else:
        case = (hard.CASES | everyday.CASES)[posterior]()._replace(name=posterior)
    jax.block_until_ready(jax.device_put(0.0))
    clock = Clock()
    try:
        answer = run(case, name, seed)
    except Skipped as reason:
        return {"skipped": str(reason)}
    times = clock.read()
    if times["seconds"] < warm:
        again = Clock()
        run(case, name, seed + 1)
        times["warm"] = again.read()["seconds"]
    errors = score.score(answer.draws, case.reference, case.robust)
    reported = {"d": answer.dim, "status": answer.status, "khat": answer.khat}
    where = {"device": str(jax.devices()[0]) if device is None else device}
    return {"import": imported, **times, **reported, **errors._asdict(), **where}


def use(device: str | None) -> None:
    """Selects the device that JAX runs on; `None` leaves the choice to JAX.

    Raises:
        RuntimeError: there is no such device.
    """
    import jax

    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    elif device == "gpu":
        jax.config.update("jax_default_device", jax.devices("gpu")[0])


if __name__ == "__main__":
    main()

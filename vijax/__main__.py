"""`python -m vijax`: versions, devices, compiled programs on disk, a fit whose answer is known.

The exit status is 0 if the fit is right, and 1 if it is not.
"""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import vijax
from vijax.runtime.compilation_cache import describe

_PACKAGES = ("jax", "jaxlib", "numpyro", "flax", "optax", "numpy", "scipy", "arviz-base")
_NUM_ROWS = 40


class Answer(NamedTuple):
    """Posterior of a linear regression: mean `(2,)`, sd `(2,)`, and log evidence in nats."""

    mean: np.ndarray
    sd: np.ndarray
    log_evidence: float


def main() -> int:
    """Prints what is installed and whether it works; returns the exit status."""
    print(f"vijax {vijax.__version__}, Python {platform.python_version()}, {platform.platform()}")
    print(", ".join(f"{name} {_version(name)}" for name in _PACKAGES))
    print(f"devices: {', '.join(map(str, jax.devices()))}")
    print(f"precision: {jnp.result_type(float)}")
    x, y = _data()
    model = vijax.from_log_density(_log_density, {"beta": (2,)})
    posterior = vijax.fit(model, x, y, progress_bar=False)
    complaints = _complaints(_fitted(posterior), _exact(x, y))
    if posterior.status != "certified":
        complaints.append(f"status {posterior.status}, expected certified")
    print(f"compiled programs: {describe()}")
    print(f"self-check, a regression with a known answer, in {posterior.seconds:.2f} s: ", end="")
    print("FAIL" if complaints else "pass")
    for complaint in complaints:
        print(f"- {complaint}")
    return 1 if complaints else 0


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def _data() -> tuple[np.ndarray, np.ndarray]:
    """Inputs `(rows, 2)` with correlated columns, and outputs `(rows,)`."""
    t = np.linspace(0.0, 1.0, _NUM_ROWS)
    x = np.stack([np.ones(_NUM_ROWS), t], axis=1)
    return x.astype(np.float32), (0.5 + 2.0 * t + np.sin(40 * t)).astype(np.float32)


def _log_density(values: dict[str, Array], x: Array, y: Array) -> Array:
    """Standard normal coefficients, unit noise; every constant included, for the evidence."""
    beta = values["beta"]
    squares = jnp.sum(beta**2) + jnp.sum((y - x @ beta) ** 2)
    return -0.5 * (squares + (beta.size + y.size) * jnp.log(2 * jnp.pi))


def _exact(x: np.ndarray, y: np.ndarray) -> Answer:
    """In closed form: the posterior precision is `I + x'x`, the data are `N(0, I + xx')`."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    covariance = np.linalg.inv(np.eye(2) + x.T @ x)
    of_data = np.eye(len(y)) + x @ x.T
    log_det = np.linalg.slogdet(of_data)[1]
    quadratic = y @ np.linalg.solve(of_data, y)
    log_evidence = -0.5 * (quadratic + log_det + len(y) * np.log(2 * np.pi))
    return Answer(covariance @ (x.T @ y), np.sqrt(np.diag(covariance)), float(log_evidence))


def _fitted(posterior: vijax.Posterior) -> Answer:
    sd = np.sqrt(np.diag(posterior.covariance()))
    return Answer(posterior.median()["beta"], sd, posterior.importance().log_evidence)


def _complaints(found: Answer, exact: Answer) -> list[str]:
    """What is further off than 500 medians (0.06 sd each) and float32 explain."""
    return [
        f"{name}: {shown}, expected {wanted}"
        for name, shown, wanted, tolerance in (
            ("mean", found.mean, exact.mean, 0.25 * exact.sd),
            ("sd", found.sd, exact.sd, 0.02 * exact.sd),
            ("log evidence", found.log_evidence, exact.log_evidence, 0.01),
        )
        if not np.all(np.abs(np.subtract(shown, wanted)) <= tolerance)
    ]


if __name__ == "__main__":
    sys.exit(main())

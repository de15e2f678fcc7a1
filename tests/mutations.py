"""Faults put into the library one at a time: does a default test notice each?

    python -m tests.mutations           # all of them, some minutes
    python -m tests.mutations jacobian  # one

Each is a line of core code as it is, as it would be wrong, and the tests that have to fail.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Fault(NamedTuple):
    """One wrong line.

    Attributes:
        file: in vijax/.
        right: text that occurs there once.
        wrong: what takes its place.
        tests: in tests/, where a failure is expected.
    """

    file: str
    right: str
    wrong: str
    tests: str


FAULTS = {
    "dropped Jacobian": Fault(
        "model/tracing/log_densities.py",
        "return total + jnp.sum(stack(jacobians)) if jacobians else total",
        "return total",
        "model/test_laws.py",
    ),
    "Jacobian of a minibatch not scaled": Fault(
        "model/tracing/log_densities.py",
        "log_det if scale == 1 else scale * log_det",
        "log_det",
        "model/test_laws.py model/test_build.py model/minibatch",
    ),
    "minibatch scaled the wrong way": Fault(
        "model/tracing/handler.py",
        "self.sources.scales[name] = full_size / used",
        "self.sources.scales[name] = used / full_size",
        "model/minibatch fitting/test_minibatch.py",
    ),
    "Jacobian of a centering dropped": Fault(
        "model/tracing/location_scale.py",
        "return z, jnp.sum(jnp.broadcast_to(log_scale, jnp.shape(w)))",
        "return z, jnp.zeros(())",
        "model/tracing",
    ),
    "maximum instead of a sum over states": Fault(
        "model/discrete/factors.py",
        "return Factor(rest, logsumexp(factor.log, axis=axis))",
        "return Factor(rest, jnp.max(factor.log, axis=axis))",
        "model/discrete",
    ),
    "backward message left out of a draw": Fault(
        "model/discrete/forward_backward.py",
        "jax.random.categorical(key, row + after, axis=0)",
        "jax.random.categorical(key, row, axis=0)",
        "model/discrete",
    ),
    "the same key for every predictive draw": Fault(
        "model/predictive.py",
        "key = numbered_key(key, number)",
        "key = numbered_key(key, 0)",
        "model/test_predictive.py",
    ),
    "sign of a normal log density": Fault(
        "guides/location_scale/gaussian_density.py",
        "return -0.5 * jnp.sum(noise**2) - jnp.sum(log_scale)",
        "return -0.5 * jnp.sum(noise**2) + jnp.sum(log_scale)",
        "guides/test_laws.py",
    ),
    "entropy without its constant": Fault(
        "guides/location_scale/gaussian_density.py",
        "return jnp.sum(log_scale) + 0.5 * log_scale.size * (1 + LOG_2PI)",
        "return jnp.sum(log_scale) + 0.5 * log_scale.size * LOG_2PI",
        "guides/test_laws.py",
    ),
    "sign of a spline's inverse log determinant": Fault(
        "guides/flow/spline.py",
        "jnp.where(within, -log_slope, 0.0)",
        "jnp.where(within, log_slope, 0.0)",
        "guides/flow",
    ),
    "importance-weighted bound not averaged": Fault(
        "objectives/estimators/power_mean.py",
        "return jax.nn.logsumexp(log_values, axis=0) - jnp.log(len(log_values))",
        "return jax.nn.logsumexp(log_values, axis=0)",
        "objectives/test_multi_particle.py",
    ),
    "doubly reparameterized gradient with plain weights": Fault(
        "objectives/estimators/power_mean.py",
        "gradient_scale = 1 - power + power * weight",
        "gradient_scale = jnp.ones_like(weight)",
        "objectives",
    ),
    "a step's key counted from the piece, not from the fit": Fault(
        "engine/loop.py",
        "step_key = jax.random.fold_in(key, t)",
        "step_key = jax.random.fold_in(key, t - start)",
        "engine posterior/test_files.py",
    ),
    "the same permutation in every epoch": Fault(
        "engine/row_schedule.py",
        "seed, run = (*self.seed, epoch), self.run",
        "seed, run = (*self.seed, 0), self.run",
        "engine",
    ),
    "blocks of rows not weighted": Fault(
        "contracts/rows.py",
        "yield Block(self._padded(rows, fetched), length / size, len(rows))",
        "yield Block(self._padded(rows, fetched), 1.0, len(rows))",
        "engine contracts",
    ),
    "proposal and target swapped in the weights": Fault(
        "diagnostics/importance.py",
        "log_w = self.log_p.astype(np.float64) - self.log_q",
        "log_w = self.log_q.astype(np.float64) - self.log_p",
        "diagnostics posterior/test_posterior.py",
    ),
    "Pareto quantiles of the wrong sign": Fault(
        "diagnostics/psis.py",
        "return scale * np.expm1(-shape * np.log1p(-levels)) / shape",
        "return -scale * np.expm1(-shape * np.log1p(-levels)) / shape",
        "diagnostics/test_psis.py",
    ),
    "HMC without the momenta in its acceptance": Fault(
        "diagnostics/short_chains.py",
        "log_ratio = (value - log_density) - 0.5 * (np.sum(speed**2, 1) - np.sum(momentum**2, 1))",
        "log_ratio = value - log_density",
        "diagnostics/test_short_chains.py",
    ),
    "batch and match forgets its old mean": Fault(
        "solvers/batch_and_match/dense_update.py",
        "mean = current.mean + current.factor @ (weight * (product + center))",
        "mean = current.mean + current.factor @ (weight * (product - center))",
        "solvers/batch_and_match",
    ),
    "linear response without the curvature's sign": Fault(
        "solvers/mean_field/linear_response.py",
        "return None if inverse is None else np.outer(self.sd, self.sd) * inverse[:half, :half]",
        "return None if inverse is None else np.outer(self.sd, self.sd) * inverse[half:, half:]",
        "solvers/mean_field",
    ),
    "resampling by log weights": Fault(
        "posterior/draws.py",
        "np.cumsum(np.exp(log_weights))",
        "np.cumsum(np.exp(2 * log_weights))",
        "posterior",
    ),
    "density of constrained values without its Jacobian": Fault(
        "posterior/draws.py",
        "return log_q - sum(log_dets.values(), jnp.zeros(()))",
        "return log_q",
        "posterior/test_posterior.py",
    ),
    "certified whatever the chains find": Fault(
        "diagnostics/status.py",
        'return "differ", reasons',
        'return "agree", reasons',
        "diagnostics/test_status.py",
    ),
    "per-row parameters written to other rows": Fault(
        "engine/row_parameters.py",
        "key: block.at[index[_plate(key)]].set(",
        "key: block.at[index[_plate(key)] - 1].set(",
        "fitting/test_minibatch.py engine",
    ),
}


def caught(fault: Fault) -> bool:
    """Whether a test fails where the fault is."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "vijax"
        skipped = shutil.ignore_patterns(".git", ".venv", "_build", "__pycache__", "results")
        shutil.copytree(ROOT, copy, ignore=skipped)
        path = copy / "vijax" / fault.file
        text = path.read_text(encoding="utf-8")
        if text.count(fault.right) != 1:
            raise ValueError(f"{fault.file}: expected once {fault.right!r}")
        path.write_text(text.replace(fault.right, fault.wrong), encoding="utf-8")
        tests = [f"tests/{one}" for one in fault.tests.split()]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        return subprocess.run(command, cwd=copy, capture_output=True).returncode == 1


def main(*wanted: str) -> int:
    """Runs the faults whose names contain one of the words; all by default."""
    missed = 0
    for name, fault in FAULTS.items():
        if wanted and not any(word in name for word in wanted):
            continue
        began = time.perf_counter()
        found = caught(fault)
        missed += not found
        print(f"{'caught' if found else 'MISSED':7} {time.perf_counter() - began:5.0f} s  {name}")
    return missed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

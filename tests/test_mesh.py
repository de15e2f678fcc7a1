"""Rows on eight devices, of one process or of two: the answers of one device, but for rounding."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vijax

PROGRAM = """
import os, sys
import jax, numpy as np, numpyro, numpyro.distributions as dist
import vijax

processes, rank, port, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
if processes > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", processes, rank)


def model(x, y):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


rng = np.random.default_rng(0)
x = rng.normal(size=(4000, 3)).astype(np.float32)
y = (x @ np.array([1.0, -0.5, 0.2]) + rng.normal(size=4000)).astype(np.float32)
mesh = jax.make_mesh((8,), ("rows",))
for options in (
    {"guide": "fullrank"},
    {"guide": "meanfield", "algorithm": "gradient", "num_steps": 200, "checkpoint": path},
    {"guide": "fullrank", "batch_size": 80, "num_steps": 200},
):
    checkpoint = options.pop("checkpoint", None)
    one = vijax.fit(model, x, y, progress_bar=False, **options)
    all8 = vijax.fit(model, x, y, mesh=mesh, checkpoint=checkpoint, progress_bar=False, **options)
    assert len(all8.batch.data["x"].sharding.device_set) == 8
    shards = all8.batch.data["x"].addressable_shards
    assert [shard.data.shape for shard in shards] == [(500, 3)] * (8 // processes)
    a, b = (jax.tree.leaves(jax.device_get(fit.params)) for fit in (one, all8))
    difference = max(np.abs(p - q).max() for p, q in zip(a, b))
    assert difference < 2e-3, difference  # of log scales; locations are 0.016 sd wide
    a, b = (fit.sample(0, 2000, corrected=False)["w"] for fit in (one, all8))
    np.testing.assert_allclose(a, b, atol=1e-3)
    if checkpoint is not None:
        again = vijax.fit(
            model, x, y, mesh=mesh, checkpoint=checkpoint, progress_bar=False, **options
        )
        same = zip(*(jax.tree.leaves(jax.device_get(f.run.loop)) for f in (again, all8)))
        assert all(np.array_equal(p, q) for p, q in same)
if processes > 1:
    try:
        vijax.fit(model, x, y, mesh=mesh, max_seconds=1.0)
    except ValueError as error:
        assert "2 processes with clocks of their own" in str(error)
    else:
        raise AssertionError
print("the same")
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_rows_on_eight_devices_give_the_answers_of_one(processes, tmp_path):
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = str(found.getsockname()[1])
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // processes}",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(processes), str(rank), port, str(tmp_path / "fit")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        for process in running:
            out, errors = process.communicate(timeout=300)
            assert out.strip().endswith("the same"), errors[-3000:]
    finally:
        for process in running:
            process.kill()
            process.communicate()


def test_what_is_no_mesh_or_cannot_be_spread_is_refused():
    import jax
    import numpyro
    import numpyro.distributions as dist

    def model(y):
        mu = numpyro.sample("mu", dist.Normal())
        numpyro.sample("y", dist.Normal(mu, 1.0).expand([3]).to_event(1), obs=y)

    with pytest.raises(TypeError, match=r"mesh: expected a jax\.sharding\.Mesh"):
        vijax.fit(model, np.ones(3), mesh=8)
    with pytest.raises(vijax.ModelError, match="mesh: expected an array with a row"):
        vijax.fit(model, np.ones(3), mesh=jax.make_mesh((1,), ("rows",)))

"""Rows on eight devices: the answers of one device, but for rounding."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vijax

PROGRAM = """
import jax, numpy as np, numpyro, numpyro.distributions as dist
import vijax


def model(x, y):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


rng = np.random.default_rng(0)
x = rng.normal(size=(4000, 3)).astype(np.float32)
y = (x @ np.array([1.0, -0.5, 0.2]) + rng.normal(size=4000)).astype(np.float32)
mesh = jax.make_mesh((8,), ("rows",))
assert len(jax.devices()) == 8
for options in (
    {"guide": "fullrank"},
    {"guide": "meanfield", "algorithm": "gradient", "num_steps": 200},
    {"guide": "fullrank", "batch_size": 80, "num_steps": 200},
):
    one, all8 = (vijax.fit(model, x, y, mesh=m, **options) for m in (None, mesh))
    assert len(all8.batch.data["x"].devices()) == 8
    shards = all8.batch.data["x"].addressable_shards
    assert {shard.data.shape for shard in shards} == {(500, 3)}
    a, b = (jax.tree.leaves(jax.device_get(fit.params)) for fit in (one, all8))
    difference = max(np.abs(p - q).max() for p, q in zip(a, b))
    assert difference < 2e-3, difference  # of log scales; locations are 0.016 sd wide
    a, b = (fit.sample(0, 2000, corrected=False)["w"] for fit in (one, all8))
    np.testing.assert_allclose(a, b, atol=1e-3)
print("the same")
"""


@pytest.mark.slow
def test_rows_on_eight_devices_give_the_answers_of_one():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | flags | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.strip() == "the same", done.stderr[-3000:]


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

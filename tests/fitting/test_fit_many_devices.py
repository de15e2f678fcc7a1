"""Many data sets on several devices: the answers of one device."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

import vijax
from tests.fitting.test_fit_many import regression, rows

PROGRAM = """
import jax, numpy as np
import vijax
from tests.fitting.test_fit_many import SETS, regression, rows
from vijax.contracts.stacked_kernel import StackedKernel

used, create = set(), StackedKernel.__init__


def spy(self, *args):
    create(self, *args)
    used.update(self.stacked.data["y"].devices())


StackedKernel.__init__ = spy
sets = [rows(i) for i in range(32)]
one = vijax.fit_many(regression, sets, progress_bar=False)
assert used == {jax.devices()[0]}
all4 = vijax.fit_many(regression, sets, mesh=jax.make_mesh((4,), ("sets",)), progress_bar=False)
assert used == {*jax.devices()} and len(used) == 4
np.testing.assert_array_equal(one.status, all4.status)
np.testing.assert_allclose(one.elbo, all4.elbo, atol=1e-3)
for name, values in one.sample(500).items():
    np.testing.assert_allclose(values, all4.sample(500)[name], rtol=0.01, atol=0.01)

# over any other axis as one fit: each set by all devices
mesh = jax.make_mesh((4,), ("rows",))
each = vijax.fit_many(regression, sets[:1], mesh=mesh, progress_bar=False)
alone = vijax.fit(
    regression, *sets[0], mesh=mesh, rng_key=jax.random.fold_in(jax.random.key(0), 0)
)
assert each.elbo[0] == alone.elbo
assert each[0].status == alone.status
print("the same")
"""


@pytest.mark.slow
def test_sets_on_four_devices():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.strip().endswith("the same"), done.stderr[-3000:]


def test_a_mesh_has_sets_or_what_one_fit_has():
    pair = Mesh(np.array(jax.devices()[:1] * 2).reshape(1, 2), ("sets", "rows"))
    with pytest.raises(ValueError, match=r"mesh: expected the axis 'sets' alone, got also 'rows'"):
        vijax.fit_many(regression, [rows(0)], mesh=pair)
    with pytest.raises(TypeError, match=r"mesh: expected a jax\.sharding\.Mesh"):
        vijax.fit_many(regression, [rows(0)], mesh=8)

"""Models of other libraries, as far as they need not be installed; TFP's if it is."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import vijax
from vijax.contracts import Batch
from vijax.model import build, split, unwrap
from vijax.runtime.errors import ModelError


def test_pymc_is_imported_when_it_is_needed():
    code = "import sys, vijax; assert not {'pymc', 'pytensor'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymc", None)
    with pytest.raises(ImportError, match="from_pymc: expected PyMC, which is not installed"):
        vijax.from_pymc(object())


def test_another_object_is_no_joint_distribution():
    with pytest.raises(ModelError, match=r"joint: expected a JointDistribution.*got int"):
        vijax.from_tfp(3, {})


def test_a_joint_distribution_has_its_density_and_bijectors():
    tfp = pytest.importorskip("tensorflow_probability.substrates.jax")
    tfd = tfp.distributions

    def parts():
        a = yield tfd.Uniform(-1.0, 2.0, name="a")
        w = yield tfd.Dirichlet(jnp.ones(3), name="w")
        b = yield tfd.Uniform(a, a + 1.0, name="b")
        yield tfd.Independent(tfd.Normal(b * jnp.ones(4), w[0]), 1, name="y")

    joint, y = tfd.JointDistributionCoroutineAutoBatched(parts), np.zeros(4, np.float32)
    fn, args, kwargs = unwrap(vijax.from_tfp(joint, {"y": y}), (), {})
    arguments, data = split(fn, args, kwargs)
    target = build(fn, arguments)
    pinned = joint.experimental_pin(y=y)
    bijector = pinned.experimental_default_event_space_bijector()
    z = {"a": jnp.array(0.3), "w": jnp.array([0.1, -0.2]), "b": jnp.array(0.4)}
    point = bijector.inverse(pinned.sample_unpinned(seed=jnp.zeros(2, jnp.uint32)))
    point = type(point)(**z)
    exact = pinned.unnormalized_log_prob(bijector.forward(point))
    exact = exact + bijector.forward_log_det_jacobian(point)
    assert target.log_density(z, Batch(data)) == pytest.approx(float(exact), rel=1e-5)
    assert vijax.from_tfp(joint, {"y": y}).args == args  # nothing is compiled again
    with pytest.raises(ModelError, match=r"observed\['q'\]: expected one of"):
        vijax.from_tfp(joint, {"q": y})
    with pytest.raises(ModelError, match=r"joint: expected no batch shape, got \(3,\)"):
        vijax.from_tfp(tfd.JointDistributionNamed({"a": tfd.Normal(jnp.zeros(3), 1.0)}), {})

"""Values that are not finite are found before a fit, unless the model masks them."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

from vijax.contracts import Batch
from vijax.model import build, check_data, split
from vijax.model.data_checks import _all_finite
from vijax.runtime.errors import ModelError

Y = np.zeros((20, 5), np.float32)
BAD = Y.copy()
BAD[3, 2], BAD[17, 0], BAD[18, 4] = np.nan, np.inf, -np.inf


def check(model, *args, **kwargs):
    arguments, data = split(model, args, kwargs)
    check_data(build(model, arguments), arguments, Batch(data))


def plain(y, scale=1.0):
    mu = numpyro.sample("mu", dist.Normal())
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y * scale)


def masked(y):
    mu = numpyro.sample("mu", dist.Normal())
    with handlers.mask(mask=jnp.isfinite(y)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def imputed(y):
    mu = numpyro.sample("mu", dist.Normal())
    numpyro.sample("y", dist.Normal(mu, 1.0).expand(y.shape), obs=y, obs_mask=jnp.isfinite(y))


def masked_too_late(y):
    mu = numpyro.sample("mu", dist.Normal())
    numpyro.factor("f", jnp.where(jnp.isfinite(y), -0.5 * (mu * y - 1.0) ** 2, 0.0))


def unused(y):
    numpyro.sample("mu", dist.Normal())


def with_bounds(y, upper):
    mu = numpyro.sample("mu", dist.Normal())
    numpyro.factor("f", jnp.where(upper < mu, -10.0, 0.0))


@pytest.mark.parametrize("model", [plain, masked, imputed, masked_too_late])
def test_finite_data_passes(model):
    check(model, Y)


@pytest.mark.parametrize("model", [masked, imputed, unused])
def test_masked_data_passes(model):
    check(model, BAD)


def test_infinite_bounds_pass():
    check(with_bounds, Y, np.full(3, np.inf, np.float32))


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
def test_the_argument_the_count_and_the_first_are_named(convert):
    message = r"argument 'y': 3 of 100 values are not finite, the first is nan at index \[3, 2\]"
    with pytest.raises(ModelError, match=message + ".*log density.*obs_mask"):
        check(plain, convert(BAD))


def test_every_argument_is_named():
    with pytest.raises(ModelError, match=r"argument 'y': 3 of 100 .*; argument 'scale': the value"):
        check(plain, BAD, scale=np.array(np.inf))


def test_a_python_number_is_checked():
    with pytest.raises(ModelError, match="argument 'scale': the value is nan"):
        check(plain, Y, scale=float("nan"))


def test_masked_with_a_gradient_that_is_not_finite():
    with pytest.raises(ModelError, match=r"masks them.*gradient is not.*numpy.where\(mask"):
        check(masked_too_late, BAD)


def test_overflow_of_the_sum_is_not_an_infinity():
    # the sum overflows, the values do not
    assert _all_finite(jnp.full(100, 3e38, jnp.float32))
    assert not _all_finite(jnp.array([1.0, jnp.nan]))
    assert not _all_finite(jnp.array([jnp.inf, -jnp.inf]))


def test_integers_and_flags_are_not_checked():
    def model(y, flags):
        numpyro.sample("mu", dist.Normal())

    check(model, np.arange(5), np.array([True, False]))

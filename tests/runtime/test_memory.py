"""Bounded memory, and errors where it does not suffice."""

import jax
import numpy as np
import pytest

import vijax
from tests.groups import hierarchy
from vijax import ModelError, OutOfMemoryError
from vijax.posterior import draws as _draws
from vijax.runtime import memory as _memory
from vijax.runtime.memory import explain_out_of_memory

Y = np.random.default_rng(0).normal(1.0, 1.0, (12, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    return vijax.fit(hierarchy, Y, guide="meanfield", progress_bar=False)


def test_draws_do_not_depend_on_the_block_size(fitted, monkeypatch):
    whole = fitted.sample(100, corrected=False)
    monkeypatch.setattr(_draws, "_HOST_ELEMENTS", 13 * 7)  # seven draws at a time
    for name, value in fitted.sample(100, corrected=False).items():
        np.testing.assert_array_equal(value, whole[name])


def test_too_many_draws_raise_with_a_remedy(fitted):
    with pytest.raises(OutOfMemoryError, match=r"sample: not enough memory.*num_draws="):
        fitted.sample(2**48, corrected=False)
    assert issubclass(OutOfMemoryError, MemoryError)


def test_results_larger_than_the_memory_raise_before_any_computation(fitted, monkeypatch):
    monkeypatch.setattr(_memory, "_installed", lambda: 2.0**20)
    message = r"the result takes .* GiB, the machine has .* GiB.*num_draws="
    with pytest.raises(OutOfMemoryError, match=f"predict: .*{message}"):
        fitted.predict(num_draws=10**5)
    with pytest.raises(OutOfMemoryError, match=f"sample: .*{message}"):
        fitted.sample(10**5)
    groups = len(fitted.sample(1)["theta"][0].ravel())
    fits = 2**20 // (4 * (groups + 8))  # the latent sites fit, with the log likelihoods they do not
    with pytest.raises(OutOfMemoryError, match=f"log_likelihood: .*{message}"):
        fitted.log_likelihood(fits)


def test_only_out_of_memory_errors_are_converted():
    def fails(error):
        with explain_out_of_memory("fit", "Use less."):
            raise error

    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.\nmore")
    with pytest.raises(OutOfMemoryError, match=r"fit: .*allocating 8 bytes\.\)\. Use less\.$"):
        fails(full)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        fails(jax.errors.JaxRuntimeError("INTERNAL: something else"))


def test_a_fit_out_of_memory_names_a_remedy():
    class Huge(vijax.data.RowSource):
        shape, dtype = (2**48, 4), np.dtype(np.float32)

        def take(self, rows):
            return np.zeros((len(rows), 4), np.float32)

    with pytest.raises(OutOfMemoryError, match=r"fit: not enough memory.*batch_size="):
        vijax.fit(hierarchy, Huge(), guide="meanfield", progress_bar=False)  # read into memory


def test_log_predictive_density_of_the_fitted_rows_agrees_with_log_likelihood(fitted):
    pointwise = fitted.log_likelihood(700, rng_key=3)["y"]
    expected = np.logaddexp.reduce(pointwise.astype(float), axis=0) - np.log(700)
    np.testing.assert_allclose(
        fitted.log_predictive_density(rng_key=3, num_draws=700)["y"], expected, rtol=1e-5
    )


def test_new_rows_with_local_latent_variables_raise(fitted):
    with pytest.raises(ModelError, match=r"log_predictive_density: expected the latent sites"):
        fitted.log_predictive_density(Y[:3])

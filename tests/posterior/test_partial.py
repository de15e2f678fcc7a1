"""Arguments that `functools.partial` set need not be repeated at new inputs."""

import functools
import pickle

import numpy as np
import numpyro
import numpyro.distributions as dist

import vijax

X = np.linspace(-1.0, 1.0, 20)


def linear(scale, x, y=None, *, noise):
    b = numpyro.sample("b", dist.Normal(0, scale))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(b * x, noise), obs=y)


MODEL = functools.partial(linear, 2.0, noise=0.5)


def test_methods_of_a_posterior(tmp_path):
    posterior = vijax.fit(MODEL, X, y=X, holdout=0.2, progress_bar=False)
    posterior.save(tmp_path / "fit.vijax")
    loaded = vijax.load(tmp_path / "fit.vijax", MODEL)
    for one in (posterior, loaded, pickle.loads(pickle.dumps(posterior))):
        draws = one.predict(X[:3], num_draws=5)["y"]
        np.testing.assert_array_equal(draws, posterior.predict(X[:3], num_draws=5)["y"])
        other = one.predict(X[:3], num_draws=5, noise=1e-6)["y"]
        assert not np.allclose(draws, other)
    assert posterior.score(X[:9], y=X[:9]).loc["coverage of 90%", "value"] > 0.5
    assert vijax.conformal(posterior, X, y=X).predict(X[:3]).shape == (3, 2)


def test_methods_of_a_prior():
    prior = vijax.prior(MODEL, X)
    expected = prior.predict(X[:3], num_draws=5)["y"]
    assert expected.shape == (5, 3)
    found = pickle.loads(pickle.dumps(prior)).predict(X[:3], num_draws=5)["y"]
    np.testing.assert_array_equal(found, expected)

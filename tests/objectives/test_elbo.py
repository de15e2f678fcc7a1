"""The ELBO: exact at the posterior, unbiased gradients for every estimator and phase."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import targets
from vijax.contracts import LossContext, Variables
from vijax.guides import Delta, FullRank, MeanField
from vijax.guides.location_scale.full_rank import FullRankParams
from vijax.guides.location_scale.mean_field import MeanFieldParams
from vijax.objectives import ELBO
from vijax.runtime.errors import GuideError

KEYS = jax.random.split(jax.random.key(7), 2000)


def loss_and_gradient(objective, guide, params, problem, phase, keys=KEYS):
    target, batch = problem.target, problem.batch

    def loss(params, key):
        context = LossContext({}, key, target, guide, batch, jnp.asarray(phase))
        return objective(Variables(params), context)[0]

    return jax.jit(jax.vmap(jax.value_and_grad(loss), (None, 0)))(params, keys)


def exact(problem):
    """Full-rank parameters equal to a Gaussian posterior."""
    factor = np.linalg.cholesky(problem.z_covariance)
    scale = np.diag(factor)
    lower = np.tril(factor / scale[:, None], -1)
    return FullRankParams(*(jnp.asarray(p) for p in (problem.z_mean, np.log(scale), lower)))


def wrong(problem):
    """Full-rank parameters away from the posterior."""
    params = exact(problem)
    shift = jnp.linspace(0.3, -0.4, params.loc.size)
    return params._replace(loc=params.loc + shift, log_scale=params.log_scale + 0.2)


def closed_form(problem, guide):
    """The exact loss of a Gaussian guide for a Gaussian posterior: `KL - log evidence`."""
    precision = jnp.asarray(np.linalg.inv(problem.z_covariance))
    _, log_det = np.linalg.slogdet(problem.z_covariance)

    def loss(params):
        space = problem.target.space
        delta = guide.mean(params, space) - jnp.asarray(problem.z_mean)
        covariance = guide.covariance(params, space)
        kl = 0.5 * (
            jnp.trace(precision @ covariance)
            + delta @ precision @ delta
            - delta.size
            + log_det
            - jnp.linalg.slogdet(covariance)[1]
        )
        return kl - problem.log_evidence

    return loss


@pytest.mark.parametrize("phase", [0.0, 1.0])
@pytest.mark.parametrize("estimator", ["auto", "entropy", "stl", "plain"])
@pytest.mark.parametrize("kind", ["full", "mean-field"])
def test_loss_and_gradient_are_unbiased(kind, estimator, phase):
    problem = targets.problem("regression")
    params = wrong(problem)
    guide = FullRank()
    if kind == "mean-field":
        guide, space = MeanField(), problem.target.space
        params = MeanFieldParams(space.unravel(params.loc), space.unravel(params.log_scale))
    loss, gradient = loss_and_gradient(ELBO(1, estimator), guide, params, problem, phase)
    expected, slope = jax.value_and_grad(closed_form(problem, guide))(params)
    assert abs(np.mean(loss) - expected) < 5 * np.std(loss) / np.sqrt(len(KEYS)) + 1e-4
    for got, want in zip(jax.tree.leaves(gradient), jax.tree.leaves(slope), strict=True):
        error = 5 * np.std(got, axis=0) / np.sqrt(len(KEYS)) + 1e-4
        assert (np.abs(np.mean(got, axis=0) - want) < error).all()


@pytest.mark.parametrize("estimator", ["stl", "plain"])
def test_the_loss_at_the_exact_posterior_is_the_evidence_for_every_draw(estimator):
    problem = targets.problem("regression")
    loss, _ = loss_and_gradient(ELBO(1, estimator), FullRank(), exact(problem), problem, 1.0)
    np.testing.assert_allclose(loss, -problem.log_evidence, atol=2e-4)


def test_sticking_the_landing_has_no_variance_at_the_exact_posterior():
    problem = targets.problem("regression")
    _, stl = loss_and_gradient(ELBO(1, "stl"), FullRank(), exact(problem), problem, 1.0)
    _, plain = loss_and_gradient(ELBO(1, "entropy"), FullRank(), exact(problem), problem, 1.0)
    assert max(float(jnp.abs(leaf).max()) for leaf in stl) < 1e-3
    assert float(jnp.std(plain.loc, axis=0).max()) > 0.1


def test_auto_uses_sticking_the_landing_only_after_the_first_phase():
    problem = targets.problem("regression")
    early = loss_and_gradient(ELBO(), FullRank(), exact(problem), problem, 0.0)[1]
    late = loss_and_gradient(ELBO(), FullRank(), exact(problem), problem, 1.0)[1]
    assert float(jnp.std(early.loc, axis=0).max()) > 0.1
    assert float(jnp.std(late.loc, axis=0).max()) < 1e-3


def test_particles_average():
    problem = targets.problem("regression")
    params = wrong(problem)
    one, _ = loss_and_gradient(ELBO(1, "plain"), FullRank(), params, problem, 0.0)
    many, _ = loss_and_gradient(ELBO(16, "plain"), FullRank(), params, problem, 0.0, KEYS[:500])
    assert np.var(many) == pytest.approx(np.var(one) / 16, rel=0.25)
    assert np.mean(many) == pytest.approx(
        np.mean(one), abs=5 * float(np.std(one)) / np.sqrt(len(KEYS))
    )


def test_an_estimator_that_the_guide_does_not_support_raises():
    problem = targets.problem("normal_mean")
    params = Delta().init(KEYS[0], problem.target.space, {"mu": jnp.zeros(())})
    with pytest.raises(GuideError, match="estimator 'stl': expected a DensityGuide, got Delta"):
        loss_and_gradient(ELBO(1, "stl"), Delta(), params, problem, 0.0)


@pytest.mark.parametrize("options", [{"num_particles": 0}, {"estimator": "best"}])
def test_invalid_options_raise(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ELBO(**options)

"""Multi-particle objectives: values and gradients against quadrature and closed forms."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vijax
from tests import targets
from tests.objectives.test_elbo import KEYS, closed_form, exact, loss_and_gradient, wrong
from vijax.contracts import LossContext, Variables
from vijax.guides import Delta, FullRank, MeanField
from vijax.objectives import CUBO, ELBO, IWAE, ForwardKL, Renyi, ScoreELBO, Tempered
from vijax.runtime.errors import GuideError

TWO = {
    "iwae": (IWAE(2), IWAE(2, "plain"), 1.0),
    "renyi": (Renyi(0.4, 2), Renyi(0.4, 2, "plain"), 0.6),
    "renyi above 1": (Renyi(2.5, 2), Renyi(2.5, 2, "plain"), -1.5),
}


def two_particles(power):
    """The exact expectation of a power bound of two draws, by quadrature over both."""
    problem = targets.problem("normal_mean")
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    mean, variance = float(problem.z_mean[0]), float(problem.z_covariance[0, 0])

    def loss(params):
        scale = jnp.exp(params.log_scale[0])
        z = params.loc[0] + scale * nodes
        log_q = -0.5 * nodes**2 - jnp.log(scale)
        log_w = problem.log_evidence - 0.5 * (z - mean) ** 2 / variance
        log_w = log_w - 0.5 * np.log(variance) - log_q
        pair = jnp.logaddexp(power * log_w[:, None], power * log_w) - np.log(2)
        return -weights @ (pair / power) @ weights

    return problem, loss


@pytest.mark.parametrize("estimator", [0, 1], ids=["dreg", "plain"])
@pytest.mark.parametrize("name", TWO)
def test_value_and_gradient_equal_quadrature(name, estimator):
    *objectives, power = TWO[name]
    problem, loss = two_particles(power)
    params = wrong(problem)
    found = loss_and_gradient(objectives[estimator], FullRank(), params, problem, 0.0)
    expected = jax.value_and_grad(loss)(params)
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        error = 5 * np.std(got, axis=0) / np.sqrt(len(KEYS)) + 1e-4
        assert (np.abs(np.mean(got, axis=0) - want) < error).all()


@pytest.mark.parametrize("objective", [IWAE(4), Renyi(0.5, 4)], ids=repr)
def test_at_the_exact_posterior_every_draw_has_the_log_evidence_and_zero_gradient(objective):
    problem = targets.problem("regression")
    loss, slope = loss_and_gradient(objective, FullRank(), exact(problem), problem, 0.0, KEYS[:50])
    np.testing.assert_allclose(-loss, problem.log_evidence, atol=2e-4)
    assert max(float(jnp.abs(leaf).max()) for leaf in slope) < 2e-3


@pytest.mark.slow
def test_bounds_hold_and_tighten_with_particles():
    problem = targets.problem("regression")
    params = wrong(problem)

    def value(objective, sign):
        loss, _ = loss_and_gradient(objective, FullRank(), params, problem, 0.0, KEYS[:500])
        return sign * np.mean(loss), np.std(loss) / np.sqrt(500)

    lower = [value(IWAE(num), -1) for num in (1, 4, 64)]
    assert all(b[0] > a[0] + 2 * (a[1] + b[1]) for a, b in itertools.pairwise(lower))
    assert lower[-1][0] < problem.log_evidence + 5 * lower[-1][1]
    elbo = closed_form(problem, FullRank())(params)
    assert abs(lower[0][0] + elbo) < 5 * lower[0][1]
    upper = value(CUBO(2.0, 512), 1)
    assert upper[0] > problem.log_evidence + 5 * upper[1]


def test_score_gradients_are_unbiased():
    problem = targets.problem("regression")
    params = wrong(problem)
    loss, slope = loss_and_gradient(ScoreELBO(4), FullRank(), params, problem, 0.0)
    expected, want = jax.value_and_grad(closed_form(problem, FullRank()))(params)
    assert abs(np.mean(loss) - expected) < 5 * np.std(loss) / np.sqrt(len(KEYS))
    for got, one in zip(jax.tree.leaves(slope), jax.tree.leaves(want), strict=True):
        error = 5 * np.std(got, axis=0) / np.sqrt(len(KEYS)) + 1e-4
        assert (np.abs(np.mean(got, axis=0) - one) < error).all()


def test_the_baseline_removes_the_variance_at_the_exact_posterior():
    """There the weights are constant."""
    problem = targets.problem("regression")
    _, slope = loss_and_gradient(ScoreELBO(4), FullRank(), exact(problem), problem, 0.0, KEYS[:50])
    assert max(float(jnp.abs(leaf).max()) for leaf in slope) < 5e-3


def test_forward_kl_has_the_value_and_gradient_of_its_closed_form():
    problem = targets.problem("regression")
    params, space = wrong(problem), problem.target.space
    mean, covariance = jnp.asarray(problem.z_mean), jnp.asarray(problem.z_covariance)

    def divergence(params):
        guide_covariance = FullRank().covariance(params, space)
        precision = jnp.linalg.inv(guide_covariance)
        delta = FullRank().mean(params, space) - mean
        log_dets = jnp.linalg.slogdet(guide_covariance)[1] - jnp.linalg.slogdet(covariance)[1]
        return 0.5 * (
            jnp.trace(precision @ covariance) + delta @ precision @ delta - delta.size + log_dets
        )

    objective, keys = ForwardKL(4000), KEYS[:100]
    found = loss_and_gradient(objective, FullRank(), params, problem, 0.0, keys)
    expected = jax.value_and_grad(divergence)(params)
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        error = 5 * np.std(got, axis=0) / np.sqrt(len(keys)) + 2e-3  # bias of 1 / 4000
        assert (np.abs(np.mean(got, axis=0) - want) < error).all()


def test_the_chi_bound_has_the_value_and_gradient_of_its_closed_form():
    problem = targets.problem("regression")
    params, space = wrong(problem), problem.target.space
    mean, precision = jnp.asarray(problem.z_mean), jnp.linalg.inv(jnp.asarray(problem.z_covariance))

    def bound(params):
        """`E_q[w^2]` is a Gaussian integral with precision `2 P - Q`."""
        own = jnp.linalg.inv(FullRank().covariance(params, space))
        delta = FullRank().mean(params, space) - mean
        inner = 2 * precision - own
        log_dets = [jnp.linalg.slogdet(one)[1] for one in (precision, own, inner)]
        chi = log_dets[0] - 0.5 * log_dets[1] - 0.5 * log_dets[2]
        shift = own @ delta
        chi += 0.5 * delta @ shift + 0.5 * shift @ jnp.linalg.solve(inner, shift)
        return problem.log_evidence + chi / 2

    keys = KEYS[:100]
    found = loss_and_gradient(CUBO(2.0, 4000), FullRank(), params, problem, 0.0, keys)
    expected = jax.value_and_grad(bound)(params)
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        error = 5 * np.std(got, axis=0) / np.sqrt(len(keys)) + 5e-3  # bias of 1 / 4000
        assert (np.abs(np.mean(got, axis=0) - want) < error).all()


def param_model(y):
    shift = numpyro.param("shift", 0.3)
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu + shift, 1.0), obs=y)


@pytest.mark.parametrize("objective", [IWAE(64), ForwardKL(64), ScoreELBO(64)], ids=repr)
def test_param_sites_have_the_gradient_of_the_evidence(objective):
    """With the exact posterior as guide the gradient is that of the log evidence."""
    arguments, data = vijax.model.split(param_model, (np.float32(1.1),), {})
    target, batch = vijax.model.build(param_model, arguments), vijax.contracts.Batch(data)
    scale = np.sqrt(0.5)
    params = MeanField().init(KEYS[0], target.space, {"mu": jnp.zeros(())})
    params = params._replace(loc={"mu": jnp.array(0.4)}, log_scale={"mu": jnp.log(scale)})

    def loss(model, key):
        context = LossContext({}, key, target, MeanField(), batch, jnp.zeros(()))
        return objective(Variables(params, model), context)[0]

    slopes = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))({"shift": jnp.array(0.3)}, KEYS[:400])
    got = slopes["shift"]
    expected = -(1.1 - 0.3) / 2  # y ~ Normal(shift, sqrt(2))
    assert abs(np.mean(got) - expected) < 5 * np.std(got) / np.sqrt(400) + 1e-4


def test_a_tempered_objective_is_that_of_the_tempered_target():
    problem = targets.problem("normal_mean")
    params = wrong(problem)
    objective = Tempered((0.25,), ELBO(1, "entropy"))
    flat, _ = loss_and_gradient(objective, FullRank(), params, problem, 0.0, KEYS[:20])
    full, _ = loss_and_gradient(objective, FullRank(), params, problem, 1.0, KEYS[:20])
    plain, _ = loss_and_gradient(ELBO(1, "entropy"), FullRank(), params, problem, 1.0, KEYS[:20])
    entropy = FullRank().entropy(params, problem.target.space)
    np.testing.assert_allclose(full, plain, rtol=1e-6)
    np.testing.assert_allclose(flat, 0.25 * (plain + entropy) - entropy, rtol=1e-5)


@functools.cache
def variances(name):
    """Variances of a mean-field fit of a correlated Gaussian, in units of the exact ones."""
    objective = {
        "elbo": ELBO(8),
        "renyi": Renyi(0.2, 64),
        "forward": ForwardKL(256),
        "chi": CUBO(2.0, 256),
    }[name]
    problem = targets.problem("correlated2")
    posterior = vijax.fit(
        problem.model,
        *problem.args,
        guide="meanfield",
        objective=objective,
        num_steps=3000,
        progress_bar=False,
    )
    return np.diag(posterior.covariance()) / np.diag(problem.covariance)


@pytest.mark.slow
def test_variances_under_each_divergence():
    """ELBO: conditional variances; forward KL: marginal variances; Renyi: in between."""
    conditional = 1 / np.diag(np.linalg.inv(targets.problem("correlated2").covariance))
    conditional /= np.diag(targets.problem("correlated2").covariance)
    np.testing.assert_allclose(variances("elbo"), conditional, rtol=0.1)
    np.testing.assert_allclose(variances("forward"), 1.0, rtol=0.1)
    assert (variances("renyi") > conditional * 1.2).all()
    assert (variances("chi") > 1.05).all()  # mass-covering


@pytest.mark.parametrize(
    ("objective", "options", "message"),
    [
        (IWAE, {"num_particles": 0}, "num_particles"),
        (IWAE, {"estimator": "best"}, "estimator"),
        (Renyi, {"alpha": 1.0}, "alpha.*ELBO"),
        (CUBO, {"order": 1.0}, "order"),
        (CUBO, {"num_particles": 1}, "num_particles"),
        (ForwardKL, {"num_particles": 1}, "num_particles"),
        (ScoreELBO, {"num_particles": 1}, "num_particles"),
        (Tempered, {"temperatures": (0.0,)}, "temperatures"),
    ],
)
def test_invalid_options_raise(objective, options, message):
    with pytest.raises(ValueError, match=message):
        objective(**options)


@pytest.mark.parametrize("objective", [IWAE(), Renyi(), CUBO(), ForwardKL(), ScoreELBO()], ids=repr)
def test_a_guide_without_a_density_raises(objective):
    problem = targets.problem("normal_mean")
    params = Delta().init(KEYS[0], problem.target.space, {"mu": jnp.zeros(())})
    with pytest.raises(GuideError, match="expected a guide with a density, got Delta"):
        loss_and_gradient(objective, Delta(), params, problem, 0.0)

"""Guide functions with sites whose draws have no gradient: score functions."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from vijax.algorithms import Adam, Gradient
from vijax.contracts import Batch, DensityGuide, LossContext, Variables
from vijax.fitting.options import objective_for
from vijax.guides import MeanField, adapt
from vijax.model import build, split
from vijax.objectives import ELBO, IWAE, ScoreELBO
from vijax.runtime.errors import GuideError


class Unreparameterized(dist.Normal):
    reparametrized_params = ()


def model():
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(x, 1.0), obs=1.0)


def guide():
    loc, log_scale = numpyro.param("loc", 0.0), numpyro.param("log_scale", -0.5)
    numpyro.sample("x", Unreparameterized(loc, jnp.exp(log_scale)))


def with_auxiliary_site():
    h = numpyro.sample("h", Unreparameterized(0.0, 1.0), infer={"is_auxiliary": True})
    numpyro.sample("x", dist.Normal(h, 1.0))


ARGUMENTS, DATA = split(model, (), {})
TARGET = build(model, ARGUMENTS)
GUIDE = adapt(guide, model, ARGUMENTS, TARGET)


def test_the_gradient_is_that_of_the_elbo():
    assert isinstance(GUIDE, DensityGuide)
    assert GUIDE.without_pathwise_gradient == ("x",)
    params = GUIDE.init(jax.random.key(0), TARGET.space, {"x": jnp.zeros(())})

    @jax.jit
    @jax.vmap
    def slopes(key):
        context = LossContext({}, key, TARGET, GUIDE, Batch(DATA), jnp.zeros(()))
        return jax.grad(lambda p: ScoreELBO()(Variables(p), context)[0])(params)

    found = slopes(jax.random.split(jax.random.key(1), 500))
    # the negative ELBO is loc^2 - loc + scale^2 - log(scale) and a constant
    for name, exact in {"loc": -1.0, "log_scale": 2 * np.exp(-1.0) - 1}.items():
        error = np.mean(found[name]) - exact
        assert abs(error) < 5 * np.std(found[name]) / np.sqrt(500)


def options(**given):
    return {"algorithm": "auto", "objective": None, "num_particles": None} | given


def test_score_functions_are_the_default_where_draws_have_no_gradient():
    assert objective_for(TARGET, GUIDE, options()) == ScoreELBO()
    assert objective_for(TARGET, GUIDE, options(num_particles=8)) == ScoreELBO(8)
    assert objective_for(TARGET, GUIDE, options(objective=ScoreELBO(4))) == ScoreELBO(4)
    given = options(algorithm=Gradient(ScoreELBO(), Adam(0.1)))
    assert objective_for(TARGET, GUIDE, given) is None
    assert objective_for(TARGET, MeanField(), options(algorithm="gradient")) is None


@pytest.mark.parametrize(
    "given",
    [
        {"objective": ELBO()},
        {"objective": IWAE(4)},
        {"algorithm": "gradient"},
        {"algorithm": Gradient(ELBO(), Adam(0.1))},
    ],
)
def test_other_objectives_name_the_site(given):
    with pytest.raises(GuideError, match=r"site 'x': .* no reparameterized sampler.*ScoreELBO\(\)"):
        objective_for(TARGET, GUIDE, options(**given))


def test_a_density_is_needed():
    with pytest.raises(GuideError, match="site 'h': expected a reparameterized distribution, or"):
        adapt(with_auxiliary_site, model, ARGUMENTS, TARGET)

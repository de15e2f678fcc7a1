"""Mass that fits of many data sets do not cover: mixtures, and which sets are left alone."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from vijax.auto.many.member import Member, assess_many, params_of, solution_at
from vijax.auto.many.mixtures import mixtures
from vijax.auto.many.modes import leave_mixtures
from vijax.contracts.stacked_kernel import StackedKernel
from vijax.fitting.fit import DEFAULTS, build_problem
from vijax.solvers.gaussians.dense import Gaussian
from vijax.solvers.many.gaussians import stack

SHARES = 0.7, 0.3
FAR = Gaussian(np.array([60.0]), np.eye(1))


def model(place):
    parts = dist.Normal(jnp.stack([-place, place]), 1.0)
    numpyro.sample("z", dist.MixtureSameFamily(dist.Categorical(jnp.array(SHARES)), parts))


def test_mixtures_have_the_shares_of_the_modes():
    """Two normals: weights 0.7 and 0.3 and the ELBO 0, and none where one has all the mass."""
    places = np.array([5.0, 8.0], np.float32)
    problem = build_problem(model, (places[0],), {}, "auto", dict(DEFAULTS))
    kernel = StackedKernel(problem.target, {"place": places}, {})
    members = [Member(i, problem, (0, i), np.random.default_rng(i)) for i in range(2)]
    fits = params_of(stack([Gaussian(np.array([-place]), np.eye(1)) for place in places]))
    solutions = [solution_at(one, "", True, 1) for one in fits]
    for member, found in zip(
        members, assess_many(kernel, members, [problem] * 2, solutions), strict=True
    ):
        member.best = found
    first, second = mixtures(kernel, members, [[Gaussian(places[:1], np.eye(1)), FAR], [FAR]])
    assert second is None
    logits = first.solution.variables.guide.logits
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), SHARES, atol=1e-3)
    assert abs(first.assessment.elbo) < 1e-3
    np.testing.assert_allclose(members[0].fit.assessment.elbo, np.log(SHARES[0]), atol=1e-3)


@pytest.mark.parametrize(
    ("elbo", "weight", "alone"), [(0.0, 0.5, False), (1.0, 0.5, True), (0.0, 0.0, True)]
)
def test_a_set_is_left_alone_unless_learned_coordinates_represent_its_mass(elbo, weight, alone):
    """Not if the mixture is better, nor in the coordinates in which other modes were found."""
    problem = SimpleNamespace(batch=SimpleNamespace(centering={"x": jnp.full(3, weight)}))
    found = [SimpleNamespace(elbo=value, elbo_se=0.1) for value in (0.2, elbo)]
    fit, mixture = (SimpleNamespace(assessment=one, problem=problem) for one in found)
    member = SimpleNamespace(fit=fit, mixture=mixture, alone="")
    other = SimpleNamespace(fit=fit, mixture=None, alone="")
    leave_mixtures([member, other])
    assert bool(member.alone) == alone
    assert not other.alone

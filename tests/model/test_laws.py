"""Laws that the target of every model in the zoo obeys."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density, potential_energy

from tests.model.zoo import CASES
from vijax.contracts import Batch
from vijax.model import build, check_indices, split, unwrap

NUM_POINTS = 3
# z is determined up to its radius
DIRECTIONS = ("circle", "torus", "sphere", "projected_normal")
# models without `scale`, whose terms sum to the log density
PLAIN = ("regression", "nested_plates", "obs_mask", "scoped", "sphere", "plate_in_scan", "branches")
# NumPyro's `substitute` does not reach these sites, or not in the right order
UNTRACEABLE = {"scoped_scan", "nested_scan", "reverse_scan", "param_in_scan", "branches_in_scan"}


@functools.cache
def world(name):
    """The case, its target, data, initial state and a few points."""
    case = CASES[name]
    model, args, kwargs = unwrap(case.model, case.args, case.kwargs)
    arguments, data = split(model, args, kwargs)
    target = build(model, arguments)
    check_indices(target, arguments, Batch(data))  # no model is refused
    start = jax.jit(target.initialize)(jax.random.key(1), Batch(data))
    key = jax.random.key(sum(map(ord, name)))
    points = case.scale * jax.random.normal(key, (NUM_POINTS, target.space.dim))
    return case, target, data, start, jax.vmap(target.space.unravel)(points)


def facts(name):
    """The values that the laws compare, at a few points, from one compiled program."""
    case, target, data, start, points = world(name)

    def at(z, data, model, mutable):
        batch = Batch(data)
        args, kwargs = arguments_of(case, target, data)
        density, gradient = jax.value_and_grad(target.log_density)(z, batch, model, mutable)
        values = target.constrain(z, batch, model, mutable)
        x = {site: values[site] for site in target.space.names}
        back = target.unconstrain(x, batch, model, mutable)
        out = {
            "log_density": density,
            "gradient": gradient,
            "values": values,
            "round_trip": back,
            "again": target.constrain(back, batch, model, mutable),
            "reference": reference(case, target, args, kwargs, x, z, batch, model, mutable),
        }
        if name in PLAIN:
            out["log_dets"] = target.log_dets(z, batch, model, mutable)
            out["site_log_probs"] = target.site_log_probs(z, batch, model, mutable)
        if name not in UNTRACEABLE:
            trace = replayed(case, args, kwargs, x, model, mutable)
            out["trace"] = {
                site: message["value"]
                for site, message in trace.items()
                if message["type"] == "deterministic" or site in x
            }
            out["inside"] = {
                site: jnp.all(trace[site]["fn"].support(x[site])) for site in x if site in trace
            }
        return out

    # the code runs once: fast compilation matters more than fast code
    quick = {"xla_backend_optimization_level": 0}
    program = jax.jit(jax.vmap(at, (0, None, None, None)), compiler_options=quick)
    return program(points, data, *start) | {"points": points}


def arguments_of(case, target, data):
    model, args, kwargs = unwrap(case.model, case.args, case.kwargs)
    return split(model, args, kwargs)[0].join(data)


def replayed(case, args, kwargs, x, model, mutable):
    """NumPyro's trace of the model at `x`, parameters and mutable state."""
    values = fitted_params(case, model, args, kwargs) | dict(mutable) | x
    model = handlers.seed(handlers.substitute(case.model, data=values), 0)
    return handlers.trace(model).get_trace(*args, **kwargs)


def fitted_params(case, model, args, kwargs):
    """The constrained values of the model's `param` sites."""
    if not model:
        return {}
    trace = handlers.trace(handlers.seed(case.model, 0)).get_trace(*args, **kwargs)
    out = {}
    for name, value in model.items():
        constraint = trace[name]["kwargs"].get("constraint")
        plain = constraint is None or constraint is numpyro.distributions.constraints.real
        value = jax.tree.map(lambda leaf: leaf, value)
        out[name] = value if plain else numpyro.distributions.biject_to(constraint)(value)
    return out


def reference(case, target, args, kwargs, x, z, batch, model, mutable):
    if callable(case.reference):
        return case.reference(x, z, *args, **kwargs)
    values = fitted_params(case, model, args, kwargs) | dict(mutable)
    # seed outermost, so that `prng_key` and rows use the same key as in the target
    fixed = handlers.seed(handlers.substitute(case.model, data=values), jax.random.key(0))
    if case.reference == "numpyro":
        return -potential_energy(fixed, args, kwargs, z)

    def constrained(vector):
        values = target.constrain(target.space.unravel(vector), batch, model, mutable)
        return target.space.ravel({site: values[site] for site in target.space.names})

    jacobian = jax.jacfwd(constrained)(target.space.ravel(z))
    return log_density(fixed, args, kwargs, x)[0] + jnp.linalg.slogdet(jacobian)[1]


def close(actual, expected, tolerance=2e-4):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
        actual,
        expected,
    )


# --- the laws --------------------------------------------------------------------------------


def log_density_equals_the_reference(name, found):
    close(found["log_density"], jnp.real(found["reference"]))


def log_density_has_a_finite_gradient(name, found):
    for site, gradient in found["gradient"].items():
        assert np.isfinite(gradient).all(), site


def unconstrain_inverts_constrain(name, found):
    for site, z in found["points"].items():
        if name in DIRECTIONS:
            z = z / np.linalg.norm(z, axis=-1, keepdims=True)
        close(found["round_trip"][site], z, 2e-3)
    close(found["again"], found["values"], 2e-3)


def constrained_values_are_those_of_the_model(name, found):
    for site, value in found.get("trace", {}).items():
        close(found["values"][site], value)


def constrained_values_are_in_the_support(name, found):
    for site, inside in found.get("inside", {}).items():
        assert inside.all(), site


def shapes_agree_with_the_space(name, found):
    target = world(name)[1]
    for site in target.space.sites:
        assert found["points"][site.name].shape[1:] == site.z_shape
        assert found["values"][site.name].shape[1:] == site.shape
        assert len(target.structure.dims[site.name]) == len(site.shape)


def sites_and_jacobians_sum_to_the_log_density(name, found):
    if name in PLAIN:
        parts = [*found["site_log_probs"].values(), *found["log_dets"].values()]
        total = sum(np.reshape(part, (NUM_POINTS, -1)).sum(1) for part in parts)
        close(total, found["log_density"])


LAWS = (
    log_density_equals_the_reference,
    log_density_has_a_finite_gradient,
    unconstrain_inverts_constrain,
    constrained_values_are_those_of_the_model,
    constrained_values_are_in_the_support,
    shapes_agree_with_the_space,
    sites_and_jacobians_sum_to_the_log_density,
)


# Supports whose bijection is that of another case, at other bounds, shapes or distributions.
ALIKE = {"half_cauchy", "truncated", "less_than", "less_than_eq", "greater_than_eq", "interval"}
ALIKE |= {"independent_interval", "simplex_large", "softplus_positive", "nonnegative", "wishart"}
ALIKE |= {"open_interval", "inverse_wishart", "softplus_lower_cholesky", "zero_sum", "mixture"}
ALIKE |= {"relaxed_bernoulli", "log_uniform", "kumaraswamy", "matrix_normal", "low_rank_normal"}
ALIKE |= {"random_walk", "doubly_truncated_power_law"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow)
        if name.removeprefix("support_") in ALIKE
        else name
        for name in CASES
    ],
)
def test_laws(name):
    # one test, so that parallel test processes do not compile a case twice
    found = facts(name)
    for law in LAWS:
        law(name, found)


@pytest.mark.parametrize("name", ["obs_mask", "circle", "moving_support", "state_space"])
def test_eager_jit_and_vmap_agree(name):
    _, target, data, start, points = world(name)
    batched = jax.jit(jax.vmap(lambda z: target.log_density(z, Batch(data), *start)))(points)
    z = jax.tree.map(lambda leaf: leaf[1], points)
    close(target.log_density(z, Batch(data), *start), batched[1])
    close(jax.jit(target.log_density)(z, Batch(data), *start), batched[1])

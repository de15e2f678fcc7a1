"""Guide functions and autoguides with local latents in a plate that is subsampled."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from numpyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal

from vijax.contracts import Batch
from vijax.guides import adapt
from vijax.guides.numpyro import rebound
from vijax.model import batch_request, build, split
from vijax.runtime.errors import GuideError

N, B = 6, 2
X = np.float32([0.3, -1.2, 0.8, 2.0, 1.1, -0.4])


def by_index(x):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    with numpyro.plate("rows", N, subsample_size=B):
        z = numpyro.sample("z", dist.LogNormal(mu, 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=numpyro.subsample(x, event_dim=0))


def by_shape(x):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.LogNormal(mu, 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=x)


def encoder(x):
    c = numpyro.param("c", 0.7)
    w = numpyro.param("w", 0.6, constraint=constraints.positive)
    numpyro.sample("mu", dist.Normal(numpyro.param("m", 0.2), 0.5))
    return c, w


def guide_by_index(x):
    c, w = encoder(x)
    with numpyro.plate("rows", N, subsample_size=B) as rows:
        numpyro.sample("z", dist.LogNormal(c * x[rows], w))


def guide_by_shape(x):
    c, w = encoder(x)
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("z", dist.LogNormal(c * x, w))


def per_row(x):
    numpyro.sample("mu", dist.Normal(0.2, 0.5))
    with numpyro.plate("rows", N, subsample_size=B):
        a = numpyro.param("a", 0.7 * X, event_dim=0)
        numpyro.sample("z", dist.LogNormal(a, 0.6))


def of_two_rows(x):
    c, w = encoder(x)
    with numpyro.plate("rows", N, subsample_size=B) as rows:
        numpyro.sample("z", dist.LogNormal(c * x[rows], jnp.broadcast_to(w, (B,))))


def target_of(model):
    request = batch_request(B, None) if model is by_shape else None
    arguments, data = split(model, (X,), {})
    return arguments, build(model, arguments, request), Batch(data)


def adapted(function, model=by_index):
    arguments, target, batch = target_of(model)
    guide = adapt(function, model, arguments, target)
    return guide, target, batch


def start(guide, target, batch):
    location = {site.name: jnp.full(site.z_shape, 0.3) for site in target.space.sites}
    return guide.init(jax.random.key(0), target.space, location, batch)


@pytest.mark.parametrize(
    ("function", "model"), [(guide_by_index, by_index), (guide_by_shape, by_shape)]
)
def test_a_guide_function_has_the_rows_and_the_scale_of_the_model(function, model):
    guide, target, batch = adapted(function, model)
    params = start(guide, target, batch)
    mean = 0.7 * X
    z = {"mu": jnp.asarray(0.4), "z": jnp.asarray(mean + 0.1)}

    def exact(rows):
        local = dist.Normal(mean[rows], 0.6).log_prob(z["z"][rows]).sum()
        return dist.Normal(0.2, 0.5).log_prob(0.4) + N / len(rows) * local

    @jax.jit
    def densities(rows, key):
        at = batch._replace(index={"rows": rows})
        space = target.on_batch.space
        log_q = guide.log_prob(params, space, z | {"z": z["z"][rows]}, at)
        draw = guide.draw(params, space, key, at)
        again = guide.log_prob(params, space, draw.z, at)
        # afterwards it is evaluated on all rows
        whole = guide.log_prob(params, target.space, z, batch)
        return log_q, draw, again, whole, guide.draw(params, target.space, key, batch)

    rows = np.array([4, 1])
    log_q, draw, again, whole, on_all = densities(rows, jax.random.key(1))
    np.testing.assert_allclose(log_q, exact(rows), rtol=1e-5)
    np.testing.assert_allclose(draw.log_q, again, rtol=1e-5)
    assert draw.z["z"].shape == (B,)
    np.testing.assert_allclose(whole, exact(np.arange(N)), rtol=1e-5)
    assert on_all.z["z"].shape == (N,)
    assert guide.amortized


def test_parameters_of_rows_are_those_of_the_rows_in_use():
    guide, target, batch = adapted(per_row)
    params = start(guide, target, batch)
    assert params["a"].shape == (N,)
    assert not guide.amortized  # it has no parameters for other rows
    rows = np.array([5, 2])
    z = {"mu": jnp.asarray(0.2), "z": jnp.asarray(0.7 * X[rows])}
    log_q = guide.log_prob(params, target.on_batch.space, z, batch._replace(index={"rows": rows}))
    exact = dist.Normal(0, 0.5).log_prob(0.0) + N * dist.Normal(0, 0.6).log_prob(0.0)
    np.testing.assert_allclose(log_q, exact, rtol=1e-5)


def test_an_encoder_applies_to_new_rows():
    guide, target, batch = adapted(guide_by_shape, by_shape)
    params = start(guide, target, batch)
    arguments, data = split(by_shape, (np.float32([3.0]),), {})
    new = build(by_shape, arguments)
    moved = rebound(guide, arguments, new)
    z = {"mu": jnp.asarray(0.2), "z": jnp.asarray([2.1])}
    exact = dist.Normal(0, 0.5).log_prob(0.0) + dist.Normal(0, 0.6).log_prob(0.0)
    np.testing.assert_allclose(moved.log_prob(params, new.space, z, Batch(data)), exact, rtol=1e-5)


def test_a_guide_of_the_size_of_a_minibatch_has_no_draws_of_all_rows():
    guide, target, batch = adapted(of_two_rows)
    params = start(guide, target, batch)
    rows = batch._replace(index={"rows": np.array([3, 0])})
    draw = jax.eval_shape(
        lambda: guide.draw(params, target.on_batch.space, jax.random.key(0), rows)
    )
    assert draw.z["z"].shape == (B,)
    with pytest.raises(
        GuideError, match=r"site 'z': draws of every row .* all 6 rows .* on 2 only"
    ):
        guide.draw(params, target.space, jax.random.key(0), batch)


def outside(x):
    numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("other", N, subsample_size=B):
        numpyro.sample("z", dist.LogNormal(0.0, 1.0))


def unscaled(x):
    numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("z", dist.LogNormal(jnp.zeros(B), 1.0))


def by_batch(x):
    with numpyro.plate("rows", N, subsample_size=B) as rows:
        numpyro.sample("z", dist.LogNormal(0.0, 1.0))
    numpyro.sample("mu", dist.Normal(x[rows].mean(), 1.0))


def sized_by_batch(x):
    numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", N, subsample_size=B) as rows:
        numpyro.sample("z", dist.LogNormal(numpyro.param("a", jnp.zeros(rows.shape)), 1.0))


def of_another_size(x):
    numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", N + 1, subsample_size=B):
        numpyro.sample("z", dist.LogNormal(0.0, 1.0))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (outside, r"site 'z': expected it in numpyro.plate\('rows', ...\).*outside"),
        (unscaled, r"site 'z': expected it in numpyro.plate\('rows', ...\).*outside"),
        (by_batch, "site 'mu': expected the distribution .* not to depend on the rows"),
        (sized_by_batch, r"param 'a': expected the shape \(6,\).*got \(2,\)"),
        (of_another_size, "plate 'rows' of the guide: expected 6 rows.*got 7"),
    ],
)
def test_guide_functions_that_do_not_suit_minibatches(function, message):
    with pytest.raises(GuideError, match=message):
        adapted(function)


def test_autoguides_have_parameters_for_every_row():
    def plates(x):
        return numpyro.plate("rows", N, subsample_size=B)

    guide, target, batch = adapted(AutoNormal(by_index, create_plates=plates))
    params = start(guide, target, batch)
    axes = guide.row_axes(params, target.space, target.subsampled)
    assert {name: one.pairs for name, one in axes.items() if one.pairs} == {
        "z_auto_loc": (("rows", 0),),
        "z_auto_scale": (("rows", 0),),
    }
    params["z_auto_loc"] = jnp.asarray(X)
    rows = np.array([4, 1])
    taken = {name: value[rows] if axes[name].pairs else value for name, value in params.items()}
    draw = jax.jit(lambda: guide.draw(taken, target.on_batch.space, jax.random.key(0), batch))()
    noise = dist.Normal(0.3, 0.1).log_prob(draw.z["mu"])
    local = dist.Normal(X[rows], 0.1).log_prob(draw.z["z"]).sum()
    np.testing.assert_allclose(draw.log_q, noise + N / B * local, rtol=1e-4)


def test_a_point_for_every_row_but_no_vector_of_all():
    guide, target, batch = adapted(AutoDelta(by_index))
    axes = guide.row_axes(start(guide, target, batch), target.space, target.subsampled)
    assert axes["z_auto_loc"].pairs == (("rows", 0),)
    guide, target, batch = adapted(AutoDiagonalNormal(by_index))
    with pytest.raises(GuideError, match="expected per-row parameters for site 'z'"):
        guide.row_axes(start(guide, target, batch), target.space, target.subsampled)

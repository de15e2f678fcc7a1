"""Every misuse of the model layer is a typed error that names the cause and a remedy."""

import math
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from numpyro import handlers
from numpyro.contrib.control_flow import cond, scan
from numpyro.primitives import mutable

from vijax.contracts import Batch
from vijax.model import build, split, unwrap
from vijax.runtime.errors import ArgumentError, ModelError, VijaxError

Y8 = np.zeros(8, np.float32)
LATENT = dist.Normal()


def make(model, *args, **kwargs):
    model, args, kwargs = unwrap(model, args, kwargs)
    arguments, data = split(model, args, kwargs)
    return build(model, arguments), Batch(data)


def simple(x, y=None):
    numpyro.sample("mu", LATENT)


class Table:
    columns = ("a", "b")
    shape = (3, 2)


class Sparse:
    shape = (3, 2)

    def tocsr(self):
        return self


class Missing:  # a pandas column of strings
    dtype = np.dtype(object)

    def __array__(self, *_, **__):
        return np.array(["a", None], object)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, r"missing a required argument: 'x'.*Expected simple\(x, y=None\), got 0 positio"),
        ((1, 2, 3), {}, r"too many positional arguments.*got 3 positional"),
        ((1,), {"yy": 2}, r"unexpected keyword argument 'yy'.*Did you mean 'y'\?"),
        ((1,), {"x": 2}, r"multiple values for argument 'x'"),
        ((np.array([["a"]]),), {}, r"argument 'x': expected a numeric array, got dtype <U1.*codes"),
        ((1,), {"y": Missing()}, r"argument 'y': expected a label.*1 of 2.*missing.*row 1"),
        ((np.array(["2020-01-01"], "M8[D]"),), {}, r"argument 'x'.*datetime64"),
        (({"a": [Table()]},), {}, r"argument \"x\['a'\]\[0\]\": expected a table in memory, got T"),
        ((Sparse(),), {}, r"argument 'x': expected a dense array, got a sparse Sparse.*toarray"),
        ((np.ma.masked_array([1.0, 2.0], [0, 1]),), {}, r"argument 'x': .*masked.*obs_mask="),
        ((np.array([1, 2**40]),), {}, r"argument 'x': .*int32.*got 1099511627776 at index \[1\]"),
        ((np.array([[1.0, -1e300]]),), {}, r"float32.*got -1e\+300 at index \[0, 1\].*enable_x64"),
    ],
)
def test_wrong_arguments(args, kwargs, message):
    with jax.enable_x64(False), pytest.raises(ArgumentError, match=message) as error:
        split(simple, args, kwargs)
    assert isinstance(error.value, (ModelError, TypeError, ValueError))
    assert isinstance(error.value, TypeError)


@pytest.mark.parametrize("model", [3, "model", None])
def test_a_model_must_be_callable(model):
    with pytest.raises(ArgumentError, match=f"expected a NumPyro model.*{type(model).__name__}"):
        unwrap(model, (), {})


def no_latent(y):
    numpyro.sample("y", dist.Normal(), obs=y)


def only_discrete(y):
    z = numpyro.sample("z", dist.Bernoulli(0.5))
    numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


def count(y):
    mu = numpyro.sample("mu", LATENT)
    numpyro.sample("y", dist.Normal(mu + numpyro.sample("z", dist.Poisson(2.0)), 1.0), obs=y)


def counts(y):
    k = numpyro.sample("z", dist.Multinomial(4, jnp.ones(3) / 3))
    numpyro.sample("y", dist.Normal(k[0], 1.0), obs=y)


def count_in_scan(y):
    numpyro.sample("mu", LATENT)
    scan(lambda c, y: (numpyro.sample("z", dist.Poisson(2.0)), None), jnp.array(0), y)


def duplicate(y):
    numpyro.sample("a", LATENT)
    numpyro.sample("a", LATENT)


def two_kinds(y):
    numpyro.sample("a", LATENT)
    numpyro.param("a", 1.0)


def plate_too_large(y):
    mu = numpyro.sample("mu", LATENT)
    with numpyro.plate("n", 10):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def plate_and_distribution(y):
    mu = numpyro.sample("mu", LATENT)
    with numpyro.plate("n", 10):
        numpyro.sample("y", dist.Normal(mu + y, 1.0))


def broadcasting(y):
    mu = numpyro.sample("mu", dist.Normal(jnp.zeros(8), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y[:, None])


def one_for_all(y):
    mu = numpyro.sample("mu", LATENT)
    with numpyro.plate("n", 8):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y[:1])


def too_few_events(y):
    numpyro.sample("mu", LATENT)
    numpyro.sample("y", dist.Normal(jnp.zeros(3), 1.0), obs=y)


def a_list(y):
    mu = numpyro.sample("mu", LATENT)
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=[1.0, 2.0])


def branch_on_data(y):
    mu = numpyro.sample("mu", LATENT)
    if y.sum() > 0:
        mu = mu + 1
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def branch_on_latent(y):
    if numpyro.sample("mu", LATENT) > 0:
        numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def plate_size_from_data(y):
    with numpyro.plate("n", y.astype(int).max() + 1):
        numpyro.sample("mu", LATENT)


def numpy_function(y):
    scale = np.exp(numpyro.sample("a", dist.Normal(0.0, 1.0)))
    numpyro.sample("y", dist.Normal(0.0, scale), obs=y)


def math_function(y):
    scale = math.exp(numpyro.sample("a", dist.Normal(0.0, 1.0)))
    numpyro.sample("y", dist.Normal(0.0, scale), obs=y)


def scipy_function(y):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    numpyro.factor("y", scipy.stats.norm.logpdf(y, a).sum())


def to_numpy(y):
    np.asarray(numpyro.sample("mu", LATENT))


class Odd(dist.constraints.Constraint):
    event_dim = 0
    is_discrete = False

    def __call__(self, x):
        return x > 0

    def tree_flatten(self):
        return (), ((), {})


def unsupported(y):
    numpyro.sample("mu", dist.ImproperUniform(Odd(), (), ()))


def local_without_all_rows(y):
    with numpyro.plate("n", 80, subsample_size=8):
        mu = numpyro.sample("mu", LATENT)
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def own_exception(y):
    numpyro.sample("mu", LATENT)
    raise RuntimeError("my error")


def scan_under_plate(y):
    with numpyro.plate("n", 3):
        scan(lambda c, y: (numpyro.sample("mu", dist.Normal(c, 1.0)), None), jnp.zeros(3), y)


def mutable_in_scan(y):
    def step(carry, y):
        mutable("state", {"a": 0.0})
        return numpyro.sample("mu", dist.Normal(carry, 1.0)), None

    scan(step, jnp.array(0.0), y)


def unlike_branches(y):
    s = numpyro.sample("s", LATENT)
    cond(
        s > 0,
        lambda _: numpyro.sample("a", LATENT),
        lambda _: numpyro.sample("b", LATENT),
        None,
    )


def same_plate_twice(y):
    with numpyro.plate("p", 3), numpyro.plate("p", 3):
        numpyro.sample("mu", LATENT)


def two_sizes(y):
    with numpyro.plate("p", 3):
        numpyro.sample("mu", LATENT)
    with numpyro.plate("p", 4):
        numpyro.sample("nu", LATENT)


def dim_twice(y):
    with numpyro.plate("a", 3, dim=-1), numpyro.plate("b", 3, dim=-1):
        numpyro.sample("mu", LATENT)


def not_a_distribution(y):
    numpyro.sample("mu", 3.0)


def no_such_density(y):
    mu = numpyro.sample("mu", LATENT)
    numpyro.sample("y", dist.Normal(mu, 1.0).mask(jnp.zeros(3, bool)), obs=y[:3])
    numpyro.sample("z", Broken(), obs=0.5)


class Broken(dist.Distribution):
    support = dist.constraints.real

    def log_prob(self, value):
        raise ArithmeticError("no density here")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (no_latent, "model 'no_latent': expected at least one continuous latent .*got none"),
        (only_discrete, "model 'only_discrete': expected at least one continuous latent"),
        (count, r"site 'z': .*finitely many values.*got Poisson.*Truncate it"),
        (counts, "site 'z': .*finitely many values.*got Multinomial.*categories that it counts"),
        (count_in_scan, "site 'z': .*finitely many values.*got Poisson"),
        (duplicate, "'duplicate'.*at site 'a'.*unique names.*Rename one.*scope"),
        (two_kinds, "site 'a': expected a unique site name.*param"),
        (plate_too_large, r"site 'y': .*shape \(10,\) \(inside plate 'n' of size 10.*got \(8,\)"),
        (plate_and_distribution, r"at site 'y'.*Plate 'n' has size 10.*Normal.*shape \(8,\)"),
        (broadcasting, r"site 'y': .*shape \(8,\), got \(8, 1\); broadcast to \(8, 8\)"),
        (one_for_all, r"site 'y': .*got \(1,\); broadcast to \(8,\), some would be counted"),
        (too_few_events, r"site 'y': expected observations of shape \(3,\), got \(8,\)"),
        (a_list, "site 'y': expected obs= to be an array, got a list"),
        (branch_on_data, r"needs the value of an array.*test_errors.py, line \d+.*jnp.where"),
        (branch_on_latent, "needs the value of an array"),
        (plate_size_from_data, r"needs the value of an array.*J=int\(J\)"),
        (to_numpy, r"needs the value of an array.*abstract inside the model\. Use jax\.numpy"),
        (numpy_function, r"inside the model\. Use jax\.numpy, jnp\.exp instead of np\.exp\."),
        (math_function, r"inside the model\. Use jax\.numpy, jnp\.exp instead of math\.exp\."),
        (scipy_function, r"use jax\.scipy \(jax\.scipy\.stats.*through jax\.pure_callback"),
        (unsupported, "site 'mu': no bijection is known.*ImproperUniform.*biject_to"),
        (local_without_all_rows, r"site 'mu': expected data for all 80 rows of plate 'n'.*got 8"),
        (own_exception, r"'own_exception' failed with RuntimeError.*line \d+\): my error"),
        (scan_under_plate, "'scan_under_plate'.*Please move those `plate` statements into"),
        (mutable_in_scan, "mutable site 'state': expected it outside control flow"),
        (unlike_branches, "Both branches of cond need the same sites"),
        (same_plate_twice, "site 'mu': expected plates of different names.*'p'"),
        (two_sizes, "plate 'p': expected one size, got 3 and 4"),
        (dim_twice, "'dim_twice'.*dim used twice"),
        (not_a_distribution, "'not_a_distribution'.*expected an instance of.*Distribution"),
        (no_such_density, "site 'z': Broken .*has no log density.*no density here"),
    ],
)
def test_models_that_cannot_be_fitted(model, message):
    with pytest.raises(ModelError, match=f"(?s){message}") as error:
        make(model, Y8)
    assert isinstance(error.value, VijaxError)
    assert isinstance(error.value, ValueError)


def test_the_original_traceback_is_kept():
    with pytest.raises(ModelError) as error:
        make(own_exception, Y8)
    cause = error.value.__cause__
    assert isinstance(cause, RuntimeError)
    frames = traceback.extract_tb(cause.__traceback__)
    assert "own_exception" in [frame.name for frame in frames]


def test_an_error_leaves_no_handler_on_the_stack():
    with pytest.raises(ModelError):
        make(own_exception, Y8)
    assert numpyro.primitives._PYRO_STACK == []


def test_errors_are_raised_again():
    for _ in range(2):
        with pytest.raises(ModelError, match="finitely many"):
            make(count, Y8)


def test_a_param_needs_an_initial_value():
    def model():
        numpyro.sample("mu", LATENT)
        numpyro.param("p")

    target, batch = make(model)
    with pytest.raises(ModelError, match="param site 'p': expected an initial value"):
        target.initialize(jax.random.key(0), batch)


def test_a_missing_latent_is_not_drawn_from_the_prior():
    def model():
        numpyro.sample("a", LATENT)
        numpyro.sample("b", LATENT)

    target, batch = make(model)
    with pytest.raises(ModelError, match="site 'b': expected a value"):
        target.log_density({"a": jnp.array(0.0)}, batch)


def test_legal_models_are_accepted():
    def model(y):
        mu = numpyro.sample("mu", LATENT)
        numpyro.sample("rows", dist.Normal(mu, 1.0), obs=y)  # data without a plate
        with numpyro.plate("n", 3):
            numpyro.sample("zero", dist.Normal(mu, 1.0), obs=0.0)  # one constant for all
        count = numpyro.sample("count", dist.Poisson(2.0))  # discrete, but given a value
        numpyro.factor("f", -count * mu**2)

    fixed = handlers.substitute(model, data={"count": jnp.array(2)})
    target, batch = make(fixed, Y8)
    assert target.space.names == ("mu",)
    assert jnp.isfinite(target.log_density({"mu": jnp.array(0.3)}, batch))

"""Remarks on models at their data: nothing observed, constant factors, outcomes all equal."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import vijax
from vijax.contracts import Batch
from vijax.diagnostics.diagnosis import Diagnostics
from vijax.diagnostics.status import diagnose
from vijax.model import model_remarks, split_and_build, unwrap

X = np.linspace(-1, 1, 20, dtype=np.float32)
LABELS = (X > 0.1).astype(int)


def regression(x, y=None, factor=None, family=lambda eta: dist.Bernoulli(logits=eta)):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    if factor is not None:
        numpyro.factor("penalty", factor(x, slope))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", family(slope * x), obs=y)


def remarks(model, *args, **kwargs):
    model, args, kwargs = unwrap(model, args, kwargs)
    _, data, target = split_and_build(model, args, kwargs, None)
    return model_remarks(model, args, kwargs, target, Batch(data))


def test_nothing_observed():
    text = "nothing is observed: this is the prior"
    found = remarks(regression, X, family=lambda eta: dist.Normal(eta, 1.0))
    assert found.texts == found.warnings == (f"{text} (arguments 'y', 'factor': None)",)
    found = remarks(lambda: numpyro.sample("x", dist.Normal(0.0, 1.0)))
    assert found.texts == (text,)
    assert found.warnings == ()  # nothing was forgotten
    assert remarks(regression, X, LABELS).texts == ()
    assert remarks(vijax.from_log_density(lambda x: -jnp.sum(x**2), 2)).texts == ()


def test_a_factor_that_no_latent_changes():
    found = remarks(regression, X, LABELS, factor=lambda x, slope: -jnp.sum(x**2))
    assert found.texts == found.warnings
    assert found.texts[0].startswith("factor 'penalty' depends on no latent site")
    assert remarks(regression, X, LABELS, factor=lambda x, slope: -jnp.sum(x) * slope).texts == ()

    def with_param(x):
        numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.factor("fitted", -((numpyro.param("a", 1.0) - x.sum()) ** 2))

    assert remarks(with_param, X).texts == ()


def test_an_outcome_that_was_not_observed():
    def model(x, y, z, observe):
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
        numpyro.sample("z", dist.Normal(slope, 1.0), obs=z)
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(slope * x, 1.0), obs=y if observe else None)

    text = "argument 'y' is not used, and site 'y' is a latent one: was obs=y forgotten?"
    assert remarks(model, X, X**2, 0.5, False).warnings == (text,)
    assert remarks(model, X, X**2, 0.5, True).texts == ()


@pytest.mark.parametrize(
    "family",
    [
        lambda eta: dist.Bernoulli(logits=eta),
        lambda eta: dist.Binomial(3, logits=eta),
        lambda eta: dist.Categorical(logits=jnp.stack([eta, -eta], axis=-1)),
    ],
)
def test_outcomes_that_are_all_equal(family):
    for y in (np.zeros(20, int), np.ones(20, int)):
        found = remarks(regression, X, y, family=family)
        assert found.texts == (f"all 20 outcomes of site 'y' are equal ({y[0]})",)
    assert remarks(regression, X, LABELS, family=family).texts == ()


def test_outcomes_that_may_be_equal():
    few = np.ones(8, int)
    assert remarks(regression, X[:8], few).texts == ()
    normal = remarks(regression, X, np.ones(20, np.float32), family=lambda eta: dist.Normal(eta))
    assert normal.texts == ()

    def indicators(x):  # a likelihood by ones, which no argument holds
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
        numpyro.sample("ones", dist.Bernoulli(jnp.exp(-((x - slope) ** 2))), obs=jnp.ones(len(x)))

    assert remarks(indicators, X).texts == ()


def test_remarks_are_warned_of_and_reported():
    normal = {"family": lambda eta: dist.Normal(eta, 1.0), "progress_bar": False}
    with pytest.warns(vijax.VijaxWarning, match="nothing is observed: this is the prior"):
        posterior = vijax.fit(regression, X[:2], guide="fullrank", **normal)
    assert posterior.status == "certified"  # of the prior
    text = "nothing is observed: this is the prior (arguments 'y', 'factor': None)"
    assert posterior.report().splitlines()[0] == f"status: certified ({text})"
    assert text in posterior.report()._repr_html_().replace("&#x27;", "'")
    assert str(posterior.summary()).endswith(f"can be used as they are; {text})")


def test_a_forgotten_constraint_is_what_to_add():
    def density(values):
        return -values["rate"] - values["share"] ** 2

    model = vijax.from_log_density(
        density, {"rate": (), "share": ()}, {"share": constraints.positive}
    )
    advice = remarks(model).failure_advice
    assert advice.startswith("Is the density defined and integrable for all real values of 'rate'?")
    assert "add constraints= to from_log_density" in advice
    found = Diagnostics(None, None, improper="rate up", failure_advice=advice)
    assert diagnose(found).advice == advice
    found = found._replace(improper="", finite_share=0.9)
    assert diagnose(found).advice == advice
    assert diagnose(found._replace(finite_share=1.0)).advice != advice

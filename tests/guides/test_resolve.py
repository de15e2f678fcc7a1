import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.infer.autoguide import AutoNormal

import vijax
from tests.targets import problem
from vijax import guides
from vijax.guides import NAMES, Delta, FullRank, Laplace, LowRank, MeanField, resolve
from vijax.guides.composite import Composite, GaussianComposite
from vijax.model import build, split
from vijax.runtime.errors import GuideError


@pytest.fixture
def target():
    return problem("regression").target


@pytest.mark.parametrize(
    ("name", "guide"),
    [
        ("meanfield", MeanField()),
        ("fullrank", FullRank()),
        ("lowrank", LowRank()),
        ("laplace", Laplace()),
        ("map", Delta()),
        ("delta", Delta()),
    ],
)
def test_every_name_has_a_guide(name, guide, target):
    assert resolve(name, target) == guide
    assert name in NAMES


@pytest.mark.parametrize(
    ("name", "close"),
    [("mean-field", "meanfield"), ("FullRank", "fullrank"), ("MAP", "map"), ("Auto", "auto")],
)
def test_an_unknown_name_suggests_the_closest(name, close, target):
    with pytest.raises(GuideError, match=f"'meanfield', .*Did you mean '{close}'"):
        resolve(name, target)


def test_an_unknown_name_without_a_close_match_suggests_nothing(target):
    with pytest.raises(GuideError, match=r"got 'quux'\.$"):
        resolve("quux", target)


def test_guides_are_returned_and_classes_instantiated(target):
    assert resolve(LowRank(3), target) == LowRank(3)
    assert resolve(FullRank, target) == FullRank()


def test_a_mapping_may_combine_numpyro_guides_and_names():
    p = problem("regression")
    guide = resolve({"alpha": AutoNormal, ...: "lowrank"}, p.target, p.model, p.arguments)
    assert isinstance(guide, Composite)
    assert repr(guide).endswith(
        "(('alpha',), NumPyroAuto(AutoNormal)), (('beta',), LowRank(rank=None, init_scale=0.1))))"
    )


@pytest.mark.parametrize("guide", [3, None, ["meanfield"]])
def test_other_types_raise_an_error(guide, target):
    with pytest.raises(TypeError, match="guide: expected a name"):
        resolve(guide, target)


def test_a_numpyro_guide_needs_its_model(target):
    with pytest.raises(TypeError, match="needs the model and its arguments"):
        resolve(AutoNormal, target)


@pytest.mark.parametrize(
    "guide",
    [MeanField(0.3), FullRank(), Laplace(), LowRank(3), Delta()]
    + [{"alpha": MeanField(0.5), "beta": LowRank(1)}, {"alpha": Delta(), "beta": FullRank()}],
)
def test_the_repr_evaluates_to_the_guide(guide, target):
    resolved = resolve(guide, target)
    names = {kind.__name__: kind for kind in (MeanField, FullRank, Laplace, LowRank, Delta)}
    names |= {"Composite": Composite, "GaussianComposite": GaussianComposite}
    assert eval(repr(resolved), names) == resolved


def test_markov_is_for_the_sites_of_a_scan():
    """Global sites beside it, plates and shorter vectors are jointly full-rank."""

    def state_space(y):
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("noise", dist.Normal(0.0, 1.0))

        def step(x, y):
            x = numpyro.sample("x", dist.Normal(beta.sum() * x, sigma))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
            return x, None

        scan(step, 0.0, y)

    y = np.linspace(-1.0, 1.0, 9)
    target = build(state_space, split(state_space, (y,), {})[0])
    for guide in ("markov", guides.Markov(), guides.Markov):
        parts = dict(resolve(guide, target).parts)
        assert parts == {("x",): guides.Markov(), ("sigma", "beta", "noise"): guides.FullRank()}

    def globals_only():
        numpyro.sample("sigma", dist.HalfNormal(1.0))

    target = build(globals_only, split(globals_only, (), {})[0])
    with pytest.raises(GuideError, match=r"Markov: expected sites with a leading axis of steps"):
        resolve("markov", target)


@pytest.mark.slow
def test_markov_with_globals_is_fitted():
    def random_walk(y):
        level = numpyro.sample("level", dist.Normal(0.0, 1.0))

        def step(x, y):
            x = numpyro.sample("x", dist.Normal(x, 0.5))
            numpyro.sample("y", dist.Normal(level + x, 1.0), obs=y)
            return x, None

        scan(step, 0.0, y)

    y = np.array([1.0, 1.2, 0.3, 0.8], np.float32)
    posterior = vijax.fit(random_walk, y, guide="markov", num_steps=800, progress_bar=False)
    time = np.minimum.outer(np.arange(4), np.arange(4)) + 1.0
    marginal = 0.25 * time + np.eye(4) + 1.0
    mean = np.linalg.solve(marginal, y).sum()
    assert posterior.median()["level"] == pytest.approx(mean, abs=0.1)


def test_patterns_of_sites_are_for_those_without_a_name():
    def model():
        for name in ("net/hidden/kernel", "net/hidden/bias", "net/out/kernel", "scale"):
            numpyro.sample(name, dist.Normal())

    target = build(model, split(model, (), {})[0])
    mapping = {"net/*": "fullrank", "net/hidden/bias": "map", ...: "meanfield"}
    found = {names: type(part) for names, part in resolve(mapping, target).parts}
    assert found == {
        ("net/hidden/kernel", "net/out/kernel"): FullRank,
        ("net/hidden/bias",): Delta,
        ("scale",): MeanField,
    }
    with pytest.raises(GuideError, match=r"matches one of .*'other/\*'"):
        resolve({"other/*": "map", ...: "meanfield"}, target)

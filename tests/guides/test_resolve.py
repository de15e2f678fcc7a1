import pytest
from numpyro.infer.autoguide import AutoNormal

from tests.targets import problem
from vijax.guides import NAMES, Delta, FullRank, Laplace, LowRank, MeanField, resolve
from vijax.guides.composite import Composite, GaussianComposite
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

import pytest

from tests.laws import GUIDES, case, laws_of, lowers_for_accelerators

# These take the longest to compile, and their parts are tested in other entries.
LONG = {"AutoDAIS", "AutoLowRank", "composite_markov", "flow_invert", "flow_lowrank"}
LONG |= {"flow_meanfield", "flow_spline"}


def marks(name, law):
    return [pytest.mark.slow] if name in LONG and law is not lowers_for_accelerators else []


@pytest.mark.parametrize(
    ("name", "law"),
    [
        pytest.param(name, law, id=f"{name}-{law.__name__}", marks=marks(name, law))
        for name in GUIDES
        for law in laws_of(name)
    ],
)
def test_guide_satisfies(name, law):
    law(case(name))

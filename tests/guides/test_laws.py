import pytest

from tests.laws import GUIDES, case, laws_of

# Take the longest to compile, and others have their parts.
LONG = {"AutoDAIS", "composite_markov", "flow_invert", "flow_lowrank", "flow_meanfield"}


def marks(name):
    return [pytest.mark.slow] if name in LONG else []


@pytest.mark.parametrize(
    ("name", "law"),
    [
        pytest.param(name, law, id=f"{name}-{law.__name__}", marks=marks(name))
        for name in GUIDES
        for law in laws_of(name)
    ],
)
def test_guide_obeys(name, law):
    law(case(name))

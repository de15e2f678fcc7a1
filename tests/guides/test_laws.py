import pytest

from tests.laws import GUIDES, case, laws_of


@pytest.mark.parametrize(
    ("name", "law"),
    [
        pytest.param(name, law, id=f"{name}-{law.__name__}")
        for name in GUIDES
        for law in laws_of(name)
    ],
)
def test_guide_obeys(name, law):
    law(case(name))

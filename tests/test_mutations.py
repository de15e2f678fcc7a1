"""The faults of `tests.mutations` refer to code that exists."""

import pytest

from tests.mutations import FAULTS, ROOT


@pytest.mark.parametrize("name", FAULTS)
def test_the_line_of_a_fault_occurs_once(name):
    fault = FAULTS[name]
    assert (ROOT / "vijax" / fault.file).read_text(encoding="utf-8").count(fault.right) == 1

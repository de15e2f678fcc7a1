"""Draws in blocks: every one is evaluated, few of them without much padding."""

import numpy as np
import pytest

from vijax.runtime.blockwise import map_blocks


@pytest.mark.parametrize(("num_draws", "sizes"), [(3, [16]), (20, [32]), (300, [256, 256])])
def test_blocks_are_no_larger_than_needed(num_draws, sizes):
    seen = []

    def double(part, index):
        seen.append(len(index))
        return {"x": 2 * part["x"]}

    x = np.arange(num_draws)
    np.testing.assert_array_equal(map_blocks(double, {"x": x}, 256)["x"], 2 * x)
    assert seen == sizes

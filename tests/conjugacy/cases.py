"""Small conditionally conjugate models with data, by name.

`CASES` are all of them, `CLOSED_FORMS` those with a single block, whose posterior and evidence
are exact, `AUGMENTED` those that are conjugate only with further latents, which the library
introduces. `FALSE_FRIENDS` look conjugate and are not. Data are float64: run with `jax_enable_x64`.
"""

from tests.conjugacy.augmented import AUGMENTED
from tests.conjugacy.chains import CHAINS
from tests.conjugacy.false_friends import FALSE_FRIENDS
from tests.conjugacy.several_blocks import SEVERAL_BLOCKS
from tests.conjugacy.single_block import CLOSED_FORMS

CASES = {**CLOSED_FORMS, **SEVERAL_BLOCKS, **CHAINS}

__all__ = ["AUGMENTED", "CASES", "CHAINS", "CLOSED_FORMS", "FALSE_FRIENDS", "SEVERAL_BLOCKS"]

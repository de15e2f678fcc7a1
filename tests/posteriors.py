"""Posteriors that no fit would give."""

import dataclasses

from vijax import Posterior


def map_parts(posterior, **fields):
    """The same posterior with some fields of its result replaced."""
    return Posterior(dataclasses.replace(posterior._result, **fields))

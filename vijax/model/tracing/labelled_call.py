"""A model with all of its arguments, and labels of the elements along its dimensions."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any


class LabelledCall(functools.partial):
    """A model with all of its arguments, and labels along its dimensions."""

    coords: dict[str, Any]

    def __new__(cls, coords: dict[str, Any], model: Any, /, *args: Any, **kwargs: Any) -> Any:
        """As `functools.partial`, with the labels first."""
        made = super().__new__(cls, model, *args, **kwargs)
        made.coords = coords
        return made


def own_coords(model: Any, coords: Any) -> Any:
    """The option `coords`, with those that a model has itself."""
    if not isinstance(model, LabelledCall) or not isinstance(coords, Mapping | None):
        return coords
    return model.coords | dict(coords or {})

"""Which discrete sites are summed out, and which are drawn along with the continuous ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vijax.contracts import Target
from vijax.model.build import build
from vijax.model.minibatch import plates as minibatch
from vijax.model.tracing.arguments import Arguments
from vijax.model.tracing.discrete_values import ENDLESS
from vijax.model.tracing.run import Drawn
from vijax.runtime.errors import ModelError


def built(
    model: Callable[..., Any],
    arguments: Arguments,
    asked: minibatch.Request | None = None,
    drawn: Drawn = frozenset(),
) -> Target:
    """The target of `model`, with all discrete sites summed out that can be.

    Drawn are those that the caller names; if the others cannot be summed out, counts without an
    upper end as well; if that does not help, all of them, as in a model with nothing else.

    Args:
        model: the model function.
        arguments: its static arguments.
        asked: as for `vijax.model.build`.
        drawn: sites that are to be drawn in any case.

    Raises:
        ModelError: the model cannot be fitted either way; the message is that of the first try.
    """
    try:
        return build(model, arguments, asked, drawn)
    except ModelError:
        try:
            whole = build(model, arguments, asked, "all")
        except ModelError:
            whole = None
        if whole is None or not whole.space.discrete.sites:
            raise
    endless = {site.name for site in whole.space.sites if site.cardinality == ENDLESS}
    if drawn == "all" or not endless:
        return whole
    try:
        return build(model, arguments, asked, drawn | endless)
    except ModelError:
        return whole

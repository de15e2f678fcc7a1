"""A model with its data and the values of its parameters, fitted or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from vijax.contracts import Batch, PyTree, Target, Variables
from vijax.model import Arguments


class ModelState(Protocol):
    """What a fit and a prior have in common."""

    @property
    def model(self) -> Callable[..., Any]:
        """The model function."""

    @property
    def arguments(self) -> Arguments:
        """The static part of its arguments."""

    @property
    def target(self) -> Target:
        """Its sites and plates, and after a fit its log density."""

    @property
    def variables(self) -> Variables:
        """Of which `variables.model` are the model's `param` sites (unconstrained)."""

    @property
    def mutable(self) -> dict[str, PyTree]:
        """The model's mutable state."""

    @property
    def batch(self) -> Batch:
        """The data."""


class UnfittedModel(NamedTuple):
    """A `ModelState` before any fit."""

    model: Callable[..., Any]
    arguments: Arguments
    target: Target
    variables: Variables
    mutable: dict[str, PyTree]
    batch: Batch

"""A model with its data, the options of its fit, and the model that NUTS runs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Example(NamedTuple):
    """An example.

    Attributes:
        model: the model function, as in NumPyro's example.
        args: its arguments.
        options: of `vijax.fit`; none for the default fit.
        nuts: the model for NUTS, the same one by default; with discrete sites one in which they are
            marginalized by hand, since NumPyro marginalizes with an extra package only. `None`
            where NUTS is not affordable or does not apply.
        compared: sites that are compared, all continuous ones by default. Names of mixture
            components or network weights may be permuted, and functions of them are compared.
    """

    model: Callable[..., Any]
    args: tuple[Any, ...] = ()
    options: Mapping[str, Any] = {}
    nuts: Callable[..., Any] | str | None = "same"
    compared: tuple[str, ...] | None = None

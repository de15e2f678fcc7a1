"""What a network inside a model function knows of the run that it is in.

A model function has no arguments for its networks; a context carries what they need besides the
values of their weights.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

Noise = Mapping[str, Mapping[str, tuple[Any, Any]]]


class NetworkRun(NamedTuple):
    """A run of a model function.

    Attributes:
        training: whether it is a step of a fit: dropout is on, and batch statistics are computed.
        noise: of sites with a normal distribution, by the kind of noise and the site's name, mean
            and standard deviation of the distribution that the site's value was drawn from. See
            `vijax.guides.MeanField`.
        linearized: by site, weights `m` in unconstrained space around which networks are linear:
            they compute `f(x, m) + J(x) (w - m)`.
        starts: where networks record initial values by site; `None` if they are not wanted.
    """

    training: bool = False
    noise: Noise = {}
    linearized: Mapping[str, Any] = {}
    starts: dict[str, Any] | None = None


_run: contextvars.ContextVar[NetworkRun | None] = contextvars.ContextVar(
    "network_run", default=None
)


def current_run() -> NetworkRun:
    """The run of the model function that is being called."""
    return _run.get() or NetworkRun()


@contextlib.contextmanager
def network_run(run: NetworkRun) -> Iterator[None]:
    """Calls of model functions inside belong to a run."""
    token = _run.set(run)
    try:
        yield
    finally:
        _run.reset(token)

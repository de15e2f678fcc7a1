"""The models of NumPyro's examples on simulated data of the same shapes, a file per kind."""

from collections.abc import Callable

from bench.examples import (
    classification,
    counts,
    dynamics,
    geometry,
    latent_states,
    minibatches,
    mixtures,
    regressions,
    series,
)
from bench.examples.case import Example

EXAMPLES: dict[str, Callable[[], Example]] = {
    name: make
    for kind in (
        counts,
        regressions,
        classification,
        geometry,
        series,
        dynamics,
        latent_states,
        mixtures,
        minibatches,
    )
    for name, make in kind.EXAMPLES.items()
}

"""A model whose prior is the posterior of earlier data: a normal distribution of its latents."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from numpyro.distributions import MultivariateNormal, biject_to
from numpyro.distributions.constraints import Constraint
from numpyro.primitives import Messenger

from vijax.model.predictive import abstract_call, model_call
from vijax.model.tracing.sites import is_factor
from vijax.runtime.errors import ModelError, mismatch

FACTOR = "earlier_data"


class Earlier(NamedTuple):
    """The normal distribution of the latents in unconstrained space, sites in order.

    Attributes:
        mean: `(dim,)`.
        scale_tril: `(dim, dim)`, its covariance is `scale_tril @ scale_tril.T`.
    """

    mean: Array
    scale_tril: Array


@dataclasses.dataclass(frozen=True)
class Updated:
    """`model(*args, **kwargs)` with the density of `earlier` in place of the priors of `sites`.

    Without `earlier`, as for predictions, it is the model.

    Attributes:
        model: the model function.
        sites: the latent sites that earlier data were about, in order.
    """

    model: Callable[..., Any]
    sites: tuple[str, ...]

    @property
    def __name__(self) -> str:
        return getattr(self.model, "__name__", type(self.model).__name__)

    @property
    def __signature__(self) -> inspect.Signature:
        signature = inspect.signature(self.model)
        earlier = inspect.Parameter("earlier", inspect.Parameter.KEYWORD_ONLY, default=None)
        parameters = [*signature.parameters.values()]
        place = len(parameters)
        if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
            place -= 1
        return signature.replace(parameters=[*parameters[:place], earlier, *parameters[place:]])

    def __call__(self, *args: Any, earlier: Earlier | None = None, **kwargs: Any) -> Any:
        """Runs the model; see the class."""
        if earlier is None:
            return self.model(*args, **kwargs)
        kept = _WithoutPriors(self.sites)
        with kept:
            returned = self.model(*args, **kwargs)
        parts = [kept.values[name] for name in self.sites]
        z = jnp.concatenate([jnp.ravel(part) for part, _ in parts])
        normal = MultivariateNormal(earlier.mean, scale_tril=earlier.scale_tril)
        numpyro.factor(FACTOR, normal.log_prob(z) - sum(jnp.sum(part) for _, part in parts))
        return returned


class _WithoutPriors(Messenger):
    """Masks the priors of sites, and keeps their unconstrained values and log Jacobians."""

    def __init__(self, sites: tuple[str, ...]) -> None:
        super().__init__(None)
        self.sites = frozenset(sites)
        self.values: dict[str, tuple[Array, Array]] = {}

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.sites:
            msg["fn"] = msg["fn"].mask(False)

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.sites:
            transform = biject_to(msg["fn"].support)
            z = transform.inv(msg["value"])
            self.values[msg["name"]] = z, transform.log_abs_det_jacobian(z, msg["value"])


def earlier_supports(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    new_groups: tuple[str, ...],
) -> dict[str, Constraint]:
    """The latent sites at new arguments that earlier data were about, in order: their supports.

    Those of plates in `new_groups` are other latents of the same names.

    Args:
        model: the model function.
        args: its new positional arguments.
        kwargs: its new keyword arguments.
        shapes: of the latent sites of the earlier fit.
        new_groups: names of plates.

    Raises:
        ModelError: a latent has another shape, its support depends on other sites or arrays, or a
            plate is unknown.
    """
    call, _, _ = model_call(model, args, kwargs)
    _, trace = abstract_call(call)
    plates = {name for name, site in trace.items() if site["type"] == "plate"}
    for name in new_groups:
        if name not in plates:
            raise ModelError(mismatch("new_groups", f"plates among {sorted(plates)}", repr(name)))
    found = {}
    for name, site in trace.items():
        if site["type"] != "sample" or site["is_observed"] or is_factor(site):
            continue
        if any(plate.name in new_groups for plate in site["cond_indep_stack"]):
            continue
        shape = jnp.shape(site["value"])
        if name not in shapes or shape != shapes[name]:
            expected = f"a latent of shape {shapes.get(name)}, as in the earlier fit"
            remedy = (
                "Pass the same groups, or new_groups=plate if the members of its plate are new."
            )
            raise ModelError(mismatch(f"site {name!r}", expected, f"shape {shape}", remedy))
        found[name] = site["fn"].support
        if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(found[name])):
            expected = "a support that depends on no other site or array"
            raise ModelError(mismatch(f"update: site {name!r}", expected, str(found[name])))
    return found


def unconstrained_values(
    draws: Mapping[str, np.ndarray], supports: Mapping[str, Constraint]
) -> np.ndarray:
    """Draws of sites in the coordinates of `Earlier`, `(num_draws, dim)`, in double precision."""
    parts = []
    for name, support in supports.items():
        with jax.enable_x64(True):
            z = biject_to(support).inv(jnp.asarray(draws[name], jnp.float64))
        parts.append(np.asarray(z, np.float64).reshape(len(z), -1))
    return np.concatenate(parts, axis=1)

"""A model given earlier data: its posterior in place of the priors, and batches since."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from numpyro.distributions import MultivariateNormal, Normal, TransformedDistribution, biject_to
from numpyro.distributions.constraints import Constraint
from numpyro.distributions.transforms import Transform
from numpyro.handlers import block, substitute, trace
from numpyro.primitives import Messenger

from vijax.contracts.conjugate import ConjugateBlock
from vijax.families.exponential_family import ExponentialFamily
from vijax.model.conjugate_priors import conjugate_priors
from vijax.model.predictive import abstract_call
from vijax.model.tracing.arguments import ModelCall
from vijax.model.tracing.sites import is_factor
from vijax.runtime.errors import ModelError, mismatch

FACTOR = "earlier_data"


class NormalPrior(NamedTuple):
    """The normal distribution of the latents in unconstrained space, sites in order.

    Attributes:
        mean: `(dim,)`.
        scale_tril: `(dim, dim)`, its covariance is `scale_tril @ scale_tril.T`.
    """

    mean: Array
    scale_tril: Array


class Batches(NamedTuple):
    """Calls of the model with earlier data, of equal shapes.

    Attributes:
        arrays: by leaf of the arguments, `(capacity, *shape)`; `None` where it is not an array.
        used: `(capacity,)`, whether there is a call; others are copies of one.
        log_evidence: of these data given those before them, `()`.
    """

    arrays: tuple[Array | np.ndarray | None, ...]
    used: Array | np.ndarray
    log_evidence: Array | np.ndarray


class Earlier(NamedTuple):
    """Earlier data: a distribution that takes the place of the priors, and batches since.

    Attributes:
        prior: the normal distribution or the families of blocks by name; `None` for the model's
            priors.
        batches: the data that came after those which `prior` is about.
    """

    prior: NormalPrior | dict[str, ExponentialFamily] | None = None
    batches: Batches | None = None


@dataclasses.dataclass(frozen=True)
class Updated:
    """`model(*args, **kwargs)` given `earlier` data.

    Without `earlier`, as for predictions, it is the model.

    Attributes:
        model: the model function.
        sites: those whose priors the normal distribution takes the place of, in order.
        blocks: those whose priors are members of their conjugate families.
    """

    model: Callable[..., Any]
    sites: tuple[str, ...] = ()
    blocks: tuple[ConjugateBlock, ...] = ()

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
        prior, batches = earlier
        families = prior if isinstance(prior, dict) else {}
        recorded = _Recorded(self.sites, prior)
        with recorded, conjugate_priors(self.blocks, families):
            returned = self.model(*args, **kwargs)
        factors: list[Any] = []
        if isinstance(prior, NormalPrior):
            parts = [recorded.unconstrained[name] for name in self.sites]
            z = jnp.concatenate([jnp.ravel(part) for part, _ in parts])
            normal = MultivariateNormal(prior.mean, scale_tril=prior.scale_tril)
            factors += [normal.log_prob(z), *(-jnp.sum(part) for _, part in parts)]
        if batches is not None:
            factors += [self._log_likelihood(batches, args, kwargs, recorded.values)]
            factors += [-batches.log_evidence]
        if factors:
            numpyro.factor(FACTOR, sum(factors))
        return returned

    def _log_likelihood(
        self, batches: Batches, args: Any, kwargs: Any, values: Mapping[str, Any]
    ) -> Array:
        """Of the data in `batches`, at the values of the latents."""
        leaves, treedef = jax.tree.flatten((args, kwargs))

        def of_one(arrays: tuple[Any, ...]) -> Array:
            pairs = zip(leaves, arrays, strict=True)
            filled = [leaf if array is None else array for leaf, array in pairs]
            args, kwargs = jax.tree.unflatten(treedef, filled)
            with block(), trace() as found, substitute(data=dict(values)):
                self.model(*args, **kwargs)
            return sum(map(_log_density, filter(_is_observed, found.values())), jnp.zeros(()))

        each = jax.vmap(of_one)(batches.arrays)
        return jnp.sum(jnp.where(batches.used, each, 0.0))


class _Recorded(Messenger):
    """Keeps the values of sites; replaces the priors of some, which then add nothing.

    Their distributions only have the location and scale of the normal prior, where solvers start.
    So they depend on no other site.

    Attributes:
        values: of all latent sites and parameters.
        unconstrained: of the sites without priors: their unconstrained values and log Jacobians.
    """

    def __init__(self, sites: tuple[str, ...], prior: Any) -> None:
        super().__init__(None)
        self.sites, self.prior, self.end = frozenset(sites), prior, 0
        self.values: dict[str, Any] = {}
        self.unconstrained: dict[str, tuple[Array, Array]] = {}
        self._transforms: dict[str, Transform] = {}

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.sites:
            fn = msg["fn"]
            transform = self._transforms[msg["name"]] = biject_to(fn.support)
            shape = transform.inverse_shape(fn.shape())
            place = slice(self.end, self.end + math.prod(shape))
            self.end = place.stop
            scale = jnp.linalg.norm(self.prior.scale_tril[place], axis=1)
            normal = Normal(self.prior.mean[place].reshape(shape), scale.reshape(shape))
            base = normal.to_event(transform.domain.event_dim)
            moved = TransformedDistribution(base, transform)
            msg["fn"] = moved.to_event(fn.event_dim - moved.event_dim).mask(False)

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "param" or (msg["type"] == "sample" and not msg["is_observed"]):
            self.values[msg["name"]] = msg["value"]
        if msg["type"] == "sample" and msg["name"] in self.sites:
            transform = self._transforms[msg["name"]]
            z = transform.inv(msg["value"])
            log_det = transform.log_abs_det_jacobian(z, msg["value"])
            self.unconstrained[msg["name"]] = z, log_det


def _is_observed(site: Mapping[str, Any]) -> bool:
    return site["type"] == "sample" and site["is_observed"]


def _log_density(site: Mapping[str, Any]) -> Array:
    log_density = jnp.sum(site["fn"].log_prob(site["value"]))
    return log_density if site["scale"] is None else site["scale"] * log_density


def earlier_supports(
    call: ModelCall,
    shapes: Mapping[str, tuple[int, ...]],
    new_groups: tuple[str, ...],
) -> dict[str, Constraint]:
    """The latent sites at new arguments that earlier data were about, in order: their supports.

    Those of plates in `new_groups` are other latents of the same names.

    Args:
        call: the model with its new arguments.
        shapes: of the latent sites of the earlier fit.
        new_groups: names of plates.

    Raises:
        ModelError: a latent has another shape, its support depends on other sites or arrays, or a
            plate is unknown.
    """
    _, sites = abstract_call(call)
    plates = {name for name, site in sites.items() if site["type"] == "plate"}
    for name in new_groups:
        if name not in plates:
            raise ModelError(mismatch("new_groups", f"plates among {sorted(plates)}", repr(name)))
    found = {}
    for name, site in sites.items():
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
    """Draws of sites in the coordinates of `NormalPrior`, `(num_draws, dim)`, in float64."""
    parts = []
    for name, support in supports.items():
        with jax.enable_x64(True):
            z = biject_to(support).inv(jnp.asarray(draws[name], jnp.float64))
        parts.append(np.asarray(z, np.float64).reshape(len(z), -1))
    return np.concatenate(parts, axis=1)

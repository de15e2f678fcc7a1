"""Conjugate guides: a product of exponential families in the model's own space."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import (
    Axes,
    Batch,
    DensityGuide,
    Draw,
    Guide,
    ModelGuide,
    Position,
    Space,
    Target,
)
from vijax.contracts.conjugate import ConjugateBlock, ConjugatePlan
from vijax.contracts.rows import take_rows
from vijax.families.beta import Beta
from vijax.families.dirichlet import Dirichlet
from vijax.families.exponential_family import ExponentialFamily
from vijax.families.gamma import Gamma
from vijax.families.gaussian_chain import GaussianChain
from vijax.families.log_normal import LogNormal
from vijax.families.multivariate_normal import MultivariateNormal
from vijax.families.normal import Normal
from vijax.families.normal_gamma import NormalGamma
from vijax.families.normal_wishart import NormalWishart
from vijax.families.wishart import Wishart

Families = dict[str, ExponentialFamily]  # by block

_PRECISION = 100.0  # of a narrow member of the family, in units of its size
_COUNT = 10.0


@dataclasses.dataclass(frozen=True)
class Conjugate(ModelGuide):
    """The families in which the latent sites of a conditionally conjugate model stay.

    They are read off the model function: the posterior of each block of sites given all others is
    of the block's family, so that coordinate ascent on the ELBO is in closed form (CAVI,
    variational message passing). Discrete sites are marginalized. The ELBO is exact.

    Args:
        joint: whether sites have a joint distribution where that is of a known family: normal sites
            that are added to one another, and a normal site with its precision. If not, every site
            is a block (mean-field, the classical assumption).
        quadrature: whether an observed site that is not conjugate, but depends on a function of one
            sum of normal sites, enters by Gauss-Hermite quadrature (conjugate-computation VI, Khan
            and Lin, 2017): any likelihood of `x @ w`.
    """

    joint: bool = True
    quadrature: bool = False

    def bind(self, target: Target, space: Space) -> BoundConjugate:
        """The guide of a model.

        Raises:
            GuideError: a site is not conditionally conjugate; says which, and why.
        """
        subsampled = frozenset(target.subsampled)
        whole = space == target.space
        names = None if whole else space.names
        options = self.joint, subsampled, names, self.quadrature
        plan = target.functions.conjugate_plan(*options)
        exact = whole and not plan.quadrature
        return BoundConjugate(plan, target.conjugate if exact else target, self)

    def init(self, key: Array, space: Space, location: Position, batch: Batch | None = None) -> Any:
        raise NotImplementedError("bind the guide to a target first")

    def draw(self, params: Any, space: Space, key: Array, batch: Batch) -> Draw:
        raise NotImplementedError("bind the guide to a target first")

    def log_prob(self, params: Any, space: Space, z: Position, batch: Batch) -> Array:
        raise NotImplementedError("bind the guide to a target first")


@dataclasses.dataclass(frozen=True, repr=False)
class BoundConjugate(DensityGuide):
    """A conjugate guide of a model.

    Attributes:
        plan: its blocks.
        target: the target; maps values to unconstrained space and back.
        unbound_guide: the guide that was bound.
    """

    plan: ConjugatePlan
    target: Target
    unbound_guide: Conjugate = Conjugate()

    def __repr__(self) -> str:
        return repr(self.unbound_guide)

    @property
    def unbound(self) -> Conjugate:
        """The guide without its model."""
        return self.unbound_guide

    def plan_lines(self) -> tuple[str, ...]:
        """The blocks, their families, and the order of their updates."""
        plan = self.plan
        lines = []
        for block in plan.blocks:
            number = math.prod(block.batch_shape)
            count = f"{number:,} x " if number > 1 else ""
            step = f", update {block.color + 1} of {plan.num_colors}" if plan.num_colors > 1 else ""
            lines.append(f"{block.name}: {count}{block.words}{step}")
        lines += [
            f"{name}: marginalized, given the expectations of all others" for name in plan.discrete
        ]
        lines += plan.augmented
        lines += [f"{name}: expectation by quadrature" for name in plan.quadrature]
        return tuple(lines)

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> Families:
        assert batch is not None
        rows = {site.name: site.axes(batch.index).pairs for site in space.sites}
        z = {name: take_rows(location[name], pairs, batch.index) for name, pairs in rows.items()}
        values, _ = values_of(self.target, z, batch)
        found = {block.name: around(block, values) for block in self.plan.blocks}
        axes = self.row_axes(found, space, batch.index)
        # rows that are not in the batch start like those that are
        sizes = {plate.name: plate.size for site in space.sites for plate in site.plates}
        every = {
            name: jnp.arange(sizes[name]) % len(index)
            for name, index in batch.index.items()
            if name in sizes
        }
        return jax.tree.map(lambda leaf, along: take_rows(leaf, along.pairs, every), found, axes)

    def named_params(self, params: Families, space: Space, batch: Batch) -> dict[str, Any]:
        """The parameters of each block's family."""
        return {
            name: {
                field.name: getattr(family, field.name)
                for field in dataclasses.fields(cast(Any, family))
                if not field.metadata.get("static")
            }
            for name, family in params.items()
        }

    def row_axes(self, params: Families, space: Space, plates: Collection[str]) -> Any:
        """The axes of the parameters of local sites along their plates."""
        found = {}
        for block in self.plan.blocks:
            (first, *_) = block.sites
            site = next(s for s in space.sites if s.name == first.name)
            pairs = [
                (plate, first.batch_axes.index(axis)) for plate, axis in site.axes(plates).pairs
            ]
            found[block.name] = jax.tree.map(
                lambda _, pairs=tuple(pairs): Axes(pairs), params[block.name]
            )
        return found

    def draw(self, params: Families, space: Space, key: Array, batch: Batch) -> Draw:
        keys = jax.random.split(key, len(self.plan.blocks))
        pairs = zip(self.plan.blocks, keys, strict=True)
        drawn = {block.name: params[block.name].draw(one) for block, one in pairs}
        values: dict[str, Array] = {}
        for block in self.plan.blocks:
            values |= split(block, drawn[block.name])
        z = self.target.unconstrain(values, batch, {}, {})
        return Draw(z, self._log_q(params, space, drawn, z, batch))

    def log_prob(self, params: Families, space: Space, z: Position, batch: Batch) -> Array:
        values, _ = values_of(self.target, z, batch)
        found = {block.name: joined(block, values) for block in self.plan.blocks}
        return self._log_q(params, space, found, z, batch)

    def _log_q(
        self, params: Families, space: Space, values: Mapping[str, Any], z: Position, batch: Batch
    ) -> Array:
        """`log q(z)`, from the values of the blocks' families at `z`."""
        scales = self.plan.scales(space)
        _, log_q = values_of(self.target, z, batch)  # of which it is the log Jacobian
        for name, value in values.items():
            log_q += scales[name] * jnp.sum(params[name].log_prob(value))
        return log_q


def values_of(target: Target, z: Position, batch: Batch) -> tuple[dict[str, Array], Array]:
    """The values of some sites and their log Jacobian `log |dx/dz|`.

    Other sites are at zero, which does not matter to these.
    """
    rows = {name: len(index) for name, index in batch.index.items()}
    sites = target.space.on_rows(rows).sites
    whole = {site.name: z.get(site.name, jnp.zeros(site.z_shape)) for site in sites}
    values, log_dets = (f(whole, batch, {}, {}) for f in (target.constrain, target.log_dets))
    log_jacobian = sum((log_dets[name] for name in z), jnp.zeros(()))
    return {name: values[name] for name in z}, log_jacobian


def target_for(guide: Guide, target: Target) -> Target:
    """The target that a guide is fitted to: for a conjugate guide with the density it has read."""
    return guide.target if isinstance(guide, BoundConjugate) else target


def split(block: ConjugateBlock, value: Any) -> dict[str, Array]:
    """A value of a block's family as values of its sites."""
    found: dict[str, Array] = {}
    normal = block.gaussian_sites
    if not normal:
        return {block.sites[0].name: value}
    if len(normal) < len(block.sites):
        value, found[block.sites[-1].name] = value
    return found | {site.name: block.part(site, value) for site in normal}


def joined(block: ConjugateBlock, values: Mapping[str, Array]) -> Any:
    """The inverse of `split`."""
    normal = block.gaussian_sites
    if not normal:
        return values[block.sites[0].name]
    if block.kind == "normal_chain":
        return _steps(block, values)
    parts = [site.flattened(values[site.name]) for site in normal]
    vector = jnp.concatenate(parts, axis=-1)
    if len(normal) < len(block.sites):
        return vector, values[block.sites[-1].name]
    return vector[..., 0] if block.event_size == 1 else vector


def _steps(block: ConjugateBlock, values: Mapping[str, Array]) -> Array:
    """Values of the sites of a chain as `(*batch, steps, event_size)`."""
    of = {site: site.flattened(values[site.name]) for site in block.sites}
    first = [value[..., None, :] for site, value in of.items() if site.step_axis is None]
    rest = [value for site, value in of.items() if site.step_axis is not None]
    parts = [jnp.concatenate(alike, axis=-1) for alike in (first, rest) if alike]
    return jnp.concatenate(parts, axis=-2)


def around(block: ConjugateBlock, values: Mapping[str, Array]) -> ExponentialFamily:
    """A narrow member of a block's family around values of its sites."""
    value = joined(block, values)
    if block.kind == "normal":
        return _normal(value, block.event_size)
    if block.kind == "normal_chain":
        return _chain(value)
    if block.kind == "log_normal":
        return LogNormal(jnp.log(value), jnp.full_like(value, _PRECISION))
    if block.kind == "gamma":
        return _gamma(value, block.power)
    if block.kind == "beta":
        return Beta(_COUNT * value, _COUNT * (1 - value))
    if block.kind == "dirichlet":
        return Dirichlet(_COUNT * value.shape[-1] * value)
    if block.kind == "wishart":
        return _wishart(value, block.power)
    mean, positive = value
    if block.kind == "normal_gamma":
        gamma, eye = _gamma(positive, block.power), jnp.eye(mean.shape[-1], dtype=mean.dtype)
        precision = jnp.broadcast_to(_PRECISION * eye, (*mean.shape, mean.shape[-1]))
        return NormalGamma(mean, precision, gamma.concentration, gamma.rate, block.power)
    wishart = _wishart(positive, 1)
    kappa = jnp.full(mean.shape[:-1], _PRECISION, mean.dtype)
    return NormalWishart(mean, kappa, wishart.concentration, wishart.inverse_scale)


def _normal(value: Array, size: int) -> ExponentialFamily:
    if size == 1:
        return Normal(value, jnp.full_like(value, _PRECISION))
    eye = _PRECISION * jnp.eye(size, dtype=value.dtype)
    return MultivariateNormal(value, jnp.broadcast_to(eye, (*value.shape, size)))


def _chain(value: Array) -> GaussianChain:
    """Independent steps."""
    size = value.shape[-1]
    eye = _PRECISION * jnp.eye(size, dtype=value.dtype)
    precision = jnp.broadcast_to(eye, (*value.shape, size))
    return GaussianChain.of(value, precision, jnp.zeros_like(precision[..., 1:, :, :]))


def _gamma(value: Array, power: float) -> Gamma:
    concentration = jnp.full_like(value, _COUNT)
    return Gamma(concentration, concentration / value**power, power)


def _wishart(value: Array, power: float) -> Wishart:
    size = value.shape[-1]
    degrees = jnp.full(value.shape[:-2], _COUNT + size, value.dtype)
    inverse = value if power == -1 else jnp.linalg.inv(value)
    return Wishart(degrees, degrees[..., None, None] * inverse, int(power))

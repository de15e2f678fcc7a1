"""A model function and its arguments become a `Target`, after one abstract trace.

`jax.eval_shape` runs the model on abstract values: nothing is computed, nothing compiled, and no
operation is dispatched. What is kept are names, shapes and plates. Targets are kept for as long
as they are in use among the last `_KEEP` models, keyed by what the model function does and by
the shapes of its arrays, so that a second fit finds its compiled programs.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vijax._contracts import Batch, Evaluation, Plate, Position, PyTree, Site, Space, Target
from vijax._identity import fingerprint
from vijax.model import run as running
from vijax.model.arguments import Arguments
from vijax.model.checks import check_site, tracing_errors
from vijax.model.supports import bijector

_KEEP = 64
_targets: collections.OrderedDict[Hashable, Target] = collections.OrderedDict()
_FIXED_KEY = 0  # randomness of the model where the caller brings none


def build(model: Callable[..., Any], arguments: Arguments) -> Target:
    """The target of `model` at arguments of these shapes.

    Raises:
        ModelError: the model has no latent site, a discrete latent, a support without a
            bijection, a subsampled latent, or it fails to run; the message names the site.
    """
    lookup = (fingerprint(model), arguments.lookup, jax.config.jax_enable_x64)
    if lookup in _targets:
        _targets.move_to_end(lookup)
        return _targets[lookup]
    target = _Builder(model, arguments).target()
    _targets[lookup] = target
    while len(_targets) > _KEEP:
        _targets.popitem(last=False)
    return target


class _Builder:
    """Holds a model with its static arguments while its target's functions are made."""

    def __init__(self, model: Callable[..., Any], arguments: Arguments) -> None:
        self.model = model
        self.arguments = arguments

    def trace(
        self,
        batch: Batch,
        latent: Callable[[dict[str, Any]], Array | None],
        model: Mapping[str, PyTree] | None = None,
        mutable: Mapping[str, PyTree] | None = None,
    ) -> running.Trace:
        args, kwargs = self.arguments.join(batch.data)
        key = jax.random.key(_FIXED_KEY) if batch.key is None else batch.key
        return running.run(self.model, args, kwargs, key, latent, model, mutable, batch.index)

    def target(self) -> Target:
        space, observed, plates, dims = self._inspect()
        return Target(
            space=space,
            evaluate=self.evaluate,
            constrain=self.constrain,
            unconstrain=self.unconstrain,
            site_log_probs=self.site_log_probs,
            initialise=self.initialise,
            observed=observed,
            plates=plates,
            dims=dims,
        )

    def _inspect(
        self,
    ) -> tuple[Space, tuple[str, ...], dict[str, Plate], dict[str, tuple[str | None, ...]]]:
        sites: list[Site] = []
        observed: list[str] = []
        plates: dict[str, Plate] = {}
        dims: dict[str, tuple[str | None, ...]] = {}

        def abstract(data: dict[str, Array]) -> Array:
            trace = self.trace(Batch(data), _placeholder)
            plates.update(_plates(trace))
            for name, site in trace.items():
                if site["type"] not in ("sample", "deterministic") or running.LOG_DET in name:
                    continue
                dims[name] = _dims(site)
                if site["type"] == "deterministic":
                    continue
                check_site(name, site, plates)
                if site["is_observed"]:
                    observed.append(name)
                elif running.LOG_DET + name in trace:
                    sites.append(_site(name, site, plates))
            return running.log_density(trace)

        shapes = {
            name: jax.ShapeDtypeStruct(shape, dtype)
            for name, (shape, dtype) in self.arguments.avals.items()
        }
        with tracing_errors(self.model) as check:
            jax.eval_shape(abstract, shapes)
            check(sites)
        return Space(tuple(sites)), tuple(observed), plates, dims

    def evaluate(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> Evaluation:
        trace = self.trace(batch, running.from_unconstrained(z), model, mutable)
        return Evaluation(running.log_density(trace), _mutable(trace))

    def constrain(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        trace = self.trace(batch, running.from_unconstrained(z), model, mutable)
        return {
            name: site["value"]
            for name, site in trace.items()
            if name in z or (site["type"] == "deterministic" and running.LOG_DET not in name)
        }

    def site_log_probs(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        trace = self.trace(batch, running.from_unconstrained(z), model, mutable)
        return running.log_probs(trace, scaled=False)

    def unconstrain(
        self, values: Mapping[str, Array], batch: Batch, model: Mapping, mutable: Mapping
    ) -> Position:
        def latent(site: dict[str, Any]) -> Array | None:
            value = values.get(site["name"])
            if value is None:
                return running.fixed_value(site)
            step = site["infer"].get("_scan_current_index")
            if step is not None and jnp.ndim(value) > len(running.site_shape(site)):
                value = value[step]
            return jnp.asarray(value)

        trace = self.trace(batch, latent, model, mutable)
        return {
            name: bijector(trace[name]["fn"].support).inverse(trace[name]["value"])
            for name in values
        }

    def initialise(
        self, key: Array, batch: Batch
    ) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
        trace = self.trace(batch._replace(key=key), _placeholder)
        params = {
            name: running.unconstrain_param(site["value"], site)
            for name, site in trace.items()
            if site["type"] == "param"
        }
        return params, _mutable(trace)


def _placeholder(site: dict[str, Any]) -> Array | None:
    """A value inside the support, at the origin of unconstrained space."""
    fixed = running.fixed_value(site)
    if fixed is not None:
        return fixed
    check_site(site["name"], site, {})
    to_support = bijector(site["fn"].support)
    # one, not zero: the origin is no point on a sphere
    z = jnp.ones(to_support.z_shape(running.site_shape(site)))
    return running.from_unconstrained({site["name"]: z})(site)


def _mutable(trace: running.Trace) -> dict[str, PyTree]:
    return {name: site["value"] for name, site in trace.items() if site["type"] == "mutable"}


def _plates(trace: running.Trace) -> dict[str, Plate]:
    found = {}
    for site in trace.values():
        for frame in site.get("cond_indep_stack", ()):
            plate = trace.get(frame.name)
            size = plate["args"][0] if plate is not None else frame.size
            found[frame.name] = Plate(frame.name, frame.dim, size, frame.size)
    return found


def _site(name: str, site: Mapping[str, Any], plates: Mapping[str, Plate]) -> Site:
    shape = tuple(jnp.shape(site["value"]))
    return Site(
        name=name,
        shape=shape,
        z_shape=tuple(bijector(site["fn"].support).z_shape(shape)),
        event_dim=len(site["fn"].event_shape),
        plates=tuple(plates[frame.name] for frame in site["cond_indep_stack"]),
    )


def _dims(site: Mapping[str, Any]) -> tuple[str | None, ...]:
    """The plate along each dimension of a site's value, `None` where there is none."""
    ndim = jnp.ndim(site["value"])
    event = len(site["fn"].event_shape) if site["type"] == "sample" else 0
    names: list[str | None] = [None] * ndim
    for frame in site["cond_indep_stack"]:
        axis = ndim - event + frame.dim
        if 0 <= axis and jnp.shape(site["value"])[axis] == frame.size:
            names[axis] = frame.name
    return tuple(names)

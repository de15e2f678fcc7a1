"""Reads a model as normal latents that are observed through one linear combination each."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from vijax.contracts import Batch, Position, Site
from vijax.contracts.projections import ProjectionPlan, Projections
from vijax.model.projections.elementwise import Unsupported
from vijax.model.projections.graph import Node, affine_values, graph
from vijax.model.projections.terms import Term, project, terms_of
from vijax.model.tracing import log_densities, substitution
from vijax.model.tracing.handler import Message, Record, Step, SubstituteFn
from vijax.model.tracing.location_scale import location_scale
from vijax.model.tracing.sites import is_latent, latents
from vijax.model.tracing.wrappers import base_distribution
from vijax.runtime.errors import GuideError
from vijax.runtime.precision import full_precision

_NORMAL = (dist.Normal, dist.MultivariateNormal)
_REMEDY = (
    "Name sites that are not part of the Gaussian in "
    "vijax.ExpectationPropagation(hyperparameters=...), or use guide='auto'."
)


class _Read(NamedTuple):
    """A model at given hyper-parameters."""

    inputs: dict[str, Node]
    positions: dict[str, Node]
    terms: list[Term]
    constant: Array


class ProjectionReader:
    """Reads a traced model; see `vijax.contracts.projections`.

    Args:
        traced: the model, `vijax.model.traced_model.TracedModel`.
    """

    def __init__(self, traced: Any) -> None:
        self.traced = traced

    def plan(self, hyperparameters: tuple[str, ...]) -> ProjectionPlan:
        """What is normal in a model.

        Sites with a normal prior are, but those named, those that the scale of another one depends
        on, and those inside of a loop.

        Args:
            hyperparameters: sites that are not to be in the Gaussian.

        Raises:
            GuideError: the model is not of this kind; the message says which site, and why.
        """
        self._check(hyperparameters)
        found: list[ProjectionPlan] = []
        excluded = frozenset(hyperparameters)
        while True:
            candidates = self._candidates(excluded)
            if not candidates:
                raise GuideError(
                    "algorithm='expectation_propagation': expected a latent site with a normal "
                    f"prior, got {[site.name for site in self.traced.sites]}. Use guide='auto'."
                )

            def run(data: dict[str, Array], names: tuple[str, ...] = candidates) -> None:
                batch = Batch(data)
                trace = self.traced.trace(batch, substitution.at_origin, with_log_density=False)
                z = {n: jnp.asarray(r.z) for n, _, r in latents(trace) if n not in names}
                read = self._read(names, z, batch)
                found.append(self._planned(names, read))

            try:
                jax.eval_shape(run, self.traced.arguments.abstract())
                return found[-1]
            except _Scales as error:
                excluded |= error.names

    def _check(self, hyperparameters: tuple[str, ...]) -> None:
        unknown = set(hyperparameters) - {site.name for site in self.traced.sites}
        if unknown:
            raise GuideError(
                f"hyperparameters: expected latent sites, got {sorted(unknown)}; the model has "
                f"{[site.name for site in self.traced.sites]}."
            )
        discrete = [*self.traced.plan.variables]
        discrete += [site.name for site in self.traced.sites if site.cardinality is not None]
        if discrete:
            raise GuideError(
                f"algorithm='expectation_propagation': expected continuous latent sites, got "
                f"the discrete site {discrete[0]!r}. Use guide='auto'."
            )

    def _candidates(self, excluded: frozenset[str]) -> tuple[str, ...]:
        found: dict[str, bool] = {}

        def run(data: dict[str, Array]) -> None:
            trace = self.traced.trace(Batch(data), substitution.at_origin, with_log_density=False)
            for name, site, _ in latents(trace):
                plain = site["scale"] is None and log_densities.site_mask(site) is None
                found[name] = type(base_distribution(site["fn"])) in _NORMAL and plain

        jax.eval_shape(run, self.traced.arguments.abstract())
        return tuple(
            site.name
            for site in self.traced.sites
            if found[site.name] and site.name not in excluded
        )

    def _sites(self, names: tuple[str, ...]) -> list[Site]:
        by_name = {site.name: site for site in self.traced.sites}
        return [by_name[name] for name in names]

    def _planned(self, names: tuple[str, ...], read: _Read) -> ProjectionPlan:
        sizes: dict[str, int] = {}
        for term in read.terms:
            sizes[term.name] = sizes.get(term.name, 0) + term.size
        rest = tuple(site.name for site in self.traced.sites if site.name not in names)
        dim = sum(site.size for site in self._sites(names))
        return ProjectionPlan(names, rest, dim, tuple(sizes.items()))

    def _read(self, names: tuple[str, ...], z: Position, batch: Batch) -> _Read:
        """The model given its hyper-parameters.

        Raises:
            GuideError: a site does not depend on the normal ones as it should.
        """
        shapes = {
            site.name: jax.ShapeDtypeStruct(site.shape, jnp.result_type(float))
            for site in self._sites(names)
        }

        def run(values: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
            found: dict[str, Array] = {}
            substitute_fn = _from_standard_normals(values, z, found)
            trace = self.traced.trace(batch, substitute_fn, with_log_density=False)
            own = {n: jnp.asarray(r.z) for n, _, r in latents(trace) if n in values}
            log_probs = log_densities.log_probs(trace)
            rest = {name: x for name, x in log_probs.items() if name not in values}
            jacobians = {n: x for n, x in log_densities.log_dets(trace).items() if n not in values}
            return {"z": own, "scale": found, "term": rest, "jacobian": jacobians}

        with full_precision():
            inputs, tree = graph(run, shapes)
        dependent = frozenset[str]().union(*(node.latents for node in tree["scale"].values()))
        if dependent:
            raise _Scales(dependent)
        for name, node in tree["z"].items():
            if node.kind == "other":
                raise GuideError(
                    "algorithm='expectation_propagation': expected the location of the normal "
                    f"site {name!r} to be linear in other normal sites, got "
                    f"{node.first_nonlinear} of {', '.join(sorted(node.latents - {name}))}. "
                    f"{_REMEDY}"
                )
        terms: list[Term] = []
        total = jnp.zeros(())
        for name, node in [*tree["term"].items(), *tree["jacobian"].items()]:
            try:
                mine, constant = terms_of(name, node)
            except Unsupported as error:
                raise GuideError(_mixed(name, error)) from None
            terms += mine
            total = total + constant
        return _Read(inputs, tree["z"], terms, total)

    def projections(self, plan: ProjectionPlan, z: Position, batch: Batch) -> Projections:
        """The model as projections of standard normals, given its hyper-parameters.

        Args:
            plan: of the model.
            z: the hyper-parameters in unconstrained space.
            batch: the data.
        """
        read = self._read(plan.normal, z, batch)
        sites = self._sites(plan.normal)

        def unravel(point: Array) -> dict[str, Array]:
            found, start = {}, 0
            for site in sites:
                part = point[start : start + site.size]
                found[site.name] = jnp.reshape(part, site.shape)
                start += site.size
            return found

        def positions(point: Array) -> Array:
            nodes = [read.positions[name] for name in plan.normal]
            values = affine_values(nodes, read.inputs, unravel(point))
            return jnp.concatenate([jnp.ravel(value) for value in values])

        rows, misfits = project(read.terms, read.inputs, unravel, plan.dim)
        loc, along = jax.linearize(positions, jnp.zeros(plan.dim))
        factor = jax.vmap(along, out_axes=-1)(jnp.eye(plan.dim))
        misfit: dict[str, Array] = {}
        for term, value in zip(read.terms, misfits, strict=True):
            misfit[term.name] = jnp.maximum(misfit.get(term.name, jnp.zeros(())), value)
        log_likelihood = functools.partial(_log_likelihood, read.terms)
        empty = jnp.zeros((0, plan.dim))
        return Projections(
            jnp.concatenate([empty, *rows]), log_likelihood, read.constant, loc, factor, misfit
        )


class _Scales(Exception):
    """Normal sites that the scale of another one depends on: `names`."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__(", ".join(sorted(names)))
        self.names = names


def _log_likelihood(terms: list[Term], u: Array) -> Array:
    found, start = [u[:0]], 0
    for term in terms:
        found.append(term.log_likelihood(u[start : start + term.size]))
        start += term.size
    return jnp.concatenate(found)


def _from_standard_normals(
    values: Mapping[str, Array], z: Position, scales: dict[str, Array]
) -> SubstituteFn:
    """Normal sites as `loc + scale e`, all others from unconstrained space.

    Args:
        values: the standard normals `e` by site.
        z: positions of the other sites.
        scales: gets the scales of the normal sites.
    """
    others = substitution.from_unconstrained(z)

    def substitute(name: str, site: Message, steps: tuple[Step, ...]) -> Array | None:
        if name not in values or not is_latent(site):
            return others(name, site, steps)
        prior = location_scale(site["fn"])
        if steps or prior is None:
            raise GuideError(
                f"algorithm='expectation_propagation': site {name!r} is inside of a loop, whose "
                "steps are not read. Write it as one site with a plate, or use guide='auto'."
            )
        e = values[name]
        if prior.joint:
            x = prior.loc + (prior.scale @ e[..., None])[..., 0]
        else:
            x = prior.loc + prior.scale * e
        scales[name] = prior.scale
        site["intermediates"] = Record(x, jnp.zeros(()))
        return x

    return substitute


def _mixed(name: str, error: Unsupported) -> str:
    return (
        f"algorithm='expectation_propagation': expected each element of site {name!r} to be a "
        f"function of one linear combination of normal sites, got the operation "
        f"{error.operation!r} on a function of {', '.join(sorted(error.latents))} that is not "
        f"linear. Index and sum normal sites before a function is applied. {_REMEDY}"
    )

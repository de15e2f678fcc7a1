"""The conjugate structure of a model: its blocks, and the expected log joint density."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Batch, Evaluation
from vijax.contracts.conjugate import Comparison, ConjugatePlan, WordCounts
from vijax.model.conjugacy.blocks import plan_blocks
from vijax.model.conjugacy.expectation import Expectation
from vijax.model.conjugacy.log_joint import expected_log_joint
from vijax.model.conjugacy.moments import Expectations, Moments, PointMass
from vijax.model.conjugacy.probability_sums import probability_sums
from vijax.model.conjugacy.reader import Reader, Refusal, Refused, support_kind
from vijax.model.conjugacy.recorder import Recorder
from vijax.model.conjugacy.topics import word_counts
from vijax.model.tracing import log_densities, substitution
from vijax.model.tracing.sites import Trace, latents
from vijax.runtime.errors import GuideError

_COMPARED_STEPS = 256  # of a loop, spread over all of it


class Conjugacy:
    """What a traced model says of its latent sites.

    Args:
        traced: the model, `vijax.model.traced_model.TracedModel`.
    """

    def __init__(self, traced: Any) -> None:
        self.traced = traced

    @functools.cached_property
    def supports(self) -> dict[str, str]:
        """The kind of support of every continuous latent site."""
        found: dict[str, str] = {}

        def run(data: dict[str, Array]) -> None:
            trace: Trace = self.traced.trace(Batch(data), substitution.at_origin)
            found.update({name: support_kind(site["fn"]) for name, site, _ in latents(trace)})

        jax.eval_shape(run, self.traced.arguments.abstract())
        return {s.name: found[s.name] for s in self.traced.sites if s.cardinality is None}

    def reader(
        self, names: Sequence[str] | None = None, given: Mapping[str, Array] | None = None
    ) -> Reader:
        """Reads the model at some of its latent sites, by default at all, given the others."""
        sites = tuple(
            site
            for site in self.traced.sites
            if site.cardinality is None and (names is None or site.name in names)
        )
        return Reader(self.traced.trace, sites, self.supports, given or {})

    def plan(
        self,
        joint: bool = True,
        subsampled: frozenset[str] = frozenset(),
        names: tuple[str, ...] | None = None,
        quadrature: bool = False,
    ) -> ConjugatePlan:
        """The blocks of the latent sites.

        Args:
            joint: whether sites may have a joint distribution.
            subsampled: plates that are subsampled.
            names: the sites, all others given; by default all.
            quadrature: whether the expectation of an observed site whose argument is a function of
                one sum of normal sites may be computed by quadrature.

        Raises:
            GuideError: a site is not conditionally conjugate; the message says which and why.
        """
        sites = {site.name: site for site in self.reader(names).sites}
        recorder = Recorder(sites, self.supports, quadrature)

        def run(data: dict[str, Array]) -> dict[str, Array]:
            given: Mapping[str, Array] = {}
            if names is not None:
                given = _latent_values(self.traced.trace(Batch(data), substitution.at_origin))
            # what is multiplied with what, noted once and of all rows
            return self._expected(recorder, Batch(data), self.reader(names, given), False)

        try:
            jax.eval_shape(run, self.traced.arguments.abstract())
            return plan_blocks(recorder, self._rows_per_value(), subsampled, joint)
        except Refused as error:
            raise GuideError(not_conjugate(error.refusals)) from None

    def _rows_per_value(self) -> dict[str, float]:
        """By discrete site, the number of its elements over the number of their values."""
        found: dict[str, float] = {}
        if not self.traced.plan.variables:
            return found

        def run(data: dict[str, Array]) -> None:
            trace = self.traced.trace(Batch(data), substitution.at_origin)
            for name, variable in self.traced.plan.variables.items():
                found[name] = jnp.size(trace[name]["value"]) / variable.size

        jax.eval_shape(run, self.traced.arguments.abstract())
        return found

    def log_joint(
        self,
        values: Mapping[str, Array],
        batch: Batch,
        names: Sequence[str] | None = None,
        num_steps: int | None = None,
    ) -> dict[str, Array]:
        """`log p(data, values)` by site, discrete sites marginalized: `E_q log p` at a point.

        Args:
            values: of all latent sites.
            batch: the data.
            names: the sites that are read, all others given; by default all.
            num_steps: of loops with discrete sites, how many after the first; by default all.
        """
        point = PointMass(values, self.supports)
        return self._expected(point, batch, self.reader(names, values), num_steps=num_steps)

    def evaluate(self, z: Any, batch: Batch, model: Mapping, mutable: Mapping) -> Evaluation:
        """As `Target.evaluate`, by the polynomials of the model.

        What does not depend on a discrete site or a row is then computed once, such as the
        determinant of a component's covariance.
        """
        trace = self._trace_at(z, batch)
        jacobians = log_densities.log_dets(trace, skip_identity=True)
        terms = self.log_joint(_latent_values(trace), batch)
        return Evaluation(_sum(terms) + _sum(jacobians), dict(mutable))

    def expected_log_joint(
        self,
        plan: ConjugatePlan,
        expectations: Expectations,
        batch: Batch,
        given: Mapping[str, Array] | None = None,
        some_rows: bool = False,
    ) -> Array:
        """`E_q log p`, see `vijax.model.conjugacy.log_joint`.

        Args:
            plan: the blocks.
            expectations: of their families.
            batch: the data.
            given: values of the sites in no block.
            some_rows: whether a sample of the rows of discrete sites stands for all of them.
        """
        names = tuple(site.name for block in plan.blocks for site in block.sites)
        moments, reader = Moments(plan, expectations), self.reader(names, given)
        return _sum(self._expected(moments, batch, reader, some_rows=some_rows))

    def compare(self, z: Any, batch: Batch, names: Sequence[str] | None = None) -> Comparison:
        """The log densities of the model and as they were read, at one position.

        Sites that depend on discrete ones are one entry, by all their names; of long loops with
        such sites some steps are compared.

        Args:
            z: the position.
            batch: the data.
            names: see `log_joint`.
        """
        trace = self._trace_at(z, batch, with_log_density=True)
        marginalization = self.traced.marginalization
        # the masks of chains of different length are those of all steps
        some = None if marginalization is None or marginalization.padding else _COMPARED_STEPS
        read = self.log_joint(_latent_values(trace), batch, names, some)
        own = log_densities.log_probs(trace)
        found = {name: (jnp.sum(own[name]), x) for name, x in read.items() if name in own}
        for together in set(read) - set(found):  # at most one
            rest = {name: site for name, site in trace.items() if name in found}
            total = marginalization.evaluate(z, batch, {}, {}, some).log_density
            jacobians = log_densities.log_dets(trace, skip_identity=True)
            others = _sum({name: jnp.sum(own[name]) for name in rest}) + _sum(jacobians)
            found[together] = total - others, read[together]
        return Comparison(found, probability_sums(trace))

    def word_counts(self, batch: Batch) -> WordCounts | None:
        """See `vijax.model.conjugacy.topics`."""
        return word_counts(self.reader(), self.traced.plan, batch)

    def _trace_at(self, z: Any, batch: Batch, with_log_density: bool = False) -> Trace:
        substitute_fn = substitution.from_unconstrained(z, batch.centering)
        trace: Trace = self.traced.trace(batch, substitute_fn, with_log_density=with_log_density)
        return trace

    def _expected(
        self, expectation: Expectation, batch: Batch, reader: Reader, *options: bool, **named: Any
    ) -> dict[str, Array]:
        marginalization = self.traced.marginalization
        return expected_log_joint(reader, marginalization, expectation, batch, *options, **named)


def _latent_values(trace: Trace) -> dict[str, Array]:
    return {name: site["value"] for name, site, _ in latents(trace)}


def _sum(terms: Mapping[str, Array]) -> Array:
    return sum(terms.values(), jnp.zeros(()))


def not_conjugate(refusals: Sequence[Refusal]) -> str:
    """The error message of a model that is not conditionally conjugate."""
    lines = "; ".join(map(str, refusals))
    example = next((name for one in refusals for name in one.latents), refusals[0].site)
    return (
        f"guide='conjugate': expected a conditionally conjugate model, but {lines}. Fit other "
        f"sites by gradient steps, guide={{{example!r}: 'meanfield', ...: 'conjugate'}} with the "
        "latent sites that are named here, or use guide='auto'."
    )

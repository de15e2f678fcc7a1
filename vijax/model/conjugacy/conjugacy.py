"""The conjugate structure of a model: its blocks, and the expected log joint density."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Batch
from vijax.contracts.blocks import ConjugatePlan
from vijax.model.conjugacy.blocks import Recorder, plan_blocks
from vijax.model.conjugacy.expectation import NotConjugate
from vijax.model.conjugacy.moments import Expectations, Moments
from vijax.model.conjugacy.reader import Reader, Refusal, expected_log_joint, support_kind
from vijax.model.tracing import substitution
from vijax.model.tracing.sites import Trace, latents
from vijax.runtime.errors import GuideError


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

    @property
    def reader(self) -> Reader:
        """Reads the model at its latent sites."""
        sites = tuple(s for s in self.traced.sites if s.cardinality is None)
        return Reader(self.traced.trace, sites, self.supports)

    def plan(self, joint: bool = True, subsampled: frozenset[str] = frozenset()) -> ConjugatePlan:
        """The blocks of the latent sites.

        Args:
            joint: whether sites may have a joint distribution.
            subsampled: plates that are subsampled.

        Raises:
            GuideError: a site is not conditionally conjugate; the message says which and why.
        """
        recorder = Recorder({site.name: site for site in self.reader.sites}, self.supports)

        def run(data: dict[str, Array]) -> Array:
            return expected_log_joint(
                self.reader, self.traced.marginalization, recorder, Batch(data)
            )

        try:
            jax.eval_shape(run, self.traced.arguments.abstract())
            return plan_blocks(recorder, self._rows_per_value(), subsampled, joint)
        except NotConjugate as error:
            raise GuideError(not_conjugate(error.args[0])) from None

    def _rows_per_value(self) -> dict[str, float]:
        """By discrete site, the number of its elements over the number of their values."""
        found: dict[str, float] = {}

        def run(data: dict[str, Array]) -> None:
            trace = self.traced.trace(Batch(data), substitution.at_origin)
            for name, variable in self.traced.plan.variables.items():
                found[name] = jnp.size(trace[name]["value"]) / variable.size

        jax.eval_shape(run, self.traced.arguments.abstract())
        return found

    def expected_log_joint(
        self, plan: ConjugatePlan, expectations: Expectations, batch: Batch
    ) -> Array:
        """`E_q log p`, see `vijax.model.conjugacy.reader`."""
        moments = Moments(plan, expectations)
        return expected_log_joint(self.reader, self.traced.marginalization, moments, batch)


def not_conjugate(refusals: list[Refusal]) -> str:
    """The error message of a model that is not conditionally conjugate."""
    lines = "; ".join(map(str, refusals))
    example = refusals[0].site
    return (
        f"guide='conjugate': expected a conditionally conjugate model, but {lines}. Fit other "
        f"sites by gradient steps, guide={{{example!r}: 'meanfield', ...: 'conjugate'}} with the "
        "latent sites that are named here, or use guide='auto'."
    )


def dirac(values: Mapping[str, Array], plan: ConjugatePlan) -> dict[str, dict[str, Array]]:
    """The expectations under a point mass at `values`: `E_q log p` is then the log density."""
    return {block.name: _dirac(block, values) for block in plan.blocks}


def _dirac(block: Any, values: Mapping[str, Array]) -> dict[str, Array]:
    found: dict[str, Array] = {}
    normal = block.gaussian_sites
    if normal:
        parts = []
        for site in normal:
            x = jnp.transpose(values[site.name], (*site.batch_axes, *site.event_axes))
            parts.append(x.reshape((*site.batch_shape, site.event_size)))
        mean = jnp.concatenate(parts, axis=-1)
        mean = jnp.log(mean) if block.kind == "log_normal" else mean
        size = block.event_size
        if block.kind in ("normal", "log_normal") and size == 1:
            mean = mean[..., 0]
            found |= {"mean": mean, "variance": jnp.zeros_like(mean)}
        elif block.kind == "normal_wishart":
            found |= {"mean": mean, "variance": jnp.zeros(mean.shape[:-1])}
        else:
            found |= {"mean": mean, "covariance": jnp.zeros((*mean.shape, size))}
    rest = [site for site in block.sites if site not in normal]
    for site in rest:
        x = values[site.name]
        if block.kind in ("gamma", "normal_gamma"):
            found |= {"value": x**block.power, "log": block.power * jnp.log(x)}
        elif block.kind == "beta":
            found |= {"log": jnp.log(x), "log1m": jnp.log1p(-x)}
        elif block.kind == "dirichlet":
            found |= {"log": jnp.log(x)}
        else:
            inverse = block.power == -1
            log_det = jnp.linalg.slogdet(x)[1]
            found |= {"value": jnp.linalg.inv(x) if inverse else x}
            found |= {"logdet": -log_det if inverse else log_det}
    return found

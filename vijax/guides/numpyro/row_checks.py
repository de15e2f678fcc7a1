"""Checks of a guide function on the rows of a minibatch, on abstract traces."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jax import Array

from vijax.contracts import Batch, PyTree, Target
from vijax.guides.numpyro import tracing
from vijax.guides.numpyro.checks import check_sites
from vijax.guides.numpyro.guide_function import NumPyroFunction
from vijax.guides.numpyro.rows import local_sites, rows_in_use
from vijax.guides.numpyro.tracing import Trace
from vijax.runtime.errors import GuideError, mismatch


def checked_on_rows(label: str, guide: NumPyroFunction) -> NumPyroFunction:
    """The guide with `whole` and `uses_rows`, if it suits the minibatches of the model.

    Raises:
        GuideError: a local latent is outside the plate of the model, a latent that all rows share
            depends on the rows in use, or a parameter has another shape on other rows.
    """
    target = guide.target
    guide = dataclasses.replace(guide, whole=False)
    data, key = tracing.abstract_data(guide.arguments), jax.random.key(0)

    def start(data: dict[str, Array], key: Array) -> dict[str, PyTree]:
        trace = guide.trace(None, key, Batch(data))
        check_sites(label, trace, target.on_batch.space)
        _check_plates(label, trace, target)
        return tracing.params(trace)

    with tracing.tracing_errors(label):
        params = jax.eval_shape(start, data, key)
    on_all_rows = _params_on_all_rows(guide, data, key)
    if on_all_rows is not None:
        _check_shapes(label, params, on_all_rows)
        guide = dataclasses.replace(guide, whole=True)
    return dataclasses.replace(guide, uses_rows=_uses_rows(label, guide, params, data, key))


def _params_on_all_rows(guide: NumPyroFunction, data: Any, key: Array) -> dict[str, PyTree] | None:
    """The shapes of the parameters on all rows, `None` if the function does not run on them."""
    target, whole = guide.target, dataclasses.replace(guide, whole=True)
    if not target.subsampling.whole:
        return None

    def start(data: dict[str, Array], key: Array) -> dict[str, PyTree]:
        trace = whole.trace(None, key, Batch(data))
        check_sites("", trace, target.space)
        return tracing.params(trace)

    try:
        with tracing.tracing_errors(""):
            return jax.eval_shape(start, data, key)
    except GuideError:
        return None


def _check_shapes(label: str, params: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    for name, value in params.items():
        found, expected = (jax.tree.map(lambda leaf: leaf.shape, x) for x in (value, others[name]))
        if found != expected:
            raise GuideError(
                mismatch(
                    f"{label}, param {name!r}",
                    f"the shape {expected} that it has on all rows",
                    f"{found} on those of a minibatch, whose entries would belong to other rows "
                    "at every step",
                    "Give it the size of the plate and index it by the rows of the plate, or "
                    "compute it from their data.",
                )
            )


def _uses_rows(
    label: str, guide: NumPyroFunction, params: dict[str, PyTree], data: Any, key: Array
) -> bool:
    """Whether local latents depend on data of their rows; checks that others do not."""
    target = guide.target
    names = [site.name for site in local_sites(target)]

    def draw(source: dict[str, Any], rest: dict[str, Any]) -> dict[str, Array]:
        both = source | rest
        trace = guide.trace(both["params"], both["key"], Batch(both["data"], both["index"]))
        return {name: trace[name]["value"] for name in target.space.names}

    inputs = {"params": params, "key": key, "data": data, "index": rows_in_use(target)}

    def depends_on(name: str) -> dict[str, bool]:
        rest = {other: value for other, value in inputs.items() if other != name}
        return tracing.dependent(draw, {name: inputs[name]}, rest)

    depends = depends_on("index")
    for name in target.space.names:
        if name not in names and depends[name]:
            raise GuideError(
                f"{label}, site {name!r}: expected the distribution of a latent outside the "
                "subsampled plate not to depend on the rows of a minibatch, got one that does: it "
                "would be another one at every step. Compute what it needs from all rows before "
                "the fit and pass it as an argument."
            )
    sizes = {target.subsampling.plates[name].size for name in target.subsampled}
    per_row = any(sizes & {*leaf.shape} for leaf in jax.tree.leaves(params))
    depends = depends_on("data")
    return not per_row and any(depends[name] for name in names)


def _check_plates(label: str, trace: Trace, target: Target) -> None:
    """Raises unless local latents are in the plates of the model, and so have its rows and scale.

    Raises:
        GuideError: naming the site and the plate.
    """
    for site in local_sites(target):
        inside = {frame.name for frame in trace[site.name]["cond_indep_stack"]}
        for plate, _ in site.axes(target.subsampled).pairs:
            if plate in inside and plate in trace:
                continue
            got = "got the plate inside a scan or cond" if plate in inside else "got it outside"
            raise GuideError(
                f"{label}, site {site.name!r}: expected it in numpyro.plate({plate!r}, ...), as in "
                f"the model, so that it has the same rows and is scaled to all of them, {got}. "
                "Enter this plate around the site."
            )

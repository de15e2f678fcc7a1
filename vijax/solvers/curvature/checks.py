"""Which models have a generalized Gauss-Newton curvature."""

from __future__ import annotations

from vijax.contracts import Batch, Target
from vijax.runtime.errors import ModelError

_REMEDY = "Use curvature='hessian', or another guide."


def check_curvature(target: Target, batch: Batch) -> None:
    """Refuses models whose likelihood is not that of observed sites given the latents.

    Raises:
        ModelError: naming the site.
    """
    structure, expected = target.structure, "curvature from Fisher information: expected"
    terms = [name for name in structure.factors if name not in structure.constant_factors]
    if terms:
        raise ModelError(
            f"{expected} observed sites with distributions, got the factor {terms[0]!r}, which "
            f"has no outcomes. {_REMEDY}"
        )
    if target.marginalized.sizes:
        raise ModelError(
            f"{expected} a model without discrete latents, got "
            f"{next(iter(target.marginalized.sizes))!r}. {_REMEDY}"
        )
    if target.on_batch is not target:
        local = [site.name for site in target.space.sites if site.axes(target.subsampled).pairs]
        raise ModelError(
            f"{expected} latents that all rows share, got {local[0]!r}, which has a value for "
            f"every row of a plate that is subsampled. Leave out batch_size. {_REMEDY}"
        )
    moved = [name for name in target.space.networks.names if name in batch.centering]
    if moved:
        raise ModelError(
            f"centering: expected weights of networks as in the model, got {moved[0]!r}. Leave "
            "it out, or use curvature='hessian'."
        )

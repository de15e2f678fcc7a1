"""Stages of an automatic fit."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from vijax import Posterior, VijaxError
from vijax.diagnostics.importance import describe_khat
from vijax.plot.style import POSTERIOR, REFERENCE, axes_or_new, styled


def stages(posterior: Posterior, axes: Axes | None = None) -> Axes:
    """Plots the ELBO of every stage with two standard errors, its duration and the stages kept.

    Args:
        posterior: an automatic fit.
        axes: axes to draw on; a new figure by default.

    Raises:
        VijaxError: the fit is not automatic, and has no stages.
    """
    history = posterior.history
    if not history:
        raise VijaxError(
            "stages: expected a fit with guide='auto' by a direct solver, got one without a "
            "history. Draw losses(posterior)."
        )
    with styled():
        axes = axes_or_new(axes, height=1.2 + 0.55 * len(history))
        finite = [one.elbo for one in history if np.isfinite(one.elbo)]
        floor = min(finite, default=0.0)
        for row, one in enumerate(history):
            color = POSTERIOR if one.kept else REFERENCE
            elbo = one.elbo if np.isfinite(one.elbo) else floor
            error = 2 * one.elbo_se if np.isfinite(one.elbo_se) else 0.0
            face = color if one.kept else "none"
            axes.errorbar(elbo, row, xerr=error, fmt="o", color=color, mfc=face, ms=6, lw=1.4)
            note = f"{one.guide}, {'kept' if one.kept else 'not kept'}, {one.seconds:.1f} s"
            note += f", {describe_khat(one.khat)}" if np.isfinite(one.khat) else ""
            axes.annotate(
                note, (0.02, row), (0, 8), ("axes fraction", "data"), "offset points",
                fontsize="small", color=color,
            )  # fmt: skip
        axes.set_yticks(range(len(history)), [one.stage for one in history])
        axes.set_ylim(len(history) - 0.5, -0.8)
        axes.margins(x=0.2)
        total = f"{posterior.status} after {posterior.seconds:.1f} s"
        axes.set(xlabel="ELBO ± 2 SE (nats)", title=total)
    return axes

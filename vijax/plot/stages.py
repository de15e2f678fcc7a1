"""The rungs that an automatic fit has tried."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from vijax import Posterior, VijaxError
from vijax.plot.style import ANSWER, FAINT, axes_or_new, styled


def stages(posterior: Posterior, axes: Axes | None = None) -> Axes:
    """ELBO of every rung with two standard errors, which were kept, and what each took.

    Args:
        posterior: an automatic fit.
        axes: where to draw; a new figure by default.

    Raises:
        VijaxError: the guide was named, so that there are no stages.
    """
    tried = posterior.history
    if not tried:
        raise VijaxError(
            "stages: expected a fit with guide='auto' by a direct solver, got one without a "
            "history. Draw losses(posterior)."
        )
    with styled():
        axes = axes_or_new(axes, height=1.2 + 0.55 * len(tried))
        finite = [one.elbo for one in tried if np.isfinite(one.elbo)]
        floor = min(finite, default=0.0)
        for row, one in enumerate(tried):
            color = ANSWER if one.kept else FAINT
            elbo = one.elbo if np.isfinite(one.elbo) else floor
            error = 2 * one.elbo_se if np.isfinite(one.elbo_se) else 0.0
            face = color if one.kept else "none"
            axes.errorbar(elbo, row, xerr=error, fmt="o", color=color, mfc=face, ms=6, lw=1.4)
            note = f"{one.guide}, {'kept' if one.kept else 'not kept'}, {one.seconds:.1f} s"
            note += f", k-hat {one.khat:.2f}" if np.isfinite(one.khat) else ""
            axes.annotate(
                note, (0.02, row), (0, 8), ("axes fraction", "data"), "offset points",
                fontsize="small", color=color,
            )  # fmt: skip
        axes.set_yticks(range(len(tried)), [one.stage for one in tried])
        axes.set_ylim(len(tried) - 0.5, -0.8)
        axes.margins(x=0.2)
        total = f"{posterior.status} after {posterior.seconds:.1f} s"
        axes.set(xlabel="ELBO (nats, ± 2 standard errors)", title=total)
    return axes

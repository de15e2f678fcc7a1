"""Posterior and prior predictive checks, by ArviZ."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from vijax import Posterior, Prior, VijaxError
from vijax.plot.style import GUIDE, POSTERIOR, styled
from vijax.runtime.keys import RngKey


def predictive(
    posterior: Posterior | Prior,
    sites: Sequence[str] | None = None,
    *,
    num_draws: int = 50,
    rng_key: RngKey = 0,
    **options: Any,
) -> Any:
    """Plots predictive data sets together with the data, by `arviz_plots`.

    Args:
        posterior: any fit with observations, or a `vijax.prior` of a model with its data.
        sites: observed sites; all by default.
        num_draws: number of predictive data sets.
        rng_key: an int, a JAX key or a legacy key.
        **options: of `arviz_plots.plot_ppc_dist`, such as `kind="ecdf"`.

    Returns:
        The matplotlib `Figure`.

    Raises:
        ImportError: arviz-plots is not installed.
        VijaxError: the model has no observations here.
    """
    if find_spec("arviz_plots") is None:
        raise ImportError(
            "predictive: expected arviz-plots, which is not installed. Install the extra "
            "`plots`: pip install '.[plots]' in the checkout."
        )
    import arviz_plots  # slow to import

    tree = posterior.to_datatree(num_draws, rng_key=rng_key)
    if "observed_data" not in tree:
        raise VijaxError(
            "predictive: expected a model with observed sites, got none to compare predictions "
            "with. Pass the data, or draw predictions alone: posterior.predict()."
        )
    visuals = {
        "predictive_dist": {"color": POSTERIOR, "alpha": 0.3},
        "observed_dist": {"color": GUIDE, "width": 2},
    }
    with styled():
        drawn = arviz_plots.plot_ppc_dist(
            tree,
            var_names=sites,
            num_samples=num_draws,
            group="prior_predictive" if isinstance(posterior, Prior) else "posterior_predictive",
            backend="matplotlib",
            **{"visuals": visuals, **options},
        )
        figure = drawn.viz["figure"].item()
        for line, label in ((POSTERIOR, f"{num_draws} draws"), (GUIDE, "data")):
            figure.axes[0].plot([], [], color=line, label=label)
        figure.axes[0].legend(loc="upper right")
    return figure

"""A progress bar with ELBO, rate and remaining time, on terminals only."""

from __future__ import annotations

import numpy as np


class Progress:
    """A tqdm bar, updated at most a few times per second and disabled without a terminal.

    Args:
        enabled: whether the user enabled it.
        total: total number of steps, `None` if unknown.
        steps: whether it counts steps; otherwise it shows the current stage and the elapsed time.
    """

    def __init__(self, enabled: bool, total: int | None = None, steps: bool = True) -> None:
        from tqdm.auto import tqdm  # its import costs more than a small fit

        self._bar = tqdm(
            total=total,
            desc="fit",
            unit="step",
            bar_format=None if steps else "{desc} [{elapsed}]",
            disable=None if enabled else True,  # None: shown on a terminal only
            mininterval=0.2,
            leave=True,
        )

    def update(self, step: int, losses: np.ndarray) -> None:
        """Advances the bar to `step`."""
        if self._bar.disable:
            return
        recent = losses[-100:]
        if recent.size and np.isfinite(recent).any():
            self._bar.set_postfix(elbo=f"{-np.nanmean(recent):.2f}", refresh=False)
        self._bar.update(step - self._bar.n)

    def note(self, text: str) -> None:
        """Shows a line of text with the bar."""
        if not self._bar.disable:
            self._bar.set_description(text)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

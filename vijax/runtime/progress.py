"""A progress bar that shows ELBO, rate and time left; silent where nobody watches."""

from __future__ import annotations

import numpy as np


class Progress:
    """A tqdm bar, updated at most a few times a second and disabled off a terminal.

    Args:
        enabled: whether the user wants it at all.
        total: steps in all, `None` when unknown.
        steps: whether steps are counted; else only what is going on is shown, and for how long.
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
        """Moves the bar to `step`."""
        if self._bar.disable:
            return
        recent = losses[-100:]
        if recent.size and np.isfinite(recent).any():
            self._bar.set_postfix(elbo=f"{-np.nanmean(recent):.2f}", refresh=False)
        self._bar.update(step - self._bar.n)

    def note(self, text: str) -> None:
        """Shows a line of state beside the bar."""
        if not self._bar.disable:
            self._bar.set_description(text)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

"""What held-out rows say of a fit: the log score, calibration, and agreement of restarts."""

from __future__ import annotations

from typing import NamedTuple

_SE = 2.0  # standard errors beyond which a difference is one
_LOSS = 0.01  # nats a row by which the point estimate may be better
_NONE = 1e-4  # nats a row below which there is no gain to speak of
_GAP = 0.05  # nats a row beyond which a difference of restarts matters


class Calibration(NamedTuple):
    """A measure of calibration, and what it is if predictions are calibrated.

    Attributes:
        name: in words.
        value: of the held-out rows.
        low: smallest value that calibrated predictions have on as many rows, but for 2.5 %.
        high: largest value likewise; for an error, which is never too small, but for 5 %.
    """

    name: str
    value: float
    low: float
    high: float

    @property
    def inside(self) -> bool:
        """Whether the rows do not contradict calibration."""
        return self.low <= self.value <= self.high

    def __str__(self) -> str:
        return f"{self.name} {self.value:.3g} (calibrated: {self.low:.3g} to {self.high:.3g})"


class Predictions(NamedTuple):
    """Predictions of held-out rows against their outcomes.

    Attributes:
        num_rows: number of them.
        log_score: mean log density of an outcome, in nats.
        log_score_se: its standard error.
        gain: of the log score over that of the point estimate of the weights of networks; 0 without
            networks.
        gain_se: its standard error, by paired rows.
        calibration: of central intervals, or of the probability of the most probable class.
        restarts: of the other restarts, the difference of their log scores from `log_score` and its
            standard error, by paired rows.
    """

    num_rows: int
    log_score: float
    log_score_se: float
    gain: float
    gain_se: float
    calibration: tuple[Calibration, ...]
    restarts: tuple[tuple[float, float], ...] = ()

    @property
    def harmful(self) -> bool:
        """Whether the point estimate of the weights predicts better, by 1 % and beyond error."""
        return self.gain < -max(_SE * self.gain_se, _LOSS)

    @property
    def calibrated(self) -> bool:
        """Whether no measure contradicts calibration."""
        return all(one.inside for one in self.calibration)

    @property
    def restarts_differ(self) -> bool:
        """Whether a restart predicts otherwise, beyond error."""
        return any(abs(gap) > max(_SE * se, _GAP) for gap, se in self.restarts)

    @property
    def lines(self) -> tuple[str, ...]:
        """The predictions in words."""
        score = f"log score of {self.num_rows} held-out rows: {self.log_score:.3g} ± "
        score += f"{self.log_score_se:.2g} nats a row"
        if max(abs(self.gain), self.gain_se) > _NONE:
            score += f"; over the point estimate of weights {self.gain:+.2g} ± {self.gain_se:.2g}"
        found = [score, "; ".join(map(str, self.calibration))]
        if self.restarts:
            gap, se = max(self.restarts, key=lambda pair: abs(pair[0]))
            which = "differ" if self.restarts_differ else "agree"
            number = len(self.restarts) + 1
            found.append(f"{number} restarts {which}: log scores within {abs(gap):.2g} ± {se:.2g}")
        return tuple(found)

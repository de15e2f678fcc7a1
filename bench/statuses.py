"""Calibration of the statuses: of fits of simulated data, how many statuses are false?

Parameters are simulated from the priors of ten kinds of models, data from these, and the fit is
compared with the exact posterior. A status `certified` or `corrected` is false if

- a mean is off by more than 0.3 sd,
- a log sd by more than 0.3, with the variance moved by three standard errors of that of 4,000 exact
  draws (a mode of a thousandth of the mass far away may double an sd, and has four of these), or
- the log evidence by more than five of its standard errors.

Every data set is fitted by default, and by one of the other ways in turn unless `--default`.
"""

from __future__ import annotations

import argparse
import time
import traceback
from typing import Any, NamedTuple

import numpy as np

import vijax
from bench import _report
from bench.posteriors.simulated import KINDS, Exact

_TOLERANCE = 0.3  # sds, or log sds
_ERRORS = 5.0  # standard errors of the log evidence
_DRAWS = 4000
_TRUSTED = ("certified", "corrected")
_OTHERS: dict[str, dict[str, Any]] = {
    "laplace": {"guide": "laplace"},
    "meanfield": {"guide": "meanfield"},
    "steps": {"guide": "fullrank", "num_steps": 1000},
}


class Outcome(NamedTuple):
    """One fit compared with the truth.

    Attributes:
        kind: of the model.
        way: of the fit.
        seed: of the simulation.
        status: of the fit.
        mean: largest error of a mean in sds.
        log_sd: largest error of a log sd, beyond three standard errors of the variance.
        evidence: error of the log evidence in nats.
        evidence_se: its standard error.
        seconds: the fit took.
    """

    kind: str
    way: str
    seed: int
    status: str
    mean: float
    log_sd: float
    evidence: float
    evidence_se: float
    seconds: float

    @property
    def right(self) -> bool:
        """Whether the draws have the posterior's moments, whatever the status."""
        return self.mean <= _TOLERANCE and self.log_sd <= _TOLERANCE

    @property
    def false(self) -> bool:
        """Whether the status promises what is not so."""
        honest = abs(self.evidence) <= _ERRORS * self.evidence_se
        return self.status in _TRUSTED and not (self.right and honest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first simulation")
    parser.add_argument("--kinds", default="", help="parts of their names, separated by commas")
    parser.add_argument("--default", action="store_true", help="only default fits")
    options = parser.parse_args()
    parts = options.kinds.split(",")
    kinds = [name for name in KINDS if any(part in name for part in parts)]
    outcomes = run(kinds, options.minutes, options.seed, {} if options.default else _OTHERS)
    rows = summary(outcomes)
    _report.table(("", "fits", "trusted", "false", "rate, %", "right but not trusted, %"), rows)
    wrong = [one._asdict() for one in outcomes if one.false]
    print(*wrong, sep="\n")
    if len(kinds) == len(KINDS) and options.minutes >= 5:
        name = "statuses_default" if options.default else "statuses"
        _report.save(name, {"table": rows, "false": wrong})


def run(
    kinds: list[str], minutes: float, seed: int, others: dict[str, dict[str, Any]]
) -> list[Outcome]:
    """Simulates and fits until the time is up, the kinds in turns, `others` beside the default."""
    end, outcomes = time.perf_counter() + 60 * minutes, []
    while time.perf_counter() < end:
        for number, kind in enumerate(kinds):
            exact = KINDS[kind].simulate(np.random.default_rng((seed, number)))
            ways: list[tuple[str, dict[str, Any]]] = [("default", {})]
            if others:
                ways.append(list(others.items())[(seed + number) % len(others)])
            for way, given in ways:
                outcomes.append(compare(kind, way, seed, exact, given))
                if outcomes[-1].false:
                    print("FALSE", outcomes[-1], flush=True)
        seed += 1
    return outcomes


def compare(kind: str, way: str, seed: int, exact: Exact, given: dict[str, Any]) -> Outcome:
    """Fits a simulated data set and compares the result with the exact posterior."""
    start = time.perf_counter()
    try:
        posterior = vijax.fit(
            KINDS[kind].model, *exact.args, rng_key=seed, progress_bar=False, **given
        )
    except Exception:
        traceback.print_exc()
        return Outcome(kind, way, seed, "raised", np.inf, np.inf, 0.0, 0.0, 0.0)
    seconds = time.perf_counter() - start
    mean_error, log_sd_error = errors(posterior, exact)
    evidence = posterior.log_evidence()
    return Outcome(
        kind=kind,
        way=way,
        seed=seed,
        status=posterior.status,
        mean=mean_error,
        log_sd=log_sd_error,
        evidence=evidence.value - exact.log_evidence,
        evidence_se=evidence.se,
        seconds=seconds,
    )


def errors(posterior: vijax.Posterior, exact: Exact) -> tuple[float, float]:
    """The largest errors of a mean in sds and of a log sd, see `Outcome`."""
    draws = posterior.sample(_DRAWS, rng_key=1)
    mean_errors, log_sd_errors = [], []
    for name, mean in exact.mean.items():
        found, sd = np.asarray(draws[name], float), np.maximum(exact.sd[name], 1e-3)
        mean_errors.append(np.max(np.abs(found.mean(0) - mean) / sd))
        variance, noise = np.maximum(found.var(0), 1e-6), 3 * sd**2
        noise = noise * np.sqrt((exact.kurtosis[name] - 1) / _DRAWS)
        nearest = np.clip(sd**2, variance - noise, variance + noise)
        log_sd_errors.append(np.max(np.abs(np.log(nearest / sd**2))) / 2)
    return float(max(mean_errors)), float(max(log_sd_errors))


def summary(outcomes: list[Outcome]) -> list[tuple[str, ...]]:
    """A row for every kind fitted by default, for every other way, and for all fits."""
    default = [one for one in outcomes if one.way == "default"]
    groups = {kind: [one for one in default if one.kind == kind] for kind in KINDS}
    groups["all of the default fit"] = default
    for way in _OTHERS:
        groups[f"guide {way}"] = [one for one in outcomes if one.way == way]
    groups["all"] = outcomes
    return [_row(name, group) for name, group in groups.items() if group]


def _row(name: str, group: list[Outcome]) -> tuple[str, ...]:
    trusted = sum(one.status in _TRUSTED for one in group)
    false, right = sum(one.false for one in group), [one for one in group if one.right]
    doubted = sum(one.status not in _TRUSTED for one in right)
    return (
        name,
        str(len(group)),
        str(trusted),
        str(false),
        share(false, trusted),
        share(doubted, len(right)),
    )


def share(count: int, total: int) -> str:
    """A share in percent with its standard error, by Agresti and Coull's rule."""
    if not total:
        return ""
    middle = (count + 2) / (total + 4)
    error = np.sqrt(middle * (1 - middle) / (total + 4))
    return f"{100 * count / total:.2f} ± {100 * error:.2f}"


if __name__ == "__main__":
    main()

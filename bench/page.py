"""The page of results: docs/benchmarks.md and its figure, made of bench/results/*.json."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import _figures
from bench._report import PEERS, RESULTS
from bench.peers.methods import OURS
from bench.posteriors.score import NOISE

DOCS = Path(__file__).parents[1] / "docs"
_CLEAR = 0.05  # nats by which an ELBO must be higher to count as higher
# What runs are compared by: the key, and what is level whatever the ratio.
KINDS = {
    "slower": ("seconds", 0.0),
    "slower again, warm": ("warm", 0.0),
    "less accurate": ("worst", NOISE),
}
_LEVEL = 1.05  # ratio of times or errors up to which two are called equal

HEAD = """# Benchmarks

Made by `python -m bench page` of the results in `bench/results`; `python -m bench` lists the suites
that make those. How each is measured is [a page of its own](measuring.md). Wins and losses
are picked out by one rule: better by more than 5 %, or by 0.05 nats. Errors below 0.05, the noise
of the reference draws, are level.
"""

# Why a loss is one. Keyed by suite and by what lost; without an entry the page says so.
REASONS = {
    ("throughput", "slower"): "ours runs like the scan written by hand, NumPyro's program faster",
    ("flows", "lower ELBO"): (
        "the automatic fit stops at the first answer whose draws can be mended, not at the highest "
        "ELBO: ask for guide='flow'"
    ),
    ("flows", "slower"): "the whole ladder is climbed before it ends",
    ("pareto", "slower"): "the ladder ends in a flow, most of whose time goes into compiling it",
    ("pareto", "slower again, warm"): "the flow is trained again, in thousands of steps",
    ("pareto", "less accurate"): "a flow leaves out some of the far tails, which NUTS walks into",
}


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    (DOCS / "benchmarks.md").write_text(page(), encoding="utf-8")
    print("written: docs/benchmarks.md")
    for name, draw in _figures.FIGURES.items():
        found = results(name)
        if found is not None:
            draw(found["results"], DOCS / "figures" / f"{name}.png")
            print(f"written: docs/figures/{name}.png")


def results(name: str) -> dict[str, Any] | None:
    """What a suite has written, `None` if it has not been run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def page() -> str:
    """The whole page as Markdown."""
    parts = [HEAD]
    for name, section in SECTIONS.items():
        found = results(name)
        if found is None:
            parts.append(f"## {name}\n\nNot run: `python -m bench {name}`.\n")
        else:
            parts.append(f"{section(found['results'])}\n{made(found['machine'])}\n")
    others = sorted({path.stem for path in RESULTS.glob("*.json")} - set(SECTIONS))
    links = ", ".join(f"[{name}](../bench/results/{name}.json)" for name in others)
    parts.append(f"## More\n\nFigures of other suites, as they were written: {links}.\n")
    return "\n".join(parts)


def made(machine: dict[str, Any]) -> str:
    """Where, when and with what."""
    packages = [
        f"{name} {machine[name]}" for name in ("jax", "numpyro", "numpy", *PEERS) if name in machine
    ]
    load = machine["load"][0] if machine["load"] else "unknown"
    return (
        f"*{machine['date'][:10]}, {machine['processor']}, {machine['cores']} cores, load {load}, "
        f"Python {machine['python']}, {', '.join(packages)}.*\n"
    )


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def verdicts(suite: str, wins: list[str], losses: dict[str, list[str]]) -> str:
    """How often we won, and every loss with its reason."""
    lines = [f"Better than a peer in {len(wins)} comparisons, worse in "]
    lines[0] += f"{sum(map(len, losses.values()))}, level in the rest.\n"
    for kind, cases in losses.items():
        if cases:
            reason = REASONS.get((suite, kind), "no reason found yet")
            lines.append(f"- **{kind}** ({reason}): {'; '.join(cases)}.")
    return "\n".join(lines) + "\n"


def posteriordb(found: dict[str, Any]) -> str:
    """Fifteen posteriors with reference draws: errors, times, and who was better where."""
    posteriors = found["posteriors"]
    methods = list(next(iter(posteriors.values())))
    rows = []
    for method in methods:
        runs = _figures.ended(posteriors, method)
        ratio = found["geometric means of times"].get(method, 1.0 if method == OURS else None)
        rms = [np.sqrt(np.mean([run[key] ** 2 for run in runs])) for key in ("mean", "log_sd")]
        worst = max(run["worst"] for run in runs)
        rows.append(
            (method, f"{len(runs)} of {len(posteriors)}", *map(_short, (*rms, worst, ratio)))
        )
    wins: list[str] = []
    losses: dict[str, list[str]] = {}
    for name, by_method in posteriors.items():
        ours = by_method[OURS][0]
        for method in methods:
            theirs = by_method[method][0]
            if method.startswith("vijax") or "worst" not in theirs:
                continue
            _compare(name, ours, method, theirs, wins, losses)
    header = ("method", "answers", "mean error", "log sd error", "worst error", "time over ours")
    return (
        "## Posteriors with reference draws\n\nFrom the call to 4,000 draws (NUTS: 500 after 500 "
        "of warm-up), compilation included, a fresh process each; peers as they come. Errors are "
        "in reference sds, root mean squares over all scalars, and the worst single one; times are "
        "geometric means of ratios.\n\n"
        "![Worst error against seconds](figures/posteriordb.png)\n\n"
        + markdown(header, rows)
        + "\n"
        + verdicts("posteriordb", wins, losses)
    )


def pareto(found: dict[str, Any]) -> str:
    """All libraries on posteriors with exact draws: seconds, cold and warm, and errors."""
    rows, wins = [], []
    losses: dict[str, list[str]] = {}
    for name, by_method in found.items():
        ours = by_method[OURS]
        for method, run in by_method.items():
            missing = run.get("failed") or run.get("skipped")
            if missing:
                rows.append((name, method, missing, "", ""))
                continue
            rows.append(
                (name, method, *map(_short, (run["seconds"], run.get("warm"), run["worst"])))
            )
            if method != OURS:
                _compare(name, ours, method, run, wins, losses)
    header = ("posterior", "method", "seconds", "again, warm", "worst error")
    return (
        "## Accuracy against seconds\n\nFrom the call to 4,000 draws, a fresh process each, then "
        "once more in it where that took less than ten seconds; peers as they come, with models of "
        "their own where they do not take NumPyro's. The error is the worst of any mean (in sds of "
        "exact draws) or log sd.\n\n"
        "![Worst error against seconds, a panel a posterior](figures/pareto.png)\n\n"
        + markdown(header, rows)
        + "\n"
        + verdicts("pareto", wins, losses)
    )


def time_to_posterior(found: dict[str, Any]) -> str:
    """Seconds to a full-rank posterior."""
    rows, wins = [], []
    losses: dict[str, list[str]] = {"slower": [], "lower ELBO": []}
    for name, by_method in found.items():
        for method, run in by_method.items():
            median, low, high = run["seconds"]
            seconds = f"{_short(median)} [{_short(low)}, {_short(high)}]"
            elbo = f"{run['elbo']:.2f} ± {run['elbo_se']:.2g}"
            rows.append((name, method, seconds, f"{run['speed'][0]:.1f}", elbo))
        ours, theirs = by_method["vijax"], by_method["NumPyro"]
        slower, lower = ours["speed"][0] < 1, ours["elbo"] < theirs["elbo"] - _CLEAR
        losses["slower"] += [name] * slower
        losses["lower ELBO"] += [name] * lower
        wins += [name] * (2 - slower - lower)
    header = ("model", "method", "seconds", "speed over NumPyro's", "ELBO")
    return (
        "## Time to a posterior\n\nFrom the call to a fitted full-rank Gaussian, cold: a fresh "
        "process, compilation included. NumPyro: `AutoMultivariateNormal`, Adam 1e-2, 5,000 steps. "
        "Median and range.\n\n" + markdown(header, rows) + "\n"
        f"{verdicts('time_to_posterior', wins, losses)}"
    )


def throughput(found: dict[str, Any]) -> str:
    """What a gradient step costs, compiled."""
    rows, wins, slower = [], [], []
    for name, by_method in found.items():
        for method, run in by_method.items():
            speed = f"{run['speed'][0]:.2f} [{run['speed'][1]:.2f}, {run['speed'][2]:.2f}]"
            rows.append((name, method, f"{run['step'][0]:.0f}", speed))
        ratio = by_method["vijax"]["speed"][0] / by_method["NumPyro"]["speed"][0]
        if ratio * _LEVEL < 1:
            slower.append(f"{name} ({ratio:.2f} of NumPyro's speed)")
        elif ratio > _LEVEL:
            wins.append(name)
    header = ("model", "method", "microseconds a step", "speed over hand-written")
    return (
        "## A gradient step, warm\n\nOnce compiled, beside a `lax.scan` of the same maths written "
        "by hand.\n\n" + markdown(header, rows) + "\n"
        f"{verdicts('throughput', wins, {'slower': slower})}"
    )


def flows(found: dict[str, Any]) -> str:
    """Flows as guides."""
    found = {name: runs for name, runs in found.items() if name != "left out"}
    rows, wins = [], []
    losses: dict[str, list[str]] = {"lower ELBO": [], "slower": []}
    for name, by_method in found.items():
        for method, run in by_method.items():
            shown = [run["ended"], ""] if "ended" in run else []
            shown = shown or [f"{run['elbo']:.3f} ± {run['elbo_se']:.2g}", _short(run["seconds"])]
            rows.append((name, method, *shown))
        ours = by_method[OURS]
        for method, theirs in by_method.items():
            if method.startswith("vijax") or "ended" in theirs:
                continue
            lower = ours["elbo"] < theirs["elbo"] - _CLEAR
            slower = ours["seconds"] > _LEVEL * theirs["seconds"]
            losses["lower ELBO"] += [f"{name}, {method}"] * lower
            gain = ours["elbo"] - theirs["elbo"]
            times = f"{_short(ours['seconds'])} s against {_short(theirs['seconds'])} s"
            case = f"{name}, {method}: {times}, for an ELBO {gain:+.2f} nats from its"
            losses["slower"] += [case] * slower
            wins += [name] * (2 - lower - slower)
    return (
        "## Flows\n\nPosteriors that a Gaussian does not fit; compilation included.\n\n"
        + markdown(("posterior", "method", "ELBO", "seconds"), rows)
        + f"\n{verdicts('flows', wins, losses)}"
    )


def hard(found: dict[str, Any]) -> str:
    """Difficult posteriors: what the status says, and whether it is true."""
    rows = []
    for name, by_method in found["posteriors"].items():
        for method, (run, *_) in by_method.items():
            shown = [_short(run[key]) for key in ("worst", "seconds")] if "worst" in run else []
            rows.append((name, method, *(shown or ["no answer", ""]), run.get("status") or ""))
    untrue = found["untrue statuses"]
    said = "\n".join(f"- {line}" for line in untrue) or "None."
    return (
        "## Difficult posteriors\n\nFunnels, heavy tails, several modes, bad scales: a Gaussian "
        "does not fit. What counts is whether the status says so.\n\n"
        + markdown(("posterior", "method", "worst error", "seconds", "status"), rows)
        + f"\nErrors over 0.3 under a status of certified or corrected:\n\n{said}\n"
    )


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "pareto": pareto,
    "posteriordb": posteriordb,
    "posteriordb_hard": hard,
    "time_to_posterior": time_to_posterior,
    "throughput": throughput,
    "flows": flows,
}


def _compare(
    name: str,
    ours: dict[str, Any],
    method: str,
    theirs: dict[str, Any],
    wins: list[str],
    losses: dict[str, list[str]],
) -> None:
    """Adds a win or a loss, of time and of accuracy, where there is one."""
    for kind, (key, least) in KINDS.items():
        if key not in ours or key not in theirs:
            continue
        if ours[key] > max(_LEVEL * theirs[key], least):
            of = f"{name} ({_short(ours[key])} against {_short(theirs[key])} of {method})"
            losses.setdefault(kind, []).append(of)
        elif theirs[key] > max(_LEVEL * ours[key], least):
            wins.append(name)


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


if __name__ == "__main__":
    main()

"""The page of results agrees with the stored results, losses included."""

from pathlib import Path

import pytest

pytest.importorskip("bench.page")  # an installed wheel has no benchmarks

from bench import __main__ as entry
from bench import page

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_in_the_docs_agrees_with_the_results():
    shown = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert shown == page.page(), "run `python -m bench page`"


def run(seconds, elbo):
    return {"seconds": seconds, "elbo": elbo, "elbo_se": 0.01}


def test_losses_are_shown_with_their_reasons():
    found = {
        "left out": {},
        "easy": {page.OURS: run(1.0, 0.0), "peer": run(2.0, -1.0)},
        "hard": {page.OURS: run(3.0, -1.0), "peer": run(2.0, 0.0), "other": {"ended": "after 9 s"}},
    }
    text = page.flows(found)
    assert "Better than a peer in 2 comparisons, worse in 2, tied in the rest." in text
    assert f"- **lower ELBO** ({page.REASONS['flows', 'lower ELBO']}): hard, peer." in text
    assert "hard, peer: 3 s against 2 s, ELBO difference -1.00 nats." in text
    assert "| hard | other | after 9 s |" in text


def test_cold_and_warm_times_and_errors_are_listed():
    found = {
        "easy": {
            page.OURS: {"seconds": 2.0, "warm": 0.2, "worst": 0.04},
            "fast and rough": {"seconds": 1.0, "worst": 0.5},
            "tied": {
                "seconds": 2.05,
                "worst": 0.01,
            },  # both errors below the noise of the reference
            "absent": {"skipped": "not installed"},
        }
    }
    text = page.pareto(found)
    assert f"| easy | {page.OURS} | 2 | 0.2 | 0.04 |" in text
    assert "| easy | absent | not installed |  |  |" in text
    assert "Better than a peer in 1 comparisons, worse in 1, tied in the rest." in text
    assert "easy (2 against 1 of fast and rough)." in text


def test_a_loss_without_a_reason_says_so():
    ours, peer = {"seconds": 2.0, "worst": 0.5}, {"seconds": 1.0, "worst": 0.1}
    errors = {"mean": 0.1, "log_sd": 0.1}
    found = {
        "posteriors": {"p": {page.OURS: [ours | errors], "peer": [peer | errors]}},
        "geometric means of times": {"peer": 0.5},
    }
    text = page.posteriordb(found)
    assert "worse in 2" in text
    assert "- **less accurate** (no reason found yet): p (0.5 against 0.1 of peer)." in text


def test_suites_are_listed_and_unknown_names_are_errors(capsys):
    assert entry.main([]) == 0
    said = capsys.readouterr().out
    for name in ("time_to_posterior", "throughput", "posteriordb", "flows", "scale", "gradients"):
        assert f"\n  {name} " in said
    assert entry.main(["nonsense"]) == 2
    assert "unknown suite 'nonsense'; available: accuracy, " in capsys.readouterr().err

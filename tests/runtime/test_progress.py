"""What a fit shows: a bar on terminals, records of `logging`, a file of JSON lines."""

import io
import json
import logging
import sys

import numpy as np
import pytest

import vijax
from tests import targets
from vijax.runtime import progress

PROBLEM = targets.problem("gamma_poisson")


class Terminal(io.StringIO):
    """A terminal that does not know its width."""

    def isatty(self):
        return True


def fit(**options):
    return vijax.fit(PROBLEM.model, *PROBLEM.args, **options)


def test_every_stage_is_shown_on_a_terminal_of_unknown_width(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    fit()
    shown = terminal.getvalue()
    for name in ("tracing the model", "full-rank Gaussian", "short HMC chains"):
        assert name in shown
    assert "importance sampling: 100%" in shown
    assert "elbo=" in shown
    assert max(map(len, shown.split("\r"))) <= progress._COLUMNS + 1
    fit(progress_bar=False)
    assert terminal.getvalue() == shown


def test_nothing_is_shown_without_a_terminal(capfd):
    fit()
    assert capfd.readouterr() == ("", "")


def test_stages_are_logged_with_fields(caplog):
    with caplog.at_level(logging.INFO, "vijax"):
        posterior = fit(guide="fullrank", num_steps=50)
    found = [record.vijax for record in caplog.records if record.name == "vijax"]
    ended = {fields["stage"]: fields for fields in found if "seconds" in fields}
    assert len(found) == 2 * sum("seconds" in fields for fields in found)
    assert {"tracing the model", "gradient steps", "importance sampling"} <= ended.keys()
    assert ended["gradient steps"]["elbo"] == pytest.approx(-posterior.losses.mean(), abs=0.01)
    assert sum(fields["seconds"] for fields in ended.values()) > 0


def test_json_lines(tmp_path):
    path = tmp_path / "fit.jsonl"
    posterior = fit(num_steps=300, callbacks=[vijax.callbacks.JSONLines(path)])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [line["step"] for line in lines]
    assert steps == sorted(steps)
    assert steps[-1] == 300
    parts = np.split(posterior.losses, steps[:-1])
    np.testing.assert_allclose([line["loss"] for line in lines], [np.mean(p) for p in parts])
    assert all(line["seconds"] >= 0 for line in lines)


def test_json_lines_of_restarts_with_gaps(tmp_path):
    path = tmp_path / "fit.jsonl"
    vijax.callbacks.JSONLines(path)(None, np.array([[1.0, np.nan], [3.0, np.nan]]), 2)
    assert json.loads(path.read_text())["loss"] == [2.0, None]

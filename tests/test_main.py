"""`python -m vijax` says what is installed and whether a fit comes out right."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import vijax
from vijax import __main__ as main

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_command_passes_on_a_sound_installation():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-m", "vijax"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith(f"vijax {vijax.__version__}, Python ")
    assert "\ndevices: " in result.stdout
    assert result.stdout.endswith(": pass\n")


def test_a_wrong_answer_fails(monkeypatch, capsys):
    """Independent Gaussians are too narrow for correlated coefficients."""
    fit = vijax.fit
    monkeypatch.setattr(vijax, "fit", lambda *args, **kw: fit(*args, guide="meanfield", **kw))
    assert main.main() == 1
    said = capsys.readouterr().out
    assert ": FAIL\n- sd: [" in said
    assert "- status " in said


def test_complaints_name_what_is_off():
    exact = main._exact(*main._data())
    assert main._complaints(exact, exact) == []
    off = exact._replace(mean=exact.mean + exact.sd, log_evidence=float("nan"))
    assert [line.partition(":")[0] for line in main._complaints(off, exact)] == [
        "mean",
        "log evidence",
    ]

"""Every example runs by itself, prints figures that are right, and draws something."""

import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(p.stem for p in ROOT.glob("examples/*.py") if p.stem != "common")
_SUMMARY = 7  # columns of a summary
QUICK = ["quickstart", "eight_schools"]

# By example: what starts a line of the output, which number after it, the value, how far off it may
# be. Values are those of NUTS on the same models (4 chains of 4,000 draws, R-hat 1.00, no
# divergences); tolerances leave room for the approximations, which are known to be too narrow where
# no row asks for a standard deviation. Columns of a summary: 0 mean, 1 sd.
EXPECTED = {
    "quickstart": [
        ("spread", 0, 0.334, 0.02),
        ("spread", 1, 0.047, 0.012),
        ("upstairs", 0, -0.690, 0.02),
        ("upstairs", 1, 0.071, 0.008),
        ("noise", 0, 0.757, 0.005),
    ],
    "eight_schools": [
        ("theta[0]", 0, 6.14, 0.8),
        ("theta[0]", 1, 5.54, 0.8),
        ("tau", 0, 3.54, 0.8),
    ],
    "radon": [
        ("slope", 0, 0.726, 0.03),
        ("slope", 1, 0.092, 0.015),
        ("upstairs", 0, -0.662, 0.02),
        ("1 to 3", 0, 22, 0),  # counties, a fact of the data
    ],
    "sleepstudy": [
        ("mean[0]", 0, 251.4, 2.0),
        ("mean[1]", 0, 10.48, 0.4),
        ("mean[1]", 1, 1.66, 0.35),
        ("spread[1]", 0, 6.32, 0.4),
        ("noise", 0, 25.8, 0.5),
    ],
    "hand_written_guide": [
        ("shape", 0, 0.696, 0.03),
        ("shape", 1, 0.273, 0.03),
        ("rate[3]", 0, 0.116, 0.003),
    ],
    # scikit-learn's LogisticRegression with its default penalty gets 0.975 on the same halves.
    "logistic_regression": [("accuracy", 0, 0.975, 0.012)],
}


def run(name, folder):
    """What an example prints, its figures written to `folder`."""
    environment = os.environ | {"MPLBACKEND": "Agg", "VIJAX_FIGURES": str(folder)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "error::UserWarning", str(ROOT / "examples" / f"{name}.py")]
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def number(output, start, column):
    """Number `column` of the first line that starts so: of a summary, where there is one."""
    found = re.findall(rf"^{re.escape(start)} +(.*)$", output, re.MULTILINE)
    lines = sorted((line.split() for line in found), key=lambda line: len(line) != _SUMMARY)
    return float(lines[0][column])


def marked(name):
    return name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [marked(name) for name in EXAMPLES])
def test_example(name, tmp_path):
    output = run(name, tmp_path)
    picture = matplotlib.image.imread(tmp_path / f"{name}.png")
    assert min(picture.shape[:2]) > 200
    assert (picture[..., :3] < 0.6).any(axis=-1).mean() > 0.01  # share of ink
    if name == "quickstart":
        assert re.search(r"^status: (certified|corrected)$", output, re.MULTILINE)
    for start, column, value, tolerance in EXPECTED[name]:
        assert number(output, start, column) == pytest.approx(value, abs=tolerance), start


def test_examples_need_no_files_but_their_own():
    """An example must run anywhere."""
    for path in ROOT.glob("examples/*.py"):
        text = path.read_text(encoding="utf-8")
        assert "shared/" not in text, path.name
        assert len(text.splitlines()) < 100, path.name

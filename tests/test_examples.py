"""Every example runs, prints the expected values and saves a nonempty figure.

By default all but the longest run, in this process with `--short`; `-m slow` runs each as a user
does.
"""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(p.stem for p in ROOT.glob("examples/*.py") if p.stem != "common")
_SUMMARY = 7  # columns of a summary
# Take ten seconds or more, even with --short; or fit a model like that of another. The gallery
# runs them all.
LONG = {"baseball", "changepoint", "covertype", "gaussian_process", "hand_written_guide"}
LONG |= {"eight_schools", "horseshoe", "logistic_regression"}
LONG |= {"matrix_factorization", "methylation", "quickstart", "radon", "robust_regression"}
LONG |= {"sleepstudy", "spike_counts", "state_space"}
LONG |= {"bayesian_regression_network", "characters", "deferring_classifier", "digits"}
LONG |= {"recurrent_network", "variational_linear_layer"}
LONG |= {"diffusion", "diffusion_digits", "masked_diffusion"}
LONG |= {"single_cells", "vector_quantization"}
LONG |= {"autoencoder", "conditional_autoencoder", "hierarchical_autoencoder"}
LONG |= {"gp_classification", "hidden_markov", "switching", "topics", "trueskill"}
LONG |= {"many_stores"}

# By example: start of a line of the output, index of the number after it, value, tolerance. Values
# are those of NUTS on the same models (4 chains of 4,000 draws, R-hat 1.00, no divergences);
# tolerances allow for approximations that underestimate standard deviations, where no sd is listed.
# Columns of a summary: 0 mean, 1 sd.
EXPECTED = {
    "quickstart": [
        ("tau", 0, 0.334, 0.02),
        ("tau", 1, 0.047, 0.012),
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
        ("1 to 3", 0, 22, 0),  # counties, depends only on the data
    ],
    "sleepstudy": [
        ("mean[0]", 0, 251.4, 2.0),
        ("mean[1]", 0, 10.48, 0.4),
        ("mean[1]", 1, 1.66, 0.35),
        ("tau[1]", 0, 6.32, 0.4),
        ("noise", 0, 25.8, 0.5),
    ],
    "hand_written_guide": [
        ("shape", 0, 0.696, 0.03),
        ("shape", 1, 0.273, 0.03),
        ("rate[3]", 0, 0.116, 0.003),
    ],
    "baseball": [
        ("mu", 0, -1.026, 0.015),
        ("mu", 1, 0.094, 0.01),
        ("tau", 0, 0.154, 0.015),
        ("no pooling", 0, 0.0690, 0.0),  # depends only on the data
        ("partial pooling", 0, 0.0384, 0.0008),
    ],
    # Year: exact, as in the example. Rates: their mean over the exact posterior of the year.
    "changepoint": [
        ("1891", 0, 0.238, 0.02),
        ("1891", 1, 0.238, 0.001),
        ("rate[0]", 0, 3.09, 0.02),
        ("rate[1]", 0, 0.938, 0.01),
    ],
    "robust_regression": [
        ("normal errors", 0, 4.81, 0.3),  # slopes
        ("student errors", 0, 1.128, 0.02),
    ],
    "state_space": [
        ("wander", 0, 0.393, 0.03),
        ("wander", 1, 0.152, 0.02),
        ("noise", 0, 1.236, 0.025),
        ("noise", 1, 0.122, 0.015),
        ("largest error, against smoother", 0, 0.0, 0.15),  # sds, of 2,000 draws against 500
    ],
    "spike_counts": [
        ("peak, 20 to 30 ms", 0, 34.02, 0.4),
        ("peak, 20 to 30 ms", 1, 2.75, 0.3),
        ("trough, 40 to 50 ms", 0, 1.407, 0.1),
        ("second peak, 60 to 70 ms", 0, 13.81, 0.3),
    ],
    # On simulated data: the accuracy of the true coefficients, and the true parameters.
    "covertype": [
        ("held-out accuracy", 0, 0.8332, 0.003),
        ("log density per row (nats)", 0, -0.3637, 0.002),
    ],
    "methylation": [
        ("sharpness", 0, 3.0, 0.3),
        ("mu", 0, 1.2, 0.25),
        ("tau", 0, 0.8, 0.2),
    ],
    # Iterative imputation by the best matrix of rank 16 has 3.20.
    "matrix_factorization": [
        ("factorization, rmse", 0, 2.8, 0.15),
        ("within 89 % interval", 0, 0.84, 0.04),  # too narrow, as usual for mean-field
    ],
    # Terms that one chain of 500 estimates well; not s1 to s4, which are nearly collinear.
    "horseshoe": [
        ("bmi", 0, 0.347, 0.04),
        ("bmi", 1, 0.046, 0.01),
        ("bp", 0, 0.171, 0.025),
    ],
    "gaussian_process": [
        ("height", 0, 1.09, 0.1),
        ("length", 0, 5.35, 0.15),
        ("noise", 0, 0.456, 0.004),
    ],
    # Maximum likelihood has 13.13, 19.71 and 29.71, as published, and AIC 679.1.
    "hidden_markov": [
        ("3", 0, -351.30, 0.05),
        ("3", 2, 679.1, 0.05),
        ("quiet", 0, 13.13, 0.15),
        ("usual", 0, 19.71, 0.25),
        ("busy", 0, 29.71, 0.5),
        ("same most probable state", 0, 104, 2),
    ],
    # Hamilton (1989), with autoregressive growth, has 1.16, -0.36, 0.905 and 0.755.
    "switching": [
        ("expansion", 0, 1.08, 0.05),
        ("recession", 0, -0.43, 0.08),
        ("expansion", 3, 0.919, 0.01),
        ("quarters as dated by the NBER", 0, 0.926, 0.02),
    ],
    # scikit-learn's process, by Laplace's method, has a mean log probability of -0.329.
    "gp_classification": [("EP", 0, 0.867, 0.02), ("EP", 1, -0.322, 0.01)],
    # The texts are those of the installed versions.
    "topics": [("vijax", 0, 0.84, 0.06)],
    # Published: 29.3958317, 7.1714758.
    "trueskill": [
        ("one on one", 0, 29.39583, 1e-4),
        ("one on one", 1, 7.17148, 1e-4),
        ("largest error, steps", 0, 0.0, 0.001),
        ("largest error, NUTS", 0, 0.0, 0.1),
        ("France", 0, 1.02, 0.05),
        ("France", 1, 0.49, 0.02),
    ],
    # By hand and by vijax the same, but for rounding.
    "variational_linear_layer": [
        ("largest relative difference", 0, 0.0, 1e-5),
        ("ELBO", 0, -527.9, 1.0),
        ("ELBO, by hand", 0, -527.9, 1.0),
    ],
    # The noise of the data is 0.065 on the left and 0.281 on the right.
    "bayesian_regression_network": [
        ("data, left", 1, 0.065, 0.025),
        ("data, right", 1, 0.281, 0.04),
        ("coverage of 90%", 0, 0.92, 0.04),
    ],
    # 0.09 of the texts of Python 3.11.
    "characters": [("gain over the point estimate", 0, 0.07, 0.05)],
    # scikit-learn's LogisticRegression has an accuracy of 0.96 to 0.98 on halves of these patients.
    "deferring_classifier": [("accuracy", 0, 0.965, 0.02), ("20%", 1, 2, 2)],
    "recurrent_network": [("60", 0, 0.975, 0.03), ("charts of a new kind noticed", 0, 0.947, 0.05)],
    # scikit-learn's LogisticRegression has an accuracy of 0.960 on the same split.
    # Bits: the uniform prior's are six times six; reconstructions and the learned prior: this fit.
    "vector_quantization": [
        ("used values of a code", 0, 64, 3),
        ("codes", 0, 36.0, 0.0),
        ("codes", 1, 25.5, 2.0),
    ],
    "single_cells": [
        ("latents", 0, 0.99, 0.03),
        ("latents", 1, 0.53, 0.06),  # 0.5 if batches are mixed
        ("principal components", 1, 0.94, 0.02),  # depends only on the data
    ],
    "digits": [
        ("IVON", 0, 0.956, 0.02),
        ("IVON", 2, 0.948, 0.05),
        ("point estimate", 3, 0.11, 0.1),
    ],
    # Exact: minus log 2. No draw has to be outside of the squares.
    "diffusion": [
        ("log density of new points, exact", 0, -0.693, 0.001),
        ("bound", 0, -0.85, 0.12),
        ("log density by the ODE", 0, -0.89, 0.12),
        ("Drawn by 250 random steps, inside of squares", 0, 0.92, 0.05),
    ],
    "diffusion_digits": [
        ("at most, diffusion", 0, 2.83, 0.2),
        ("labels found, drawn images", 0, 0.95, 0.05),
    ],
    "masked_diffusion": [
        ("log probability, independent pixels", 0, -25.21, 0.02),  # depends only on the data
        ("at least, masked diffusion", 0, -16.3, 0.6),
        ("wrong pixels, completed lower halves", 0, 0.169, 0.02),
    ],
    # Independent pixels: depends only on the data.
    "autoencoder": [
        ("independent pixels", 0, -252.30, 0.05),
        ("2 latents", 0, -164.0, 4.0),
        ("10 latents", 0, -98.0, 3.0),
        ("10 latents", 1, 10, 1),
    ],
    # scikit-learn's LogisticRegression has an accuracy of 0.960 on the same split.
    "conditional_autoencoder": [("accuracy by Bayes' rule", 0, 0.955, 0.02)],
    "hierarchical_autoencoder": [("two levels", 0, -95.5, 2.5), ("gain", 0, 1.3, 1.2)],
    # One of the stores; the share of the true values of 199.
    "many_stores": [
        ("elasticity", 0, -1.57, 0.03),
        ("elasticity", 1, 0.235, 0.02),
        ("level", 0, 3.95, 0.005),
        ("share within 89 % interval", 0, 0.89, 0.045),
        ("error", 0, 1, 0),
    ],
    # scikit-learn's LogisticRegression with default penalty has 0.975 on the same split.
    "logistic_regression": [("accuracy", 0, 0.975, 0.012)],
}
# Where `--short` uses other data: the accuracy of the true coefficients on 4,000 rows.
SHORT = {
    "covertype": [
        ("held-out accuracy", 0, 0.866, 0.01),
        ("log density per row (nats)", 0, -0.303, 0.005),
    ],
}


def run(name, folder):
    """The output of an example; its figures are saved to `folder`."""
    environment = os.environ | {"MPLBACKEND": "Agg", "VIJAX_FIGURES": str(folder)}
    environment.pop("XLA_FLAGS", None)  # with XLA optimizations, unlike other tests
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "error::UserWarning", str(ROOT / "examples" / f"{name}.py")]
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def number(output, start, column):
    """Number `column` of the first line with this start, preferably of a summary."""
    found = re.findall(rf"^{re.escape(start)} +(.*)$", output, re.MULTILINE)
    lines = sorted((line.split() for line in found), key=lambda line: len(line) != _SUMMARY)
    return float(lines[0][column])


def check(name, output, folder, expected):
    """Compares printed values with those expected, and checks that the figure is not empty."""
    picture = matplotlib.image.imread(folder / f"{name}.png")
    assert min(picture.shape[:2]) > 200
    assert (picture[..., :3] < 0.6).any(axis=-1).mean() > 0.01  # share of dark pixels
    if name == "quickstart":
        assert re.search(r"^status: (certified|corrected)$", output, re.MULTILINE)
    for start, column, value, tolerance in expected:
        assert number(output, start, column) == pytest.approx(value, abs=tolerance), start


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in LONG])
def test_a_short_example(name, tmp_path, monkeypatch, capsys):
    """In this process, where the imports, which take most of the time, are done."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.setenv("VIJAX_FIGURES", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--short"])
    with plt.rc_context():
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    check(name, capsys.readouterr().out, tmp_path, SHORT.get(name, EXPECTED[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_as_a_user_runs_it(name, tmp_path):
    check(name, run(name, tmp_path), tmp_path, EXPECTED[name])


def test_examples_need_no_other_files():
    """Examples must run on any machine."""
    for path in ROOT.glob("examples/*.py"):
        text = path.read_text(encoding="utf-8")
        assert "shared/" not in text, path.name
        assert len(text.splitlines()) <= 121, path.name

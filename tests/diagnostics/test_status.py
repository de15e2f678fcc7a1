"""The weakest diagnostic determines the status."""

import numpy as np
import pytest

from vijax.diagnostics.chain_check import ChainCheck
from vijax.diagnostics.diagnosis import Diagnostics
from vijax.diagnostics.enumeration import Comparison
from vijax.diagnostics.importance import Importance
from vijax.diagnostics.shift import Shift
from vijax.diagnostics.status import diagnose

FIRST = np.array([0.2, 0.0, 0.0])
SAME = Shift(np.zeros(3), np.zeros(3))


def importance(khat=0.2, ess=3800.0, tail_share=0.1, log_evidence=-3.0):
    return Importance(np.full(4000, -np.log(4000)), khat, ess, tail_share, log_evidence, 0.01)


def chains(
    mean=0.0,
    log_sd=0.0,
    se=0.015,
    drift=0.0,
    log_density_drift=0.0,
    tail_shape=0.0,
    accept_rate=0.85,
    stuck_share=0.0,
):
    def each(value):
        return np.array([value, 0.0, 0.0])

    error = np.full(3, se)
    return ChainCheck(
        each(mean),
        each(log_sd),
        error,
        error,
        0.016,
        each(drift),
        log_density_drift,
        each(tail_shape),
        accept_rate,
        stuck_share,
        256,
        60,
    )


def exact(mean=0.0):
    return Comparison(8, np.array([mean, 0.0, 0.0]), np.zeros(3))


def status(weights=None, shift=SAME, **facts):
    return diagnose(Diagnostics(weights or importance(), shift, **facts)).status


@pytest.mark.parametrize(
    ("expected", "facts"),
    [
        ("certified", {}),
        ("certified", {"check": chains()}),
        ("certified", {"check": chains(tail_shape=0.8)}),
        ("corrected", {"check": chains(mean=0.2), "use_chains": True}),
        ("approximate", {"check": chains(mean=0.2)}),
        ("approximate", {"check": chains(mean=0.3), "shift": Shift(np.full(3, 0.09), np.zeros(3))}),
        ("corrected", {"check": chains(mean=0.2), "shift": Shift(FIRST, np.zeros(3))}),
        # little drift left of chains that agree with a guide whose weights are nearly equal
        ("certified", {"check": chains(drift=0.08)}),
        ("approximate", {"check": chains(drift=0.08, mean=0.2)}),
        ("approximate", {"check": chains(drift=0.08), "weights": importance(ess=3500)}),
        ("approximate", {"check": chains(drift=0.3)}),
        ("approximate", {"check": chains(drift=0.3), "use_chains": True}),
        ("approximate", {"check": chains(log_density_drift=0.3), "use_chains": True}),
        # a single window of noisy chains, consistent with a guide whose weights are nearly equal
        ("certified", {"check": chains(mean=0.2, se=0.06, log_density_drift=np.inf)}),
        ("approximate", {"check": chains(mean=0.6, se=0.06, log_density_drift=np.inf)}),
        ("approximate", {"check": chains(log_sd=0.6, se=0.06, log_density_drift=np.inf)}),
        ("approximate", {"check": chains(se=0.06, drift=0.1, log_density_drift=np.inf)}),
        ("approximate", {"check": chains(se=0.06, accept_rate=0.3, log_density_drift=np.inf)}),
        (
            "approximate",
            {"check": chains(se=0.06, log_density_drift=np.inf), "weights": importance(ess=3500)},
        ),
        (
            "approximate",
            {"check": chains(se=0.06, log_density_drift=np.inf), "weights": importance(khat=0.6)},
        ),
        # exact marginals of discrete sites, with and without the dependence
        ("certified", {"enumeration": exact(), "weights": importance(ess=3900)}),
        ("corrected", {"enumeration": exact(), "weights": importance(ess=3000)}),
        ("corrected", {"enumeration": exact(0.1), "weights": importance(ess=3900)}),
        ("approximate", {"more_modes": True}),
        ("certified", {"shift": Shift(np.full(3, 0.08), np.zeros(3))}),
        ("corrected", {"shift": Shift(np.full(3, 0.08), np.zeros(3)), "discrete": True}),
        ("approximate", {"unsearched": "other modes were not searched for"}),
        ("approximate", {"wrong_gradient": ("a",)}),
        ("approximate", {"wrong_gradient": ("a",), "check": chains(mean=0.2), "use_chains": True}),
        ("approximate", {"check": chains(accept_rate=0.3)}),
        ("approximate", {"check": chains(stuck_share=0.05)}),
        ("approximate", {"check": chains(mean=0.2, tail_shape=0.8), "use_chains": True}),
        ("approximate", {"check": chains(se=0.2), "use_chains": True}),
        ("approximate", {"num_modes": 2}),
        ("approximate", {"num_modes": 2, "check": chains(), "use_chains": True}),
        ("corrected", {"weights": importance(khat=0.6)}),
        ("corrected", {"weights": importance(khat=0.9), "check": chains(), "use_chains": True}),
        (
            "corrected",
            {
                "weights": importance(khat=0.9),
                "check": chains(mean=0.2)._replace(separate=True),
                "use_chains": True,
            },
        ),
        (
            "approximate",
            {
                "weights": importance(khat=1.1),
                "check": chains(mean=0.2)._replace(separate=True),
                "use_chains": True,
            },
        ),
        ("approximate", {"weights": importance(khat=0.9)}),
        ("approximate", {"weights": importance(khat=0.9), "check": chains()}),
        ("approximate", {"weights": importance(ess=300.0)}),
        ("corrected", {"converged": False}),
        ("corrected", {"nonfinite_steps": ("step 3",)}),
        ("corrected", {"finite_share": 0.9}),
        ("failed", {"finite_share": 0.3, "weights": importance(khat=2.0)}),
        ("failed", {"weights": importance(log_evidence=-np.inf)}),
        ("failed", {"weights": importance(khat=np.inf), "converged": False}),
    ],
)
def test_status(expected, facts):
    assert status(**facts) == expected


def test_without_importance_accuracy_is_not_verified():
    diagnosis = diagnose(Diagnostics(None, None, converged=False))
    assert diagnosis.status == "approximate"
    assert "not verified" in " ".join(diagnosis.reasons)
    assert diagnosis.advice == "Run more steps."


def test_advice_follows_from_the_finding():
    facts = {"importance": importance(khat=0.9), "shift": Shift(np.zeros(3), np.zeros(3))}
    heavy = diagnose(Diagnostics(check=chains(mean=0.2, tail_shape=0.8), **facts))
    assert "quantiles" in heavy.advice
    other = diagnose(Diagnostics(**facts))
    assert "more flexible" in other.advice
    assert "guide='auto'" not in heavy.advice + other.advice  # it may have been that


def test_reasons_state_the_numbers():
    diagnosis = diagnose(Diagnostics(importance(), SAME, check=chains(mean=0.21), use_chains=True))
    text = " ".join(diagnosis.reasons)
    assert "256 short HMC chains (60 gradient evaluations each) have converged" in text
    assert "by up to 0.21 sd" in text
    assert "final states of these chains" in text


def test_equal_weights_are_said_to_be_so():
    found = diagnose(Diagnostics(importance(khat=0.0, ess=3998.0), SAME))
    assert found.status == "certified"
    assert found.reasons[0].startswith("importance weights equal to within 2 %")
    assert "k-hat 0" not in " ".join(found.reasons)

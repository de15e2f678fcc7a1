"""The oracle on models whose expected log joint density is known, and on closed forms."""

import numpy as np
import pytest
from scipy.special import digamma, gammaln, logsumexp

from tests.conjugacy import moments
from tests.conjugacy.cases import AUGMENTED, CLOSED_FORMS, SEVERAL_BLOCKS
from tests.conjugacy.oracle import Family, expected_log_joint, points
from tests.conjugacy.several_blocks import gaussian_mixture, golden

MATRIX = np.asarray([[1.5, 0.4], [0.4, 0.8]])
PARAMETERS = {
    Family("Normal"): {"mean": 0.7, "precision": 2.5},
    Family("MultivariateNormal"): {"mean": [0.3, -1.0], "precision": MATRIX},
    Family("Gamma"): {"concentration": 0.4, "rate": 2.0},
    Family("Gamma", -1): {"concentration": 3.0, "rate": 2.0},
    Family("Gamma", -2): {"concentration": 0.7, "rate": 2.0},
    Family("Beta"): {"a": 0.5, "b": 2.0},
    Family("Dirichlet"): {"concentration": [0.3, 1.0, 4.0]},
    Family("Wishart"): {"concentration": 3.2, "inverse_scale": MATRIX},
    Family("Wishart", -1): {"concentration": 3.2, "inverse_scale": MATRIX},
    Family("LogNormal"): {"mean": 0.7, "precision": 2.5},
}
JOINT = {
    Family("NormalGamma"): PARAMETERS[Family("MultivariateNormal")] | PARAMETERS[Family("Gamma")],
    Family("NormalWishart"): {"mean": [0.3, -1.0], "kappa": 1.7, **PARAMETERS[Family("Wishart")]},
}


def statistics(family, value):
    """Averages of the statistics of points, in the form of the family's expectations."""
    t = value**family.power if family.name == "Gamma" else value
    match family.name:
        case "Normal" | "LogNormal":
            t = np.log(value) if family.name == "LogNormal" else value
            return {"mean": t.mean(0), "variance": t.var(0)}
        case "MultivariateNormal":
            return {"mean": t.mean(0), "covariance": np.cov(t.T, bias=True)}
        case "Gamma":
            return {"value": t.mean(0), "log": np.log(t).mean(0)}
        case "Beta":
            return {"log": np.log(t).mean(0), "log1m": np.log1p(-t).mean(0)}
        case "Dirichlet":
            np.testing.assert_allclose(t.sum(-1), 1.0, rtol=1e-12)
            return {"log": np.log(t).mean(0)}
        case "Wishart":
            t = np.linalg.inv(t) if family.power == -1 else t
            return {"value": t.mean(0), "logdet": np.linalg.slogdet(t)[1].mean(0)}


@pytest.mark.parametrize("family", PARAMETERS, ids=str)
def test_points_have_the_mean_parameters(family):
    wanted = moments.expectations(family, PARAMETERS[family])
    (value,) = points(family, wanted)
    found = statistics(family, value)
    for key, expected in wanted.items():
        np.testing.assert_allclose(found[key], expected, rtol=1e-10, atol=1e-12, err_msg=key)


@pytest.mark.parametrize("family", JOINT, ids=str)
def test_points_of_a_mean_and_its_precision(family):
    """`E t m = E t m`, `E (m - mean) t (m - mean)' = covariance`, or its trace, and those of t."""
    wanted = moments.expectations(family, JOINT[family])
    mean, value = points(family, wanted)
    if family.name == "NormalGamma":
        scaled, gap = value[:, None] * mean, np.sqrt(value)[:, None] * (mean - wanted["mean"])
        found, expected = gap.T @ gap / len(gap), wanted["covariance"]
        only = statistics(Family("Gamma"), value)
    else:
        scaled, gap = np.einsum("pij,pj->pi", value, mean), mean - wanted["mean"]
        found = np.einsum("pi,pij,pj->p", gap, value, gap).mean()
        expected, only = 2 * wanted["variance"], statistics(Family("Wishart"), value)
    np.testing.assert_allclose(scaled.mean(0), np.dot(wanted["value"], wanted["mean"]), rtol=1e-10)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    for key, one in only.items():
        np.testing.assert_allclose(one, wanted[key], rtol=1e-10, atol=1e-12)


def test_mean_and_precision_by_hand():
    y = np.asarray([0.3, 1.9, -0.4])
    of = {"mu": {"mean": 0.4, "variance": 0.2}, "tau": {"value": 1.3, "log": 0.1}}
    families = {"mu": Family("Normal"), "tau": Family("Gamma")}
    squares = np.sum((y - 0.4) ** 2 + 0.2)
    value = 3 / 2 * (0.1 - np.log(2 * np.pi)) - 1.3 * squares / 2
    value += -0.5 * np.log(2 * np.pi * 1e6) - (0.4**2 + 0.2) / 2e6
    value += 1e-6 * np.log(1e-6) - gammaln(1e-6) + (1e-6 - 1) * 0.1 - 1e-6 * 1.3
    assert expected_log_joint(golden, (y,), families, of) == pytest.approx(value, rel=1e-12)


def test_discrete_sites_are_added_up():
    """Three rows of two components: `sum_n log sum_k exp(E log p(y_n, z_n = k))` and the priors."""
    y, a = np.asarray([-1.3, 0.9, 1.4]), np.asarray([2.0, 1.2])
    log = digamma(a) - digamma(a.sum())
    mean, variance = np.asarray([-0.8, 1.1]), np.asarray([0.3, 0.5])
    value, logs = np.asarray([1.4, 0.9]), np.asarray([0.2, -0.4])
    squares = (y[:, None] - mean) ** 2 + variance
    rows = log + 0.5 * (logs - np.log(2 * np.pi)) - 0.5 * value * squares
    priors = gammaln(3.0) - 2 * gammaln(1.5) + 0.5 * log.sum()
    priors += np.sum(-0.5 * (mean**2 + variance) / 4 - 0.5 * np.log(2 * np.pi * 4))
    priors += np.sum(2 * np.log(1.5) - gammaln(2.0) + logs - 1.5 * value)
    of = {
        "weights": {"log": log},
        "mu": {"mean": mean, "variance": variance},
        "tau": {"value": value, "log": logs},
    }
    families = {"weights": Family("Dirichlet"), "mu": Family("Normal"), "tau": Family("Gamma")}
    found = expected_log_joint(gaussian_mixture, (y, 2), families, of, {"z": 2})
    assert found == pytest.approx(logsumexp(rows, axis=1).sum() + priors, rel=1e-12)


@pytest.mark.parametrize(
    ("mean", "variance", "elbo"), [(1.31259250, 0.89213115, -6.0229), (0.0, 100.0, -5.79176)]
)
def test_both_optima_of_the_clutter_problem(mean, variance, elbo):
    """The ELBOs of its two optima; Infer.NET prints the first."""
    case = SEVERAL_BLOCKS["clutter"]
    of = {"theta": {"mean": mean, "variance": variance}}
    found = expected_log_joint(case.model, case.args, case.families, of, case.discrete)
    found += 0.5 * np.log(2 * np.pi * np.e * variance)
    assert found == pytest.approx(elbo, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_forms(name):
    """At the exact posterior, expected log joint density and entropy add up to the evidence."""
    case = CLOSED_FORMS[name]
    ((key, family),) = case.families.items()
    of = moments.expectations(family, case.exact.parameters)
    found = expected_log_joint(case.model, case.args, {key: family}, {key: of})
    found += moments.entropy(family, case.exact.parameters)
    assert found == pytest.approx(case.exact.log_evidence, rel=1e-9)


def certain(family, shape):
    """Expectations of a distribution that is concentrated at a point."""
    if family.name == "MultivariateNormal":
        mean = np.linspace(-0.4, 0.9, shape[-1])
        return {"mean": mean, "covariance": 1e-30 * np.eye(shape[-1])}
    if family.name == "Dirichlet":
        return {"log": np.log([0.2, 0.5, 0.3])}
    value = np.linspace(0.4, 1.3, int(np.prod(shape))).reshape(shape)
    return {"value": value, "log": np.log(value)}


@pytest.mark.slow
@pytest.mark.parametrize("name", AUGMENTED)
def test_bounds_are_exact_at_a_point(name):
    """Further latents that are integrated out at given values leave the model's own density."""
    case, rank = AUGMENTED[name], (2,)
    shapes = {"theta": (2, 2), "beta": (3, 2)}
    of = {key: certain(one, shapes.get(key, rank)) for key, one in case.families.items()}
    found = expected_log_joint(case.model, case.args, case.families, of)
    assert case.bound(of) == pytest.approx(found, rel=1e-9)

"""Independent implementations of the log densities: NumPy and SciPy, loops, double precision.

Each takes one reference draw by site and the raw data; densities are in constrained space, flat
priors contribute zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats
from scipy.integrate import solve_ivp
from scipy.special import logsumexp

Values = dict[str, Any]
_normal, _half_cauchy, _half_normal = (
    stats.norm.logpdf,
    stats.halfcauchy.logpdf,
    stats.halfnorm.logpdf,
)


def autoregression(p: Values, data: Values) -> float:
    y, order = data["y"], data["K"]
    found = _normal(p["alpha"], 0, 10) + _normal(p["beta"], 0, 10).sum()
    found += _half_cauchy(p["sigma"], scale=2.5)
    for t in range(order, len(y)):
        mean = p["alpha"] + sum(p["beta"][k] * y[t - k - 1] for k in range(order))
        found += _normal(y[t], mean, p["sigma"])
    return found


def hidden_markov(p: Values, data: Values) -> float:
    transition = np.log([p["theta1"], p["theta2"]])
    found = 0.0
    for k, name in enumerate(("theta1", "theta2")):
        theta = np.asarray(p[name]) / np.sum(p[name])
        found += stats.dirichlet.logpdf(theta, data["alpha"][k])
    for name in ("phi", "lambda"):
        found += _normal(p[name][0], 0, 1) + _normal(p[name][1], 3, 1)
    state = np.zeros(2)
    for t, (u, v) in enumerate(zip(data["u"], data["v"], strict=True)):
        if t > 0:
            state = np.array([logsumexp(state + transition[:, k]) for k in range(2)])
        state = state + _normal(u, p["phi"], data["tau"]) + _normal(v, p["lambda"], data["rho"])
    return found + logsumexp(state)


def eight_schools(p: Values, data: Values) -> float:
    raw = (p["theta"] - p["mu"]) / p["tau"]
    found = _normal(raw).sum() + _normal(p["mu"], 0, 5) + _half_cauchy(p["tau"], scale=5)
    return found + _normal(data["y"], p["theta"], data["sigma"]).sum()


def gaussian_process(p: Values, data: Values) -> float:
    x = data["x"]
    covariance = [
        [p["alpha"] ** 2 * np.exp(-((a - b) ** 2) / (2 * p["rho"] ** 2)) for b in x] for a in x
    ]
    covariance = np.array(covariance) + p["sigma"] * np.eye(len(x))
    found = stats.gamma.logpdf(p["rho"], 25, scale=1 / 4)
    found += _half_normal(p["alpha"], scale=2) + _half_normal(p["sigma"], scale=1)
    return found + stats.multivariate_normal.logpdf(data["y"], np.zeros(len(x)), covariance)


def lotka_volterra(p: Values, data: Values) -> float:
    a, b, c, d = p["theta"]

    def slope(_: float, z: np.ndarray) -> list[float]:
        return [(a - b * z[1]) * z[0], (-c + d * z[0]) * z[1]]

    ends = data["ts"]
    path = solve_ivp(slope, (0, ends[-1]), p["z_init"], "DOP853", ends, rtol=1e-10, atol=1e-10).y.T
    found = _normal(p["theta"], [1, 0.05, 1, 0.05], [0.5, 0.05, 0.5, 0.05]).sum()
    found += _log_normal(p["sigma"], -1, 1).sum() + _log_normal(p["z_init"], np.log(10), 1).sum()
    found += _log_normal(data["y_init"], np.log(p["z_init"]), p["sigma"]).sum()
    return found + _log_normal(data["y"], np.log(path), p["sigma"]).sum()


def mixture(p: Values, data: Values) -> float:
    found = _normal(p["mu"], 0, 2).sum() + _half_normal(p["sigma"], scale=2).sum()
    found += stats.beta.logpdf(p["theta"], 5, 5)
    for y in data["y"]:
        first, second = _normal(y, p["mu"], p["sigma"])
        found += np.logaddexp(np.log(p["theta"]) + first, np.log1p(-p["theta"]) + second)
    return found


def _log_normal(x: Any, mean: Any, sd: Any) -> Any:
    return _normal(np.log(x), mean, sd) - np.log(x)


def earnings_height(p: Values, data: Values) -> float:
    b = p["beta"]
    return _normal(np.log(data["earn"]), b[0] + b[1] * data["height"], p["sigma"]).sum()


def earnings_interaction(p: Values, data: Values) -> float:
    b, height, male = p["beta"], data["height"], data["male"]
    mean = b[0] + b[1] * height + b[2] * male + b[3] * height * male
    return _normal(np.log(data["earn"]), mean, p["sigma"]).sum()


def earnings_interaction_z(p: Values, data: Values) -> float:
    height = stats.zscore(data["height"], ddof=1)
    return earnings_interaction(p, data | {"height": height})


def kid_score(p: Values, data: Values) -> float:
    mean = p["beta"][0] + p["beta"][1] * data["mom_iq"]
    prior = _half_cauchy(p["sigma"], scale=2.5)
    return prior + _normal(data["kid_score"], mean, p["sigma"]).sum()


def kid_score_interaction(p: Values, data: Values) -> float:
    b, hs, iq = p["beta"], data["mom_hs"], data["mom_iq"]
    hs, iq = hs - np.mean(hs), iq - np.mean(iq)
    return _normal(
        data["kid_score"], b[0] + b[1] * hs + b[2] * iq + b[3] * hs * iq, p["sigma"]
    ).sum()


def mesquite(p: Values, data: Values) -> float:
    b = p["beta"]
    mean = b[0] + b[1] * data["diam1"] + b[2] * data["diam2"] + b[3] * data["canopy_height"]
    mean = mean + b[4] * data["total_height"] + b[5] * data["density"] + b[6] * data["group"]
    return _normal(data["weight"], mean, p["sigma"]).sum()


def log_mesquite(p: Values, data: Values) -> float:
    b, wide, deep = p["beta"], np.log(data["diam1"]), np.log(data["diam2"])
    mean = b[0] + b[1] * (wide + deep + np.log(data["canopy_height"])) + b[2] * (wide + deep)
    mean = mean + b[3] * (wide - deep) + b[4] * np.log(data["total_height"]) + b[5] * data["group"]
    return _normal(np.log(data["weight"]), mean, p["sigma"]).sum()


def party(p: Values, data: Values) -> float:
    b, found = p["beta"], 0.0
    of_age = np.array([0.0, 0.0, b[3], b[4], b[5]])
    for i, age in enumerate(data["age_discrete"]):
        mean = b[0] + b[1] * data["real_ideo"][i] + b[2] * data["race_adj"][i] + of_age[int(age)]
        mean += b[6] * data["educ1"][i] + b[7] * data["gender"][i] + b[8] * data["income"][i]
        found += _normal(data["partyid7"][i], mean, p["sigma"])
    return found


def given(p: Values, data: Values) -> float:
    found = _normal(p["beta"], 0, 10).sum() + _half_normal(p["sigma"], scale=10)
    return found + _normal(data["y"], data["X"] @ p["beta"], p["sigma"]).sum()


LOG_DENSITIES: dict[str, Callable[[Values, Values], float]] = {
    "arK-arK": autoregression,
    "bball_drive_event_1-hmm_drive_1": hidden_markov,
    "earnings-logearn_height": earnings_height,
    "earnings-logearn_interaction": earnings_interaction,
    "earnings-logearn_interaction_z": earnings_interaction_z,
    "eight_schools-eight_schools_noncentered": eight_schools,
    "gp_pois_regr-gp_regr": gaussian_process,
    "hudson_lynx_hare-lotka_volterra": lotka_volterra,
    "kidiq-kidscore_momiq": kid_score,
    "kidiq_with_mom_work-kidscore_interaction_c": kid_score_interaction,
    "low_dim_gauss_mix-low_dim_gauss_mix": mixture,
    "mesquite-logmesquite_logvash": log_mesquite,
    "mesquite-mesquite": mesquite,
    "nes1988-nes": party,
    "sblri-blr": given,
}

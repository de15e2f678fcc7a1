"""Models of PyMC's gallery, converted: fit, summary and predictions against PyMC's NUTS.

The models are written as in the gallery, with its coords and dims; data that it downloads are
simulated in the same shapes, or read from `../shared/data`. Each runs in a fresh process: the
default fit of `vijax.from_pymc(model)`, and `pymc.sample` with its default sampler. All scalars of
all variables are compared, deterministics included; of the predicted data the probabilities of
every element below quantiles of those by NUTS, since they may have no variance.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import _report

_DATA = Path(__file__).parents[2] / "shared" / "data" / "small"
_CHAINS = {"draws": 1000, "tune": 1000, "chains": 4, "cores": 1}
_DRAWS = 4000  # of vijax
_OFF = 0.05  # agreement: in sds, log sds and probabilities, beyond three standard errors
_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
_HEADER = (
    "model",
    "scalars",
    "status",
    "fit s",
    "NUTS s",
    "mean off (sds)",
    "sd ratio off",
    "probability off",
    "dims",
)


def eight_schools() -> Any:
    """https://www.pymc.io: Diagnosing biased inference with divergences, non-centered."""
    import pymc as pm

    names = ["Choate", "Deerfield", "Andover", "Exeter", "Hotchkiss", "Lawrence", "St Paul", "MtH"]
    with pm.Model(coords={"school": names}) as model:
        sigma = pm.Data("sigma", np.array([15.0, 10, 16, 11, 9, 11, 10, 18]), dims="school")
        mu = pm.Normal("mu", 0.0, 5.0)
        tau = pm.HalfCauchy("tau", 5.0)
        noise = pm.Normal("noise", 0.0, 1.0, dims="school")
        theta = pm.Deterministic("theta", mu + tau * noise, dims="school")
        y = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
        pm.Normal("obs", theta, sigma, observed=y, dims="school")
    return model


def radon() -> Any:
    """A primer on Bayesian methods for multilevel modeling: varying intercepts, centered."""
    import pymc as pm

    path = _DATA / "radon_mn.csv"
    if path.exists():
        rows = np.genfromtxt(path, delimiter=",", skip_header=1, usecols=(1, 2, 4))
        y, basement, county = rows[:, 0], rows[:, 1], rows[:, 2].astype(int) - 1
    else:
        rng = np.random.default_rng(0)
        county = np.concatenate([np.arange(85), rng.integers(0, 85, 834)])
        basement = rng.binomial(1, 0.17, 919).astype(float)
        effect = rng.normal(1.5, 0.3, 85)
        y = effect[county] - 0.7 * basement + rng.normal(0, 0.75, 919)
    names = [f"county {i}" for i in range(county.max() + 1)]
    with pm.Model(coords={"county": names}) as model:
        floor = pm.Data("floor", basement, dims="house")
        index = pm.Data("index", county, dims="house")
        mu = pm.Normal("mu", 0.0, 10.0)
        tau = pm.Exponential("tau", 1.0)
        alpha = pm.Normal("alpha", mu, tau, dims="county")
        beta = pm.Normal("beta", 0.0, 10.0)
        sigma = pm.Exponential("sigma", 1.0)
        pm.Normal("y", alpha[index] + beta * floor, sigma, observed=y, dims="house")
    return model


_TEAMS = ["Wales", "France", "Ireland", "Scotland", "Italy", "England"]
_MATCHES = [  # Six Nations 2014: home, away, points
    (0, 4, 23, 15),
    (1, 5, 26, 24),
    (2, 3, 28, 6),
    (2, 0, 26, 3),
    (3, 5, 0, 20),
    (1, 4, 30, 10),
    (0, 1, 27, 6),
    (4, 3, 20, 21),
    (5, 2, 13, 10),
    (2, 4, 46, 7),
    (3, 1, 17, 19),
    (5, 0, 29, 18),
    (4, 5, 11, 52),
    (0, 3, 51, 3),
    (1, 2, 20, 22),
]


def rugby() -> Any:
    """A hierarchical model for rugby prediction, Six Nations 2014."""
    import pymc as pm

    home, away, home_points, away_points = np.array(_MATCHES).T
    with pm.Model(coords={"team": _TEAMS}) as model:
        home, away = pm.Data("home_team", home, dims="match"), pm.Data("away", away, dims="match")
        advantage = pm.Normal("home", 0.0, 1.0)
        intercept = pm.Normal("intercept", 3.0, 1.0)
        sd_attack, sd_defense = pm.HalfNormal("sd_att", 2.0), pm.HalfNormal("sd_def", 2.0)
        attack = pm.Normal("atts_star", 0.0, sd_attack, dims="team")
        defense = pm.Normal("defs_star", 0.0, sd_defense, dims="team")
        attack = pm.Deterministic("atts", attack - attack.mean(), dims="team")
        defense = pm.Deterministic("defs", defense - defense.mean(), dims="team")
        log_home = intercept + advantage + attack[home] + defense[away]
        log_away = intercept + attack[away] + defense[home]
        options = {"dims": "match"}
        pm.Poisson("home_points", pm.math.exp(log_home), observed=home_points, **options)
        pm.Poisson("away_points", pm.math.exp(log_away), observed=away_points, **options)
    return model


def robust_regression() -> Any:
    """GLM: Robust regression, with Student's t likelihood and outliers."""
    import pymc as pm

    rng = np.random.default_rng(123)
    x = np.append(np.linspace(0, 1, 100), [0.1, 0.15, 0.2])
    y = np.append(1 + 2 * np.linspace(0, 1, 100) + rng.normal(0, 0.5, 100), [8.0, 6.0, 9.0])
    with pm.Model(coords={"coefficient": ["intercept", "slope"]}) as model:
        x = pm.Data("x", x, dims="row")
        beta = pm.Normal("beta", 0.0, 10.0, dims="coefficient")
        sigma = pm.HalfCauchy("sigma", 10.0)
        nu = pm.Gamma("nu", 2.0, 0.1)
        pm.StudentT("y", nu=nu, mu=beta[0] + beta[1] * x, sigma=sigma, observed=y, dims="row")
    return model


def bioassay() -> Any:
    """Bioassay of Gelman et al., by a binomial regression."""
    import pymc as pm

    with pm.Model(coords={"group": ["lowest", "low", "high", "highest"]}) as model:
        dose = pm.Data("dose", np.array([-0.86, -0.30, -0.05, 0.73]), dims="group")
        alpha, beta = pm.Normal("alpha", 0.0, 10.0), pm.Normal("beta", 10.0, 10.0)
        logits = pm.Deterministic("logits", alpha + beta * dose, dims="group")
        n = np.full(4, 5)
        deaths = np.array([0, 1, 3, 5])
        pm.Binomial("deaths", n=n, logit_p=logits, observed=deaths, dims="group")
    return model


def censored_regression() -> Any:
    """Bayesian regression with truncated or censored data, by `pm.Censored`."""
    import pymc as pm

    rng = np.random.default_rng(12345)
    x = rng.uniform(-10, 10, 200)
    y = np.clip(x + rng.normal(0, 2.0, 200), -5.0, 5.0)
    with pm.Model(coords={"row": np.arange(200)}) as model:
        x = pm.Data("x", x, dims="row")
        slope, intercept = pm.Normal("slope", 0.0, 1.0), pm.Normal("intercept", 0.0, 2.0)
        sigma = pm.HalfNormal("sigma", 1.0)
        latent = pm.Normal.dist(intercept + slope * x, sigma)
        pm.Censored("y", latent, lower=-5.0, upper=5.0, observed=y, dims="row")
    return model


MODELS = {
    make.__name__: make
    for make in (eight_schools, radon, rugby, robust_regression, bioassay, censored_regression)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", metavar="NAME", default=list(MODELS))
    parser.add_argument("--one", metavar="NAME", help="one model in this process, as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_one(options.one)))
        return
    results = {}
    for name in options.models:
        results[name] = _report.in_fresh_process("bench.pymc_models", "--one", name, timeout=400)
        print(name, results[name]["status"], flush=True)
    _report.table(_HEADER, [_row(name, found) for name, found in results.items()])
    agreeing = sum(found["agrees"] for found in results.values())
    print(f"\n{agreeing} of {len(results)} agree")
    if set(results) == set(MODELS):
        _report.save("pymc_models", results)


def _one(name: str) -> dict[str, Any]:
    import arviz
    import pymc as pm

    import vijax

    model = MODELS[name]()
    start = time.perf_counter()
    posterior = vijax.fit(vijax.from_pymc(model), progress_bar=False)
    posterior.sample(_DRAWS)
    seconds = time.perf_counter() - start
    tree = posterior.to_datatree(num_draws=_DRAWS)
    evidence = posterior.log_evidence()
    start = time.perf_counter()
    with model:
        options = {"progressbar": False, "random_seed": 1}
        chains = pm.sample(**_CHAINS, **options)
        nuts_seconds = time.perf_counter() - start
        chains.extend(pm.sample_posterior_predictive(chains, **options))
    size = _independent_draws(posterior)
    latent = _compared(tree["posterior"], chains.posterior, size, arviz)
    groups = tree["posterior_predictive"], chains.posterior_predictive
    predicted = _predictions(*groups, size, arviz)
    shown = [*chains.posterior.data_vars]
    dims = all(tree["posterior"][n].dims[2:] == chains.posterior[n].dims[2:] for n in shown)
    labels = all(
        np.array_equal(tree["posterior"].coords[dim].values, chains.posterior.coords[dim].values)
        for n in shown
        for dim in chains.posterior[n].dims[2:]
    )
    return {
        "status": posterior.status,
        "khat": posterior.khat,
        "seconds": seconds,
        "nuts_seconds": nuts_seconds,
        "divergences": int(chains.sample_stats.diverging.sum()),
        "rhat": float(max(arviz.rhat(chains.posterior)[n].max() for n in shown)),
        "log_evidence": [evidence.value, evidence.se],
        "latent": latent,
        "predicted": predicted,
        "dims": bool(dims and labels),
        "agrees": latent["agrees"] and predicted["agrees"] and bool(dims and labels),
    }


def _independent_draws(posterior: Any) -> float:
    """As many independent draws have the errors of the estimates of a fit."""
    table = posterior.summary()
    free = table["mcse"] > 0
    return min(_DRAWS, float(np.median((table["sd"] / table["mcse"])[free] ** 2)))


def _compared(ours: Any, reference: Any, size: float, arviz: Any) -> dict[str, Any]:
    """The largest differences of means, in sds, and of log sds, over all scalars."""
    shifts, ratios, errors, spread = [], [], [], []
    ess = arviz.ess(reference)
    for name in reference.data_vars:
        x = reference[name].values.reshape(-1, *reference[name].shape[2:]).astype(float)
        ours_x = ours[name].values.reshape(-1, *ours[name].shape[2:]).astype(float)
        sd = x.std(0)
        free = sd > 0
        shifts.append(((ours_x.mean(0) - x.mean(0))[free] / sd[free]).ravel())
        ratios.append(np.log(np.maximum(ours_x.std(0), 1e-30)[free] / sd[free]).ravel())
        sizes = np.asarray(ess[name].values)[free].ravel()
        errors.append(np.sqrt(1 / sizes + 1 / size))
        # of the log of an sd, by the kurtosis of the draws
        z = (x - x.mean(0))[:, free] / sd[free]
        kurtosis = (z**4).mean(0).ravel()
        spread.append(np.sqrt(np.maximum(kurtosis - 1, 0) / 4) * errors[-1])
    shift, ratio, error, sd_error = map(np.concatenate, (shifts, ratios, errors, spread))
    off = np.maximum(np.abs(shift) - 3 * error, np.abs(ratio) - 3 * sd_error)
    return {
        "scalars": len(shift),
        "shift": float(np.abs(shift).max()),
        "shift_error": float(error[np.abs(shift).argmax()]),
        "shift_rms": float(np.sqrt((shift**2).mean())),
        "log_ratio": float(np.abs(ratio).max()),
        "log_ratio_error": float(sd_error[np.abs(ratio).argmax()]),
        "agrees": bool(off.max() < _OFF),
    }


def _predictions(ours: Any, reference: Any, size: float, arviz: Any) -> dict[str, Any]:
    """The largest difference of a probability below a quantile of the reference."""
    ess, shifts, errors = arviz.ess(reference), [], []
    for name in reference.data_vars:
        x = reference[name].values.reshape(-1, *reference[name].shape[2:])
        ours_x = ours[name].values.reshape(-1, *ours[name].shape[2:])
        for bound in np.quantile(x, _LEVELS, axis=0):
            below = (x <= bound).mean(0)
            shifts.append(((ours_x <= bound).mean(0) - below).ravel())
            both = 1 / ess[name].values + 1 / size
            errors.append(np.sqrt(np.maximum(below * (1 - below), 1e-4) * both).ravel())
    shift, error = np.abs(np.concatenate(shifts)), np.concatenate(errors)
    return {
        "scalars": len(shift),
        "shift": float(shift.max()),
        "shift_error": float(error[shift.argmax()]),
        "agrees": bool((shift - 3 * error).max() < _OFF),
    }


def _row(name: str, found: dict[str, Any]) -> tuple[Any, ...]:
    latent, predicted = found["latent"], found["predicted"]
    return (
        name,
        latent["scalars"],
        found["status"],
        f"{found['seconds']:.1f}",
        f"{found['nuts_seconds']:.1f}",
        f"{latent['shift']:.3f} +- {latent['shift_error']:.3f}",
        f"{latent['log_ratio']:.3f} +- {latent['log_ratio_error']:.3f}",
        f"{predicted['shift']:.3f} +- {predicted['shift_error']:.3f}",
        "kept" if found["dims"] else "LOST",
    )


if __name__ == "__main__":
    main()

"""Linear regressions, most of them with flat priors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

Arguments = tuple[Any, ...]


def flat(x, y):
    """`beta` flat, `sigma` flat on the positive half line."""
    beta = numpyro.sample(
        "beta", dist.ImproperUniform(constraints.real, (), event_shape=(x.shape[1],))
    )
    sigma = numpyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), event_shape=()))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def half_cauchy(x, y):
    """`beta` flat, `sigma ~ half-Cauchy(2.5)`."""
    beta = numpyro.sample(
        "beta", dist.ImproperUniform(constraints.real, (), event_shape=(x.shape[1],))
    )
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def proper(x, y):
    """`beta ~ N(0, 10)`, `sigma ~ half-N(10)`."""
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([x.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def earnings_height(data: dict[str, np.ndarray]) -> Arguments:
    return _columns(1, data["height"]), _float(np.log(data["earn"]))


def earnings_interaction(data: dict[str, np.ndarray]) -> Arguments:
    height, male = data["height"], data["male"]
    return _columns(1, height, male, height * male), _float(np.log(data["earn"]))


def earnings_interaction_z(data: dict[str, np.ndarray]) -> Arguments:
    height = (data["height"] - data["height"].mean()) / data["height"].std(ddof=1)
    return earnings_interaction(data | {"height": height})


def kid_score(data: dict[str, np.ndarray]) -> Arguments:
    return _columns(1, data["mom_iq"]), _float(data["kid_score"])


def kid_score_interaction(data: dict[str, np.ndarray]) -> Arguments:
    school = data["mom_hs"] - data["mom_hs"].mean()
    iq = data["mom_iq"] - data["mom_iq"].mean()
    return _columns(1, school, iq, school * iq), _float(data["kid_score"])


def mesquite(data: dict[str, np.ndarray]) -> Arguments:
    names = ("diam1", "diam2", "canopy_height", "total_height", "density", "group")
    return _columns(1, *(data[name] for name in names)), _float(data["weight"])


def log_mesquite(data: dict[str, np.ndarray]) -> Arguments:
    area = data["diam1"] * data["diam2"]
    columns = (
        np.log(area * data["canopy_height"]),
        np.log(area),
        np.log(data["diam1"] / data["diam2"]),
        np.log(data["total_height"]),
        data["group"],
    )
    return _columns(1, *columns), _float(np.log(data["weight"]))


def party(data: dict[str, np.ndarray]) -> Arguments:
    age = data["age_discrete"]
    columns = (
        *(data["real_ideo"], data["race_adj"], age == 2, age == 3, age == 4),
        *(data["educ1"], data["gender"], data["income"]),
    )
    return _columns(1, *columns), _float(data["partyid7"])


def given(data: dict[str, np.ndarray]) -> Arguments:
    """Arguments whose design matrix is part of the data."""
    return _float(data["X"]), _float(data["y"])


def _columns(*columns: Any) -> np.ndarray:
    return _float(np.stack(np.broadcast_arrays(*columns), axis=1))


def _float(values: Any) -> np.ndarray:
    return np.asarray(values, np.float32)


MODELS: dict[str, tuple[Callable[..., None], Callable[..., Arguments]]] = {
    "earnings-logearn_height": (flat, earnings_height),
    "earnings-logearn_interaction": (flat, earnings_interaction),
    "earnings-logearn_interaction_z": (flat, earnings_interaction_z),
    "kidiq-kidscore_momiq": (half_cauchy, kid_score),
    "kidiq_with_mom_work-kidscore_interaction_c": (flat, kid_score_interaction),
    "mesquite-logmesquite_logvash": (flat, log_mesquite),
    "mesquite-mesquite": (flat, mesquite),
    "nes1988-nes": (flat, party),
    "sblri-blr": (proper, given),
}

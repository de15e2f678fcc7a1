"""Comparison of models of the same data: evidence, cross-validation, stacking weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax import Array

from vijax.posterior.compare_folds import compare_folds
from vijax.posterior.cross_validation import CrossValidation
from vijax.posterior.evidence import Evidence
from vijax.posterior.loo import by_observation, leave_one_out
from vijax.posterior.posterior import Posterior
from vijax.runtime.errors import GuideError, VijaxError
from vijax.runtime.keys import RngKey, as_key, fold_in
from vijax.runtime.keywords import explain_keywords

if TYPE_CHECKING:
    from vijax.posterior.tables import Comparison

_LOO = ("elpd", "elpd_se", "elpd_diff", "elpd_diff_se", "p_loo", "num_bad_k", "weight")


@explain_keywords
def compare(
    posteriors: Mapping[str, Posterior] | Mapping[str, CrossValidation],
    *,
    num_draws: int = 4000,
    rng_key: RngKey = 0,
) -> Comparison:
    """Compares models of the same data.

    The difference of two log evidences is the log Bayes factor, which depends on the priors.
    Leave-one-out cross-validation estimates the predictive density of each observation given the
    others, and stacking weights maximize that of a mixture of the models. Draws are those of
    `posterior.sample`. Sources: Practical Bayesian model evaluation using leave-one-out
    cross-validation and WAIC, Vehtari, Gelman, Gabry, 2017; Using stacking to average Bayesian
    predictive distributions, Yao, Vehtari, Simpson, Gelman, 2018.

    If a model has no observed site (a likelihood in `numpyro.factor`, `from_log_density`), there
    are no pointwise likelihoods to compare: models are ordered by their evidence alone.

    Args:
        posteriors: by name, two or more full-batch fits with guides that have a density; or two or
            more results of `vijax.cross_validate` with the same folds, whose `elpd` takes the place
            of leave-one-out, without evidences.
        num_draws: number of draws for each estimate; of posteriors only.
        rng_key: an int, a JAX key or a legacy key.

    Returns:
        A pandas `DataFrame` with a row for every model, the best one first; see `Comparison`.

    Raises:
        VijaxError: posteriors are not named, there are fewer than two, numbers of observations
            differ, or folds.
        GuideError: one of them has no importance weights.
    """
    if not isinstance(posteriors, Mapping):
        raise VijaxError(
            "compare: expected posteriors by name, {'one': first, 'other': second}, got "
            f"{type(posteriors).__name__}."
        )
    if len(posteriors) < 2:
        raise VijaxError(f"compare: expected two or more posteriors, got {list(posteriors)}.")
    validated, fitted = _by_kind(posteriors)
    if validated:
        return compare_folds(validated)
    from vijax.posterior.tables import Comparison  # imports pandas, which is slow

    key = as_key(rng_key)
    found = {}
    for name, posterior in fitted.items():
        try:
            evidence = posterior.log_evidence(rng_key=fold_in(key, 0), num_draws=num_draws)
        except GuideError as error:
            raise GuideError(f"compare, model {name!r}: {error}") from None
        assert isinstance(evidence, Evidence)
        found[name] = evidence
    best = max(found.values(), key=lambda one: one.value)
    unobserved = [name for name, one in fitted.items() if not one._result.target.structure.observed]
    loo, advice = (
        (dict.fromkeys(fitted, dict.fromkeys(_LOO, math.nan)), _no_elpd(unobserved))
        if unobserved
        else _leave_one_out(_pointwise(fitted, fold_in(key, 1), num_draws))
    )
    rows = {}
    for name, one in found.items():
        factor = {
            "log_evidence": one.value,
            "log_evidence_se": one.se,
            "log_bayes_factor": one.value - best.value,
            "log_bayes_factor_se": 0.0 if one is best else math.hypot(one.se, best.se),
        }
        rows[name] = factor | loo[name]
    by = "log_evidence" if unobserved else "elpd"
    order = sorted(rows, key=lambda name: -rows[name][by])
    out = Comparison([rows[name] for name in order], index=order)
    out.attrs |= {"advice": advice, "decimals": 2}
    return out


def _by_kind(
    given: Mapping[str, Any],
) -> tuple[dict[str, CrossValidation], dict[str, Posterior]]:
    """Cross-validations, or posteriors; not both."""
    validated = {name: one for name, one in given.items() if isinstance(one, CrossValidation)}
    fitted = {name: one for name, one in given.items() if isinstance(one, Posterior)}
    if len(given) not in (len(validated), len(fitted)):
        kinds = {name: type(one).__name__ for name, one in given.items()}
        raise VijaxError(
            f"compare: expected posteriors, or cross-validations of all models, got {kinds}."
        )
    return validated, fitted


def _no_elpd(unobserved: Sequence[str]) -> str:
    names = ", ".join(map(repr, unobserved))
    return (
        f"No elpd: {names} without observed sites, hence without pointwise likelihoods; ordered "
        "by log evidence."
    )


def _pointwise(
    posteriors: Mapping[str, Posterior], key: Array, num_draws: int
) -> dict[str, np.ndarray]:
    """By model, the log likelihood of every observation, `(num_draws, num_rows)`."""
    pointwise = {
        name: by_observation(posterior.log_likelihood(num_draws, rng_key=key))
        for name, posterior in posteriors.items()
    }
    counts = {name: values.shape[1] for name, values in pointwise.items()}
    if len(set(counts.values())) > 1:
        raise VijaxError(
            f"compare: expected models of the same observations, got {counts} observations. Fit "
            "every model to the same data."
        )
    return pointwise


def _leave_one_out(
    pointwise: Mapping[str, np.ndarray],
) -> tuple[dict[str, dict[str, float]], str]:
    """Columns `elpd` to `weight` by model from log likelihoods `(num_draws, num_rows)`, and advice.

    The advice says for which models leave-one-out is unreliable, and what to do.
    """
    results, weights = leave_one_out(pointwise)
    out, unreliable = {}, []
    elpds = {name: np.ravel(one.elpd_i) for name, one in results.items()}
    best = max(elpds, key=lambda name: elpds[name].sum())
    for name, one in results.items():
        difference = elpds[name] - elpds[best]
        bad = int(np.sum(np.ravel(one.pareto_k) > one.good_k))
        counted = f"{bad} observation{'s' * (bad > 1)} of {name!r}"
        unreliable += [counted] * bool(bad)
        out[name] = {
            "elpd": float(one.elpd),
            "elpd_se": float(one.se),
            "elpd_diff": float(difference.sum()),
            "elpd_diff_se": math.sqrt(difference.size) * float(difference.std()),
            "p_loo": float(one.p),
            "num_bad_k": bad,
            "weight": weights[name],
        }
    if not unreliable:
        return out, ""
    return out, (
        f"elpd is unreliable where k-hat is above {one.good_k:.2f}: {', '.join(unreliable)}.\n"
        "Use more draws (num_draws=), vijax.cross_validate(posterior, num_rows, exact=False), in\n"
        "which the fits without each of these observations are exact, or K-fold cross-validation."
    )

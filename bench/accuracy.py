"""Full-rank means and standard deviations against a long run of NUTS.

Logistic regression on the breast cancer data (dimension 31). NUTS runs 4 chains of 5,000 draws;
its Monte Carlo error is printed with the differences.
"""

from __future__ import annotations

import argparse

import jax
import numpy as np
from arviz_stats.base import array_stats

import vijax
from bench import _problems, _report


def main() -> None:
    parser = argparse.ArgumentParser(description="Full-rank moments against NUTS.")
    parser.add_argument("--draws", type=int, default=5_000)
    options = parser.parse_args()
    model, args, source = _problems.breast_cancer()
    fits = {
        "fullrank": vijax.fit(model, *args, guide="fullrank", progress_bar=False),
        "fullrank, gradient": vijax.fit(
            model, *args, guide="fullrank", algorithm="gradient", progress_bar=False
        ),
    }
    mcmc = fits["fullrank"].nuts(
        num_warmup=1_000,
        num_samples=options.draws,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    truth = np.asarray(mcmc.get_samples(group_by_chain=True)["beta"], np.float64)
    mean, sd = truth.mean((0, 1)), truth.std((0, 1))
    ess = array_stats.ess(truth, chain_axis=0, draw_axis=1)
    rhat = array_stats.rhat(truth, chain_axis=0, draw_axis=1)
    print(f"{source}: NUTS R-hat at most {rhat.max():.3f}, ESS at least {ess.min():.0f}")
    results = {"NUTS error of the mean (sd)": float(1 / np.sqrt(ess.min()))}
    rows = []
    for name, posterior in fits.items():
        for label, corrected in (("guide", False), ("corrected", True)):
            draws = posterior.sample(100_000, rng_key=jax.random.key(1), corrected=corrected)[
                "beta"
            ]
            found = {
                "mean": float(np.max(np.abs(draws.mean(0) - mean) / sd)),
                "sd": float(np.max(np.abs(draws.std(0) / sd - 1))),
            }
            results[f"{name}, {label}"] = found
            rows.append(
                (name, label, posterior.status, f"{found['mean']:.3f}", f"{found['sd']:.3f}")
            )
    header = ("", "draws", "status", "largest mean error (sd)", "largest sd error (relative)")
    _report.table(header, rows)
    _report.save("accuracy", results)


if __name__ == "__main__":
    main()

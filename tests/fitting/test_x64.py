"""Fits in double precision, in a separate process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests import targets

PROGRAM = """
import json, jax, numpy as np, vijax
from tests import targets
problem = targets.problem("regression")
out = {}
for guide, algorithm in (("fullrank", "auto"), ("fullrank", "gradient"), ("laplace", "auto")):
    posterior = vijax.fit(
        problem.model, *problem.args, guide=guide, algorithm=algorithm, progress_bar=False
    )
    leaves = jax.tree.leaves(posterior.params)
    draws = posterior.sample(num_draws=10)
    out[f"{guide}-{algorithm}"] = {
        "dtypes": sorted({str(x.dtype) for x in (*leaves, *draws.values())}),
        "elbo": posterior.elbo,
        "mean": np.asarray(posterior.guide.mean(posterior.params, posterior.space)).tolist(),
    }
print(json.dumps(out))
"""


def test_every_part_follows_jax_enable_x64():
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"JAX_ENABLE_X64": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    problem = targets.problem("regression")
    sd = np.sqrt(np.diag(problem.z_covariance))
    for name, found in json.loads(done.stdout).items():
        assert found["dtypes"] == ["float64"], name
        assert abs(found["elbo"] - problem.log_evidence) < 0.02, name
        assert np.max(np.abs(np.array(found["mean"]) - problem.z_mean) / sd) < 0.05, name

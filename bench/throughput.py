"""Steps per second after compilation: vijax, the same maths written by hand, NumPyro.

By hand means one jitted `lax.scan` over an ELBO gradient and `optax.adam`, for which a user would
have to write the model's density, the guide and the minibatches out.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

import vijax
from bench import _problems, _report
from vijax._engine import Budget

_RATE = 1e-3
_LOG_2PI = math.log(2 * math.pi)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", choices=CASES, help="one problem")
    options = parser.parse_args()
    results = {}
    for name in [options.only] if options.only else CASES:
        results[name] = _measure(name, *CASES[name]())
        done = results[name]
        print(f"\n{name}: {done['steps']} steps, {options.repeats and done['source']}")
        rows = [
            (who, _report.spread(1e6 * np.asarray(done["seconds"][who]) / done["steps"]))
            for who in done["seconds"]
        ]
        _report.table(("", "microseconds a step"), rows)
    _report.save("throughput", results)

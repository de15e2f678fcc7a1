"""PyMC models against PyMC's own log density."""

import numpy as np
import pytest
from numpyro.infer.util import log_density

import vijax

pm = pytest.importorskip("pymc")

from tests.model.pymc.models import MODELS  # noqa: E402


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_the_log_density_is_that_of_pymc(make):
    model = make()
    converted = vijax.from_pymc(model)
    values = [model.rvs_to_values[rv] for rv in model.free_RVs]
    outputs = [*model.unobserved_value_vars, model.logp(jacobian=False)]
    names = [variable.name for variable in model.unobserved_value_vars]
    exact = model.compile_fn(outputs, inputs=values, mode="FAST_COMPILE", on_unused_input="ignore")
    start, rng = model.initial_point(), np.random.default_rng(1)
    for _ in range(3):
        point = {name: x + 0.3 * rng.normal(size=np.shape(x)) for name, x in start.items()}
        *found, expected = exact(point)
        constrained = dict(zip(names, found, strict=True))
        sites = {rv.name: constrained[rv.name] for rv in model.free_RVs}
        got, trace = log_density(converted, (), {}, sites)
        assert got == pytest.approx(expected, rel=2e-5, abs=2e-4)
        for variable in model.deterministics:
            np.testing.assert_allclose(
                trace[variable.name]["value"], constrained[variable.name], rtol=1e-4, atol=1e-5
            )

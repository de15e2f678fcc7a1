"""Models of other libraries agree with ours: log densities differ by a constant.

Skipped where the libraries are not installed; the extra `peers` has them.
"""

import numpy as np
import pytest

pytest.importorskip("bench.posteriors.everyday")  # an installed wheel has no benchmarks

from numpyro.infer.util import log_density

from bench.peers import by_pymc, by_pyro
from bench.posteriors import everyday
from bench.posteriors.answer import Skipped

LATENTS = {
    "eight_schools": {"mu": (), "tau": (), "theta_trans": (8,)},
    "radon": {"mu": (), "tau": (), "slope": (), "sigma": (), "intercept": (85,)},
    "logistic": {"beta": (11,)},
    "banana": {"x": (), "y": ()},
}


def points(name):
    """Five points with positive values, which are valid for scales too."""
    random = np.random.default_rng(0)
    return [
        {site: np.exp(0.3 * random.normal(size=shape)) for site, shape in LATENTS[name].items()}
        for _ in range(5)
    ]


def agree(name, of_peer):
    """Differences are equal at all points, up to single precision."""
    case = everyday.CASES[name]()
    ours = [float(log_density(case.model, case.args, {}, point)[0]) for point in points(name)]
    gap = np.subtract(ours, [of_peer(point) for point in points(name)])
    np.testing.assert_allclose(gap - gap[0], 0, atol=1e-5 * np.abs(ours).max() + 1e-4)


@pytest.mark.parametrize("name", everyday.CASES)
@pytest.mark.filterwarnings("default")
def test_pymc(name):
    pytest.importorskip("pymc")
    model = by_pymc.model_of(everyday.CASES[name]()._replace(name=name))
    density = model.compile_logp(jacobian=False)

    def at(point):  # positive values are parameterized by their logarithms
        logs = {f"{site}_log__": np.log(value) for site, value in point.items()}
        return float(density({key: (point | logs)[key] for key in model.initial_point()}))

    agree(name, at)


@pytest.mark.parametrize("name", everyday.CASES)
@pytest.mark.filterwarnings("default")
def test_pyro(name):
    pyro = pytest.importorskip("pyro")
    torch = pytest.importorskip("torch")
    args = [torch.as_tensor(value) for value in everyday.CASES[name]().args]

    def at(point):
        values = {
            site: torch.as_tensor(value, dtype=torch.float32) for site, value in point.items()
        }
        model = pyro.condition(by_pyro.MODELS[name], data=values)
        return float(pyro.poutine.trace(model).get_trace(*args).log_prob_sum())

    agree(name, at)


def test_missing_libraries_and_models_are_skipped_with_the_reason(monkeypatch):
    case = everyday.CASES["banana"]()._replace(name="unheard of")
    monkeypatch.setattr(by_pymc, "pm", None)
    monkeypatch.setattr(by_pyro, "pyro", None)
    for peer, method in ((by_pymc, "advi"), (by_pyro, "svi")):
        with pytest.raises(Skipped, match="is not installed"):
            peer.run(case, method, 0)

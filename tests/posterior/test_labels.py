"""Labels of the elements of sites."""

import pickle

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vijax
from vijax.posterior.condition import on_rows
from vijax.posterior.labels import coordinate_labels, element_labels

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 2)).astype(np.float32)
GROUP = np.arange(12) % 3
Y = X.sum(axis=1) + GROUP
COORDS = {
    "slope_dim_0": ["age", "dose"],
    "group": np.array(["north", "east", "west"]),
    "rows": np.arange(np.datetime64("2020-01-01"), np.datetime64("2020-01-13")),
    "share_dim_0": [10, 20, 30],
}


def model(x, group, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    share = numpyro.sample("share", dist.Dirichlet(np.ones(3)))
    with numpyro.plate("group", 3):
        effect = numpyro.sample("effect", dist.Normal(share, 1.0))
    with numpyro.plate("rows", len(x)):
        at = numpyro.deterministic("at", x @ slope + effect[group])
        numpyro.sample("y", dist.Normal(at, 0.5), obs=y)


@pytest.fixture(scope="module")
def posterior():
    return vijax.fit(model, X, GROUP, Y, guide="laplace", coords=COORDS, progress_bar=False)


def test_elements_and_coordinates_have_labels(posterior):
    result = posterior._result
    assert element_labels(result, "slope", (2,)) == ["slope[age]", "slope[dose]"]
    assert element_labels(result, "effect", (3,))[0] == "effect[north]"
    assert element_labels(result, "at", (12,))[1] == "at[2020-01-02]"
    assert element_labels(result, "unknown", (1, 2)) == ["unknown[0,0]", "unknown[0,1]"]
    # a simplex of three has two unconstrained coordinates, which are not its elements
    assert coordinate_labels(result) == [
        *("slope[age]", "slope[dose]", "share[0]", "share[1]"),
        *("effect[north]", "effect[east]", "effect[west]"),
    ]
    assert "effect[west]" in posterior.report() or "slope[dose]" in posterior.report()


def test_labels_are_saved_and_exported(posterior, tmp_path):
    posterior.save(tmp_path / "fit")
    for one in (
        posterior,
        vijax.load(tmp_path / "fit", model, X, GROUP, Y),
        pickle.loads(pickle.dumps(posterior)),
    ):
        tree = one.to_datatree(num_draws=3, coords={"share_dim_0": [1, 2, 3]})
        for name, labels in (COORDS | {"share_dim_0": [1, 2, 3]}).items():
            assert np.array_equal(tree["posterior"][name], labels)
        assert np.array_equal(tree["posterior_predictive"]["rows"], COORDS["rows"])


def test_labels_of_rows_are_not_those_of_other_rows(posterior):
    other = on_rows(posterior._result, "log_predictive_density", (X[::-1], GROUP, Y), {})
    assert {*other.arguments.coords} == {"slope_dim_0", "group", "share_dim_0"}


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        ({"groups": list("abc")}, r"'group' \(3\).*, got 'groups'"),
        ({"group": list("ab")}, r"coords\['group'\]: expected 3 labels.*got 2 labels"),
        ({"group": 3}, r"coords\['group'\]: expected 3 labels.*got shape \(\)"),
        ({"group": list("aab")}, r"coords\['group'\]: expected distinct labels, got 'a' twice"),
    ],
)
def test_wrong_labels_are_refused(coords, message):
    with pytest.raises(vijax.ModelError, match=message):
        vijax.fit(model, X, GROUP, Y, coords=coords)

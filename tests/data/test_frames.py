"""Data frames as arguments: columns by name, labels as codes, at the fit and at new inputs."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
import pytest

import vijax
from tests.fitting.test_recompilation import compilations
from vijax.contracts import Batch
from vijax.model import batch_request, split, split_and_build
from vijax.posterior.labels import level_coords

ROWS = 60
SCHOOLS = ("Choate", "Deerfield", "Hotchkiss")
NUMBERS = np.random.default_rng(0)
EFFECT, SLOPE, NOISE = np.array([-2.0, 0.5, 3.0]), 1.5, 0.2


def frame(seed, labels=SCHOOLS, rows=ROWS):
    rng = np.random.default_rng(seed)
    school = np.arange(rows) % len(labels)
    found = pd.DataFrame({"school": np.array(labels)[school], "odd name": rng.normal(size=rows)})
    noise = NOISE * rng.normal(size=rows)
    found["y"] = EFFECT[school % 3] + SLOPE * found["odd name"] + noise
    found["passed"] = found["y"] > 0
    found["date"] = pd.Timestamp("2020-01-01")
    found["note"] = [f"text {i}" if i % 7 else None for i in range(rows)]
    return found


def model(data):
    slope = numpyro.sample("slope", dist.Normal(0.0, 2.0))
    center = numpyro.sample("center", dist.Normal(0.0, 5.0))
    scale = numpyro.sample("scale", dist.HalfNormal(3.0))
    with numpyro.plate("schools", data.num_levels("school")):
        effect = numpyro.sample("effect", dist.Normal(center, scale))
    with numpyro.plate("rows", len(data)):
        at = effect[data["school"]] + slope * data["odd name"]
        numpyro.sample("y", dist.Normal(at, NOISE), obs=data.get("y"))


def fit(data, **options):
    return vijax.fit(model, data, guide="fullrank", progress_bar=False, **options)


@pytest.fixture(scope="module")
def posterior():
    return fit(frame(0))


def new_rows(*schools, x=1.0):
    return pd.DataFrame({"odd name": np.full(len(schools), x), "school": list(schools)})


def by_hand(x, school, y):
    slope = numpyro.sample("slope", dist.Normal(0.0, 2.0))
    center = numpyro.sample("center", dist.Normal(0.0, 5.0))
    scale = numpyro.sample("scale", dist.HalfNormal(3.0))
    with numpyro.plate("schools", 3):
        effect = numpyro.sample("effect", dist.Normal(center, scale))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(effect[school] + slope * x, NOISE), obs=y)


def fit_by_hand(data, **options):
    code = np.array([SCHOOLS.index(one) for one in data["school"]])
    args = data["odd name"].to_numpy(), code, data["y"].to_numpy()
    return vijax.fit(by_hand, *args, guide="fullrank", progress_bar=False, **options)


def test_a_fit_to_a_frame_is_that_to_its_arrays(posterior):
    assert posterior.levels == {"school": SCHOOLS}
    other = fit_by_hand(frame(0))
    assert posterior.elbo == other.elbo
    for name, values in posterior.sample(50).items():
        np.testing.assert_array_equal(values, other.sample(50)[name])
    assert abs(posterior.sample()["effect"].mean(0) - EFFECT).max() < 0.15


def test_labels_name_the_elements(posterior):
    assert list(posterior.coords) == ["schools"]
    tree = posterior.to_datatree(num_draws=20)
    assert list(tree["posterior"]["schools"].values) == list(SCHOOLS)
    assert list(tree["constant_data"]["school"].values[:4]) == [*SCHOOLS, SCHOOLS[0]]
    given = fit(frame(0), coords={"schools": ["a", "b", "c"]})
    assert list(given.coords["schools"]) == ["a", "b", "c"]


def test_labels_are_those_of_the_plate_that_they_select_from():
    data = pd.DataFrame({"school": np.array(SCHOOLS)[np.arange(6) % 3], "y": np.zeros(6)})

    def model(data):
        with numpyro.plate("components", 3):
            center = numpyro.sample("center", dist.Normal(0.0, 1.0))
        with numpyro.plate("groups", data.num_levels("school")):
            effect = numpyro.sample("effect", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(effect[data["school"]], center.max() ** 2), obs=data["y"])

    arguments, arrays, target = split_and_build(model, (data,), {}, None)
    assert level_coords(target, arguments, Batch(arrays)).keys() == {"groups"}


def test_a_second_fit_with_other_labels_compiles_nothing(posterior):
    with compilations() as compiled:
        other = fit(frame(1, labels=("x", "y", "z")))
    assert not compiled
    assert other._result.target is posterior._result.target
    assert other.levels["school"] == ("x", "y", "z")
    assert posterior.levels["school"] == SCHOOLS


def test_new_rows_have_the_codes_of_the_fit(posterior):
    rows = new_rows("Hotchkiss", "Choate")  # sorted, these alone would be 1 and 0
    drawn = posterior.predict(rows)["y"]
    np.testing.assert_allclose(drawn.mean(0), EFFECT[[2, 0]] + SLOPE, atol=0.15)
    categories = rows.assign(school=pd.Categorical(rows["school"], ["Hotchkiss", "Choate", "no"]))
    np.testing.assert_array_equal(posterior.predict(categories)["y"], drawn)
    as_dict = {"school": ["Hotchkiss", "Choate"], "odd name": [1.0, 1.0]}
    np.testing.assert_array_equal(posterior.predict(as_dict)["y"], drawn)
    with pytest.raises(vijax.ModelError, match="expected a data frame, as in the fit, got Series"):
        posterior.predict(rows["school"])
    density = posterior.log_predictive_density(rows.assign(y=EFFECT[[2, 0]] + SLOPE))["y"]
    assert (density > -np.log(np.sqrt(2 * np.pi) * 2 * NOISE)).all()


def test_new_labels_are_new_groups(posterior):
    drawn = posterior.predict(new_rows("New", "Choate"), num_draws=4000)["y"]
    draws = posterior.sample(4000)
    expected = np.sqrt((draws["scale"] ** 2 + NOISE**2).mean() + draws["center"].var())
    assert drawn[:, 0].std() == pytest.approx(expected, rel=0.15)
    assert drawn[:, 1].std() < 2 * NOISE
    assert drawn[:, 1].mean() == pytest.approx(EFFECT[0] + SLOPE, abs=0.15)
    with pytest.raises(vijax.ModelError, match=r"\"data\['school'\]\".*'Choate'.*got 'New'\."):
        posterior.log_predictive_density(new_rows("New").assign(y=0.0))


def test_a_categorical_outcome_is_predicted_without_its_column():
    x = np.repeat([-1.0, 0.0, 1.0], 20)
    data = pd.DataFrame({"x": x, "kind": np.repeat(["low", "mid", "top"], 20)})

    def outcome(data):
        with numpyro.plate("kinds", data.num_levels("kind")):
            slope = numpyro.sample("slope", dist.Normal(0.0, 10.0))
            start = numpyro.sample("start", dist.Normal(0.0, 10.0))
        with numpyro.plate("rows", len(data)):
            logits = start + slope * data["x"][:, None]
            numpyro.sample("kind", dist.Categorical(logits=logits), obs=data.get("kind"))

    posterior = vijax.fit(outcome, data, guide="laplace", progress_bar=False)
    codes = posterior.predict(pd.DataFrame({"x": [1.0, -1.0, 0.0]}))["kind"]
    labels = np.array(posterior.levels["kind"])[codes]
    assert (labels == ["top", "low", "mid"]).mean() > 0.8


def test_values_of_rows_are_not_used_for_other_rows():
    schools = pd.DataFrame({"school": ["B", "C", "A"], "y": [1.0, 2.0, -3.0]})

    def by_row(data):
        center = numpyro.sample("center", dist.Normal(0.0, 1.0))
        with numpyro.plate("schools", len(data)):
            effect = numpyro.sample("effect", dist.Normal(center, 1.0))
            numpyro.sample("y", dist.Normal(effect, 0.1), obs=data.get("y"))

    def by_label(data):
        center = numpyro.sample("center", dist.Normal(0.0, 1.0))
        with numpyro.plate("schools", data.num_levels("school")):
            effect = numpyro.sample("effect", dist.Normal(center, 1.0))
        with numpyro.plate("rows", len(data)):
            numpyro.sample("y", dist.Normal(effect[data["school"]], 0.1), obs=data.get("y"))

    rows = vijax.fit(by_row, schools, guide="laplace", progress_bar=False)
    assert list(rows.coords["schools"]) == ["B", "C", "A"]
    assert rows.predict(schools[["school"]])["y"].shape == (1000, 3)
    for other in (schools[::-1], schools.assign(school=["X", "Y", "Z"])):
        with pytest.raises(
            vijax.ModelError, match=r"\['school'\]\".*order.*plate 'schools'.*index"
        ):
            rows.predict(other[["school"]])
        with pytest.raises(
            vijax.ModelError, match=r"order.*index its sites|expected labels of the fit"
        ):
            rows.log_predictive_density(other)
    more = rows.predict(pd.DataFrame({"school": ["B", "C", "A", "new"]}))["y"]
    np.testing.assert_allclose(more.mean(0)[:3], [1.0, 2.0, -3.0], atol=0.2)
    assert more.std(0)[3] > 0.8
    with pytest.raises(vijax.ModelError, match="rows of the fit in their order"):
        rows.predict(pd.DataFrame({"school": ["B", "new", "C", "A"]}))
    labels = vijax.fit(by_label, schools, guide="laplace", progress_bar=False)
    for one in (rows, labels):
        assert one.log_predictive_density(schools)["y"].shape == (3,)
    assert labels.log_predictive_density(schools[::-1])["y"].min() > -3
    drawn = labels.predict(schools[::-1][["school"]])["y"]
    np.testing.assert_allclose(drawn.mean(0), [-3.0, 2.0, 1.0], atol=0.1)


def test_two_frames_have_the_same_codes():
    schools = pd.DataFrame({"school": ["B", "A"], "size": [3.0, 1.0]})  # in the order of the rows
    pupils = pd.DataFrame({"school": ["A", "B", "A"], "y": [0.0, 1.0, 2.0]})  # sorted

    def model(pupils, schools): ...

    with pytest.raises(vijax.ModelError, match=r"label 'B'.*CategoricalDtype"):
        split(model, (pupils, schools), {})
    pupils["school"] = pupils["school"].astype(pd.CategoricalDtype(schools["school"]))
    assert split(model, (pupils, schools), {})[1]["pupils['school']"].tolist() == [1, 0, 1]
    other = schools.assign(school=["C", "D"])  # none in both
    assert split(model, (pupils, other), {})[0].levels["schools['school']"] == ("C", "D")


def test_labels_are_saved(posterior, tmp_path):
    posterior.save(tmp_path / "fit")
    rows = new_rows("Hotchkiss", "New")
    expected = posterior.predict(rows)["y"]
    copies = [vijax.load(tmp_path / "fit", model, frame(0)), pickle.loads(pickle.dumps(posterior))]
    for copy in (*copies, vijax.load(tmp_path / "fit", model)):
        if copy in copies:
            np.testing.assert_array_equal(copy.predict(rows)["y"], expected)
        assert copy.predict(rows)["y"][:, 0].mean() == pytest.approx(EFFECT[2] + SLOPE, abs=0.15)
        assert copy.levels == posterior.levels
        assert list(copy.coords["schools"]) == list(SCHOOLS)
    with pytest.raises(vijax.ModelError, match="expected labels of the fit"):
        vijax.load(tmp_path / "fit", model, frame(0, labels=("Choate", "Deerfield", "Other")))


def test_columns_are_subsampled_along_the_rows():
    target = split_and_build(model, (frame(0),), {}, batch_request(20, None))[2]
    names = ("odd name", "passed", "school", "y")  # the others are neither numbers nor labels
    expected = {f"data[{name!r}]": (("rows", 0),) for name in names}
    assert target.subsampling.axes == expected
    assert target.space.names == ("slope", "center", "scale", "effect")


@pytest.mark.slow
def test_minibatches_of_a_frame_are_those_of_its_arrays():
    options = {"batch_size": 20, "num_steps": 10, "optimizer": optax.adam(0.01)}
    np.testing.assert_array_equal(
        fit(frame(0), **options).losses, fit_by_hand(frame(0), **options).losses
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.drop(columns="odd name"), r"'data': expected a column 'odd name'.*got the"),
        (lambda d: d.assign(school=[0, 1]), r"\['school'\]\": expected labels as in the fit"),
        (lambda d: d.assign(**{"odd name": ["a", "b"]}), r"numbers as in the fit, got labels s"),
        (lambda d: d.assign(school=["Choate", None]), r"1 of 2 that are missing, the first in r"),
        (lambda d: d.assign(school=pd.Timestamp("2020")), r"dates or times.*dt\.days"),
        (lambda d: d.assign(school=["Choate", 3]), r"mix|types int, str; the first text is 'Choa"),
        (lambda d: pd.concat([d, d], axis=1), r"columns of different names.*'odd name'"),
    ],
)
def test_other_columns_than_in_the_fit_are_refused(posterior, change, message):
    with pytest.raises(vijax.ModelError, match=message):
        posterior.predict(change(new_rows("Choate", "Deerfield")))


def test_missing_numbers_are_refused_where_the_model_reads_them():
    data = frame(0)
    data.loc[[4, 9], "odd name"] = np.nan
    with pytest.raises(vijax.ModelError, match=r"\"data\['odd name'\]\": 2 of 60 values.*\[4\]"):
        fit(data)


def leaves(*args):
    """The encoded arguments, and the labels by name."""
    arguments, data = split(lambda *_: None, args, {})
    return arguments.join(data)[0], arguments.levels


@pytest.mark.parametrize(
    ("column", "values", "labels"),
    [
        (["b", "a", "b"], [1, 0, 1], ("a", "b")),
        (["b", "a", "c"], [0, 1, 2], ("b", "a", "c")),  # one per row: in their order
        (pd.Categorical(["b", "a", "b"], ["b", "z", "a"]), [0, 2, 0], ("b", "z", "a")),
        (pd.Categorical([20, 10, 20]), [1, 0, 1], (10, 20)),
        (pd.cut([0.5, 1.5, 0.1], [0, 1, 2]), [0, 1, 0], ("(0, 1]", "(1, 2]")),
        (pd.array([1, None, 3], "Int64"), [1.0, np.nan, 3.0], None),
        (np.array([1, 2.5, None], object), [1.0, 2.5, np.nan], None),
        (np.array([True, False, True], object), [True, False, True], None),
        (np.array([7, 8, 9], object), [7, 8, 9], None),
    ],
)
def test_types_of_columns(column, values, labels):
    for given in (pd.Series(column), pd.DataFrame({"x": column})["x"]):
        (codes,), levels = leaves(given)
        np.testing.assert_array_equal(codes, values)
        assert levels.get("args[0]") == labels
    (table,), levels = leaves(pd.DataFrame({"x": column}))
    np.testing.assert_array_equal(table["x"], values)
    assert levels.get("args[0]['x']") == labels
    assert ("x" in table.levels) == (labels is not None)


def test_other_libraries_and_arrays_of_strings():
    (codes,), levels = leaves(np.array(["b", "a", "b"]))
    assert codes.tolist() == [1, 0, 1]
    assert levels == {"args[0]": ("a", "b")}
    pa = pytest.importorskip("pyarrow")
    words = pa.array(["b", "a", None, "b"]).dictionary_encode()
    (table,), _ = leaves(pa.table({"x": [1.0, 2.0, 3.0, None], "w": words}))
    np.testing.assert_array_equal(table["x"], [1.0, 2.0, 3.0, np.nan])
    with pytest.raises(vijax.ModelError, match="1 of 4 that are missing, the first in row 2"):
        table["w"]
    pl = pytest.importorskip("polars")
    data = {
        "s": ["b", "a", "b"],
        "i": [1, 2, 3],
        "e": pl.Series(["b", "a", "b"]).cast(pl.Enum(["b", "z", "a"])),
    }
    (table,), levels = leaves(pl.DataFrame(data))
    assert table["e"].tolist() == [0, 2, 0]
    assert table.levels["e"] == ("b", "z", "a")
    assert table["s"].tolist() == [1, 0, 1]
    assert table["i"].dtype.kind == "i"
    with pytest.raises(vijax.ModelError, match="expected a table in memory, got LazyFrame"):
        leaves(pl.DataFrame(data).lazy())


def test_columns_outside_of_a_fit():
    data = vijax.data.columns(frame(0)[["y", "odd name", "passed", "school", "date"]])
    assert len(data) == ROWS
    assert "date" in data
    assert data.get("z") is None
    np.testing.assert_array_equal(
        data[["odd name", "passed"]], frame(0)[["odd name", "passed"]].astype(np.float32)
    )
    with pytest.raises(vijax.ModelError, match=r"columns .*expected numbers, got the labels of 's"):
        data[["odd name", "school"]]
    with pytest.raises(vijax.ModelError, match=r"column 'passed': expected labels, got numbers"):
        data.num_levels("passed")
    with pytest.raises(AttributeError, match=r"data\.school: read the column as data\['school'\]"):
        data.school  # noqa: B018
    for use in (jnp.sum, np.asarray, lambda x: x @ np.ones(3), lambda x: np.ones(3) @ x):
        with pytest.raises(
            vijax.ModelError, match=r"the whole data frame.*\[\['a', 'b'\]\] is a ma"
        ):
            use(data)
    with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as trace:
        model(data)
    assert trace["effect"]["value"].shape == (3,)
    assert jax.tree.structure(data) == jax.tree.structure(
        vijax.data.columns(frame(1)[["school", "passed", "odd name", "y"]])
    )

"""Files of posteriors: round trips, rejected files, contents."""

import contextlib
import copy
import dataclasses
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.infer.autoguide import AutoNormal

import vijax
from tests import targets
from tests.posteriors import replaced
from vijax import GuideError, ModelError, VijaxError, VijaxWarning
from vijax.contracts import Draw
from vijax.guides import FullRank, MeanField
from vijax.model.data_dependence import dependent_sites, required_arrays
from vijax.objectives import ELBO
from vijax.storage import codec

RNG = np.random.default_rng(0)
X = RNG.normal(size=12).astype(np.float32)
Y = (1.5 * X + 0.3 * RNG.normal(size=12)).astype(np.float32)


def line(x, y=None, prior=1.0):
    slope = numpyro.sample("slope", dist.Normal(0.0, prior))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.deterministic("at", slope * x)
        numpyro.sample("y", dist.Normal(slope * x, noise), obs=y)
    numpyro.deterministic("double", 2 * slope)


def fit(*args, **options):
    return vijax.fit(*args, **{"progress_bar": False, **options})


def resume(posterior, num_steps):
    return posterior.resume(num_steps, progress_bar=False)


@pytest.fixture(scope="module")
def stepped():
    return fit(line, X, Y, guide="fullrank", num_steps=100)


@pytest.fixture(scope="module")
def solved():
    return fit(line, X, y=Y)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "posterior.npz"


def assert_equal(one, other):
    """The same structure, the same bits."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def assert_same_posterior(one, other):
    for fact in ("elbo", "elbo_se", "khat", "status", "stop_reason", "num_steps", "guide"):
        np.testing.assert_equal(getattr(one, fact), getattr(other, fact))
    assert repr(replaced(one, seconds=0)) == repr(replaced(other, seconds=0))
    one, other = replaced(one, seconds=0, timing=None), replaced(other, seconds=0, timing=None)
    assert one.report() == other.report()
    assert_equal(one.losses, other.losses)
    assert_equal(one._result.variables, other._result.variables)
    assert_equal(one._result.mutable, other._result.mutable)
    assert_equal(one._result.assessment.draws, other._result.assessment.draws)
    assert_equal(one.sample(30, rng_key=3), other.sample(30, rng_key=3))


def hierarchy(data, groups, flag):
    scale = numpyro.param("scale", 1.0, constraint=dist.constraints.positive)
    count = numpyro.primitives.mutable("count", {"n": jnp.zeros(())})
    count["n"] = count["n"] + 1.0
    mean = numpyro.sample("mean", dist.Normal(0.0, scale))
    with numpyro.plate("groups", groups):
        effect = numpyro.sample("effect", dist.Normal(mean, 1.0))
    assert flag == ("a", 2.5, None)
    numpyro.sample("y", dist.Normal(effect[data["group"]], 0.5).to_event(1), obs=data["y"])


GROUPED = ({"group": np.arange(12) % 3, "y": Y}, 3, ("a", 2.5, None))


@pytest.mark.parametrize(
    ("model", "args", "options"),
    [
        (line, (X, Y), {"guide": "fullrank"}),
        (line, (X, Y), {"guide": "map"}),
        pytest.param(
            line,
            (X, Y),
            {"guide": MeanField(0.3), "num_steps": 30, "num_restarts": 2},
            marks=pytest.mark.slow,
        ),
        (line, (X, Y), {"guide": {"slope": FullRank(), ...: MeanField()}, "num_steps": 30}),
        pytest.param(
            line, (X, Y), {"objective": ELBO(3, "plain"), "num_steps": 30}, marks=pytest.mark.slow
        ),
        (hierarchy, GROUPED, {"guide": "lowrank", "num_steps": 30}),
    ],
    ids=["solver", "map", "restarts", "composite", "objective", "params-and-mutable"],
)
def test_a_loaded_posterior_is_identical(path, model, args, options):
    posterior = fit(model, *args, **options)
    posterior.save(path)
    loaded = vijax.load(path, model, *args)
    assert_same_posterior(posterior, loaded)
    if posterior._result.run is not None:
        assert_same_posterior(resume(posterior, 7), resume(loaded, 7))


@pytest.mark.parametrize("restarts", [1, 2])
def test_100_and_200_steps_are_300_in_process_and_through_a_file(path, restarts):
    options = {"guide": "meanfield", "num_restarts": restarts, "rng_key": 5}
    whole = fit(line, X, Y, num_steps=300, **options)
    part = fit(line, X, Y, num_steps=105, **options)
    part.save(path)
    for started in (part, vijax.load(path, line, X, Y)):
        again = resume(started, 195)
        assert_equal(again.losses, whole.losses)
        assert_equal(again._result.variables, whole._result.variables)
        assert_equal(again.sample(20), whole.sample(20))
        np.testing.assert_equal((again.elbo, again.khat), (whole.elbo, whole.khat))


def test_a_converged_fit_can_be_resumed():
    posterior = fit(line, X, Y, guide="meanfield", algorithm="gradient")
    assert posterior.converged
    more = resume(posterior, 150)
    assert np.isfinite(more.losses).all()
    assert more.num_steps == posterior.num_steps + 150
    assert more.converged
    assert more.elbo > posterior.elbo - 5 * (posterior.elbo_se + more.elbo_se)


ELSEWHERE = """
import sys, numpy as np, vijax
from tests import targets
problem = targets.problem("gamma_poisson")
loaded = vijax.load(sys.argv[1], problem.model, *problem.args)
more = loaded.resume(40, progress_bar=False)
loc = more.params.loc["rate"]
np.savez(sys.argv[2], draws=loaded.sample(50, rng_key=1)["rate"], losses=more.losses, loc=loc)
"""


def test_another_process_goes_on_bit_for_bit(path, tmp_path):
    problem = targets.problem("gamma_poisson")
    posterior = fit(problem.model, *problem.args, guide="meanfield", num_steps=60)
    posterior.save(path)
    root = Path(__file__).resolve().parents[2]
    out = tmp_path / "out.npz"
    subprocess.run(
        [sys.executable, "-W", "error", "-c", ELSEWHERE, path, out],
        check=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    there, more = np.load(out), resume(posterior, 40)
    np.testing.assert_array_equal(there["draws"], posterior.sample(50, rng_key=1)["rate"])
    np.testing.assert_array_equal(there["losses"], more.losses)
    np.testing.assert_array_equal(there["loc"], more.params.loc["rate"])


# Without the data


def test_draws_need_no_data(path, stepped):
    stepped.save(path)
    loaded = vijax.load(path, line)
    assert loaded._result.missing == ("x", "y")
    expected = stepped.sample(30, rng_key=3, corrected=False)
    found = loaded.sample(30, rng_key=3, corrected=False)
    assert list(found) == ["slope", "noise", "double"]  # "at" is one of the training inputs
    assert_equal(found, {name: expected[name] for name in found})
    values = {name: expected[name] for name in ("slope", "noise")}
    np.testing.assert_array_equal(loaded.log_prob(values), stepped.log_prob(values))
    np.testing.assert_array_equal(loaded.covariance(), stepped.covariance())
    assert loaded.report() == stepped.report()
    assert loaded.summary().loc["slope", "mean"] == pytest.approx(
        float(stepped._result.assessment.draws.z["slope"].mean()), rel=1e-5
    )
    new = np.linspace(-1, 1, 5).astype(np.float32)
    predicted = loaded.predict(new, num_draws=20)
    assert predicted["y"].shape == predicted["at"].shape == (20, 5)


def test_without_data_corrected_draws_come_from_the_assessment(path, stepped):
    stepped.save(path)
    loaded = vijax.load(path, line)
    known = stepped._result.assessment
    draws = loaded.sample(500, corrected=True)["slope"]
    assert np.isin(draws, known.draws.z["slope"]).all()
    weight = np.exp(known.importance.log_weights)
    mean = weight @ known.draws.z["slope"]
    assert abs(draws.mean() - mean) < 5 * draws.std() / np.sqrt(500)
    assert loaded.importance().log_evidence == known.importance.log_evidence


@pytest.mark.parametrize(
    "call",
    [
        lambda p: p.log_likelihood(),
        lambda p: p.predict(),
        lambda p: p.nuts(),
        lambda p: p.resume(10),
    ],
)
def test_methods_that_need_the_data_are_rejected_without_it(path, stepped, call):
    stepped.save(path)
    with pytest.raises(ModelError, match=r"without 'x', 'y'.*vijax\.load\(path, model, \*data\)"):
        call(vijax.load(path, line))


def test_some_of_the_data_may_be_missing(path, stepped):
    stepped.save(path)
    loaded = vijax.load(path, line, X)
    assert loaded._result.missing == ("y",)
    assert_equal(
        loaded.sample(30, rng_key=3, corrected=False),
        stepped.sample(30, rng_key=3, corrected=False),
    )


def bounded(x, y):
    top = numpyro.sample("top", dist.Uniform(0.0, jnp.max(y) + 1.0))
    numpyro.deterministic("share", top / jnp.sum(x))

    def step(level, row):
        level = numpyro.sample("level", dist.Normal(0.9 * level, 1.0))
        numpyro.sample("y", dist.Normal(level, top), obs=row)
        return level, None

    scan(step, 0.0, y)


@pytest.mark.slow
def test_only_arrays_that_supports_depend_on_are_in_the_file(path):
    posterior = fit(bounded, X, Y, guide="meanfield", num_steps=20)
    posterior.save(path)
    loaded = vijax.load(path, bounded)
    assert loaded._result.missing == ("x",)
    np.testing.assert_array_equal(loaded._result.batch.data["y"], Y)
    draws = loaded.sample(30, rng_key=3, corrected=False)
    expected = posterior.sample(30, rng_key=3, corrected=False)
    assert_equal(draws, {name: expected[name] for name in ("top", "level")})
    values = {name: draws[name] for name in ("top", "level")}
    np.testing.assert_array_equal(loaded.log_prob(values), posterior.log_prob(values))


def test_dependence_is_traced_through_a_scan(stepped):
    def series(y):
        def step(level, row):
            level = numpyro.sample("level", dist.Normal(0.9 * level, 1.0))
            numpyro.sample("y", dist.Normal(level, 1.0), obs=row)
            return level, None

        scan(step, 0.0, y)

    posterior = fit(series, Y, guide="meanfield", num_steps=20)
    state = (posterior._result.variables, posterior._result.mutable)
    assert not required_arrays(
        posterior._result.target, posterior.guide, *state, posterior._result.batch
    )
    state = (stepped._result.batch, stepped._result.variables, stepped._result.mutable)
    assert dependent_sites(stepped._result.target, *state, ("x",)) == {"at"}
    assert dependent_sites(stepped._result.target, *state, ("y",)) == frozenset()


def test_a_posterior_without_data_can_be_saved_again(path, stepped):
    stepped.save(path)
    vijax.load(path, line).save(path)
    assert_same_posterior(vijax.load(path, line, X, Y), stepped)


def test_large_data_that_is_missing_takes_no_memory(path, stepped):
    stepped.save(path)
    assert vijax.load(path, line)._result.batch.data["x"].strides == (0,)


# Objects that are not saved


@dataclasses.dataclass(frozen=True)
class Mine(vijax.guides.MeanField):
    """A user's own guide."""

    def draw(self, params, space, key, batch):
        draw = super().draw(params, space, key, batch)
        return Draw(draw.z, draw.log_q)


@pytest.mark.parametrize("guide", [Mine(), AutoNormal(line)], ids=["class", "numpyro"])
def test_a_custom_guide_is_passed_to_load(path, guide):
    posterior = fit(line, X, Y, guide=guide, num_steps=20)
    posterior.save(path)
    with pytest.raises(GuideError, match=r"guide=\.\.\."):
        vijax.load(path, line, X, Y)
    assert_same_posterior(vijax.load(path, line, X, Y, guide=guide), posterior)
    with pytest.raises(VijaxError, match="variables: expected the leaves of the file"):
        vijax.load(path, line, X, Y, guide="fullrank")


def users_objective(variables, setting):
    return ELBO()(variables, setting)


@pytest.mark.parametrize(
    ("name", "value"), [("optimizer", optax.sgd(1e-3)), ("objective", users_objective)]
)
def test_custom_options_are_passed_to_load_to_resume(path, name, value):
    options = {"guide": "meanfield", "num_steps": 20, name: value}
    posterior = fit(line, X, Y, **options)
    posterior.save(path)
    loaded = vijax.load(path, line, X, Y)
    assert_same_posterior(loaded, posterior)
    with pytest.raises(VijaxError, match=rf"fit's {name}.*{name}=\.\.\."):
        loaded.resume(5)
    given = vijax.load(path, line, X, Y, **{name: value})
    assert_equal(resume(given, 5).losses, resume(posterior, 5).losses)


def test_a_different_optimizer_is_rejected(path, stepped):
    stepped.save(path)
    with pytest.raises(VijaxError, match=r"algorithm's state.*optimizer.*Pass the optimizer"):
        vijax.load(path, line, X, Y, optimizer=optax.sgd(0.1))
    given = vijax.load(path, line, X, Y, algorithm=stepped._result.engine.algorithm)
    assert_equal(resume(given, 5).losses, resume(stepped, 5).losses)


def linked(x, link, y):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(link(slope * x), 1.0).to_event(1), obs=y)


def test_a_static_argument_that_cannot_be_saved_is_passed_to_load(path):
    posterior = fit(linked, X, jnp.tanh, Y, guide="meanfield", num_steps=20)
    posterior.save(path)
    with pytest.raises(ModelError, match=r"argument 'link'.*link=\.\.\."):
        vijax.load(path, linked)
    loaded = vijax.load(path, linked, link=jnp.tanh)
    assert loaded._result.missing == ("x", "y")
    assert_equal(loaded.sample(10, corrected=False), posterior.sample(10, corrected=False))


# Errors


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((X[:5], Y), {}, r"argument 'x'.*\(12,\) of float32.*\(5,\) of float32"),
        ((X, Y > 0), {}, r"argument 'y'.*of float32.*of bool"),
        ((X, None), {}, r"argument 'y'.*an array \(12,\).*got nothing"),
        ((X, Y, 2.0), {}, "argument 'prior'.*arguments of the fit"),
        ((X,), {"z": Y}, r"argument 'z'.*arguments of the fit, \['x', 'y'\]"),
    ],
)
def test_arguments_that_are_not_those_of_the_fit_are_named(path, stepped, args, kwargs, message):
    stepped.save(path)
    with pytest.raises(ModelError, match=message):
        vijax.load(path, line, *args, **kwargs)


def test_a_static_argument_of_another_value_is_named(path):
    posterior = fit(line, X, Y, prior=2.0, guide="meanfield", num_steps=10)
    posterior.save(path)
    assert_same_posterior(vijax.load(path, line, X, Y), posterior)
    with pytest.raises(ModelError, match=r"argument 'prior'.*value 2\.0.*value 3\.0"):
        vijax.load(path, line, X, Y, prior=3.0)


def renamed(x, y=None):
    slope = numpyro.sample("gradient", dist.Normal(0.0, 1.0))
    numpyro.sample("noise", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(slope * x, 1.0).to_event(1), obs=y)


def reshaped(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    numpyro.sample("noise", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(slope[0] * x, 1.0).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("model", "message"),
    [(renamed, "site 'slope' of the model"), (reshaped, r"site 'slope'.*shape=\(\).*shape=\(2,\)")],
)
def test_a_different_model_is_rejected_by_its_sites(path, stepped, model, message):
    stepped.save(path)
    with pytest.raises(ModelError, match=message):
        vijax.load(path, model, X, Y)


def test_other_values_of_the_data_give_a_warning(path, stepped):
    stepped.save(path)
    with pytest.warns(VijaxWarning, match=r"'y' has other values.*init=posterior"):
        vijax.load(path, line, X, Y + 1)


def steeper(x, y=None, prior=1.0):
    """Another model with the sites of `line`."""
    slope = numpyro.sample("slope", dist.Normal(0.0, prior))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.deterministic("at", slope * x)
        numpyro.sample("y", dist.Normal(2 * slope * x, noise), obs=y)
    numpyro.deterministic("double", 2 * slope)


def test_another_model_with_the_same_sites_gives_a_warning(path, stepped):
    stepped.save(path)
    with pytest.warns(VijaxWarning, match="model: .*another log density.*init=posterior"):
        vijax.load(path, steeper, X, Y)
    with pytest.warns(VijaxWarning, match="model: "):
        vijax.load(path, steeper)  # without the data, too
    # another version of a library may trace the same model to another program
    spoil(path, libraries={**codec.read(path, "")[0]["libraries"], "jax": "0.0"})
    vijax.load(path, steeper, X, Y)


def spoil(path, **changes):
    """The file with some entries of its manifest replaced."""
    manifest, arrays = codec.read(path, "")
    codec.write(path, {**manifest, **changes}, arrays)


def test_other_files_are_rejected(path, stepped, tmp_path):
    with pytest.raises(FileNotFoundError):
        vijax.load(tmp_path / "nowhere.npz", line)
    path.write_text("hello")
    with pytest.raises(VijaxError, match=r"posterior.npz: expected a file written by.*b'hello'"):
        vijax.load(path, line)
    path.write_bytes(b"")
    with pytest.raises(VijaxError, match="an empty one"):
        vijax.load(path, line)
    np.savez(path, a=np.zeros(3))
    with pytest.raises(VijaxError, match=r"an archive of \['a'\]"):
        vijax.load(path, line)
    stepped.save(path)
    spoil(path, format="something else")
    with pytest.raises(VijaxError, match="another archive"):
        vijax.load(path, line)


def test_newer_formats_and_other_precision_are_rejected(path, stepped):
    stepped.save(path)
    spoil(path, version=99, libraries={"vijax": "9.9"})
    with pytest.raises(VijaxError, match=r"format 1 or older.*format 99.*vijax 9\.9.*Upgrade"):
        vijax.load(path, line)
    stepped.save(path)
    spoil(path, x64=True)
    with pytest.raises(VijaxError, match=r'jax_enable_x64", True'):
        vijax.load(path, line)


def test_damaged_files_are_rejected(path, stepped):
    stepped.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VijaxError, match="truncated"):
        vijax.load(path, line)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(VijaxError, match="corrupt"):
        vijax.load(path, line)
    path.write_bytes(whole)
    spoil(path, variables={"paths": [], "leaves": []})
    with pytest.raises(VijaxError, match="variables: expected the leaves of the file"):
        vijax.load(path, line)


def forged(path, **members):
    """An archive with some members of the file replaced."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()} | members
    kind = zipfile.ZIP_DEFLATED if "compressed" in members else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def header(shape):
    """The head of an array of a file that has no more than that."""
    file = io.BytesIO()
    note = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, note)
    return file.getvalue()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"0.npy": header((10**12,))}, "'0' is said to have 8000000000000 bytes"),
        ({"0.npy": header((-1,)) + bytes(8)}, "'0' is said to have -8 bytes"),
        ({"0.npy": b"nothing"}, "corrupt"),
        ({"compressed": bytes(10**6)}, "is compressed"),
        ({"manifest.npy": header((4,)) + bytes(32)}, "corrupt"),
    ],
    ids=["size", "negative", "no array", "compressed", "manifest"],
)
def test_forged_archives_are_rejected_before_they_take_memory(path, stepped, members, message):
    stepped.save(path)
    forged(path, **members)
    with pytest.raises(VijaxError, match=message):
        vijax.load(path, line)


def test_an_entry_of_any_other_kind_gives_an_error_of_the_library(path, stepped):
    stepped.save(path)
    manifest, arrays = codec.read(path, "")
    for entry in manifest:
        for other in (None, -1, ["x"], {"class": "vijax.contracts.space.Site", "fields": {}}):
            codec.write(path, {**manifest, entry: other}, arrays)
            with contextlib.suppress(VijaxError, VijaxWarning):  # some do no harm
                vijax.load(path, line)


def test_a_file_refers_only_to_classes_of_the_library(path, stepped):
    stepped.save(path)
    for name in (
        "os.system",
        "vijax.os.system",
        "vijax.posterior.files.save",
        "vijax.nothing.A",
    ):
        spoil(path, guide={"class": name, "fields": {}})
        with pytest.raises(VijaxError, match=f"contains a {name}"):
            vijax.load(path, line)


# Writing


def test_a_folder_that_is_not_there_is_named(path, stepped):
    with pytest.raises(FileNotFoundError, match=r"no directory .*missing\. Create it first"):
        stepped.save(path.parent / "missing" / "fit")


def test_a_failed_save_leaves_the_old_file(path, stepped, monkeypatch):
    stepped.save(path)
    before = path.read_bytes()

    def failing(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", failing)
    with pytest.raises(OSError, match="disk full"):
        stepped.save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_the_path_is_taken_as_it_is(tmp_path, stepped):
    stepped.save(str(tmp_path / "model.of.mine"))
    assert os.listdir(tmp_path) == ["model.of.mine"]
    assert vijax.load(tmp_path / "model.of.mine", line).num_steps == 100


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        7,
        -1.5,
        float("-inf"),
        "text",
        (1, [2.0, "x"], {"a": None, 3: (4,)}),
        np.arange(6).reshape(2, 3),
        np.float32(1.25),
        np.asarray(2.5, jnp.bfloat16),
        jax.ShapeDtypeStruct((2, 3), jnp.int32),
        ELBO(4, "stl"),
        codec,
    ],
    ids=str,
)
def test_values_survive_the_codec(value):
    if value is codec:
        with pytest.raises(codec.NotStored, match="module"):
            codec.Writer().encode(value)
        return
    writer = codec.Writer()
    manifest = json.loads(json.dumps(writer.encode(value)))
    blob = io.BytesIO(codec.to_bytes({"value": manifest}, writer.arrays))
    manifest, arrays = codec.read(blob, "blob")
    back = codec.Reader(arrays).decode(manifest["value"])
    assert type(back) is type(value)
    np.testing.assert_equal(back, value)
    if isinstance(value, (np.ndarray, np.generic)):
        assert back.dtype == value.dtype


def test_random_keys_survive_the_codec():
    for key in (jax.random.key(5), jax.random.key(5, impl="rbg")):
        writer = codec.Writer()
        note = writer.encode(key)
        back = codec.Reader(writer.arrays).decode(note)
        assert back.dtype == key.dtype
        np.testing.assert_array_equal(jax.random.key_data(back), jax.random.key_data(key))


# Pickles


def test_a_posterior_can_be_pickled_with_its_data(path):
    problem = targets.problem("gamma_poisson")  # its model function can be imported by name
    posterior = fit(problem.model, *problem.args, guide="meanfield", num_steps=30)
    again = pickle.loads(pickle.dumps(posterior))
    assert_same_posterior(again, posterior)
    assert_equal(resume(again, 10).losses, resume(posterior, 10).losses)
    posterior.save(path)
    bare = pickle.loads(pickle.dumps(vijax.load(path, problem.model)))
    assert bare._result.missing == ("y",)
    assert_equal(bare.sample(9, corrected=False), posterior.sample(9, corrected=False))


def test_a_deep_copy_is_the_same_posterior(stepped):
    assert_same_posterior(copy.deepcopy(stepped), stepped)


def test_a_solution_has_no_steps_to_resume(path, solved):
    solved.save(path)
    with pytest.raises(VijaxError, match="direct solver"):
        vijax.load(path, line, X, y=Y).resume(10)
    # positional or by keyword: the call of the fit is restored
    assert_same_posterior(vijax.load(path, line, X, Y), solved)

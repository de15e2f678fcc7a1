"""Compiled programs on disk are found again, are the right ones, and are never in the way."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vijax
from vijax.runtime import compilation_cache
from vijax.runtime.compilation_cache import OnDisk, ProgramFiles
from vijax.runtime.stopwatch import Timing

ROOT = Path(__file__).resolve().parents[2]
JAX = compilation_cache._jax().cache
HINT = compilation_cache._UNLOADABLE
NO_HINT = b"in no program"  # so that files are kept on the processors, too, where they are not
Y = np.array([1.0, 2.0, 4.0, 3.0], np.float32)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Programs in a folder of this test, instead of none."""
    files = ProgramFiles(tmp_path / "programs")
    monkeypatch.setattr(compilation_cache, "program_files", lambda: files)
    monkeypatch.setattr(JAX, "_cache", None)
    monkeypatch.setattr(compilation_cache, "_UNLOADABLE", NO_HINT)
    monkeypatch.delenv("VIJAX_CACHE", raising=False)
    return files


def normal(name, sd=1.0):
    """A normal mean with prior N(0, 1), from observations with a standard deviation."""

    def model(y):
        mean = numpyro.sample(name, dist.Normal(0.0, 1.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(mean, sd), obs=y)

    return model


def fit(model, y):
    return vijax.fit(model, y, progress_bar=False)


def test_a_program_is_found_by_its_operations_and_constants(files):
    """Another name is the same program; another constant or shape is another one."""
    before = fit(normal("mean"), Y)
    assert before.timing.num_compiled > 0 == before.timing.num_loaded
    again = fit(normal("location"), Y)
    assert again.timing.num_compiled == 0 < again.timing.num_loaded
    np.testing.assert_array_equal(before.sample(50)["mean"], again.sample(50)["location"])
    for model, y, sd in ((normal("mean", 3.0), Y, 3.0), (normal("mean"), np.tile(Y, 2), 1.0)):
        other = fit(model, y)
        assert other.timing.num_compiled > 0
        precision = 1 + len(y) / sd**2
        draws = other.sample(4000)["mean"]
        moments = [draws.mean(), draws.std()]
        exact = [y.sum() / sd**2 / precision, precision**-0.5]
        np.testing.assert_allclose(moments, exact, atol=0.05)


def test_only_programs_of_this_library_are_kept(files):
    with OnDisk() as block:
        jax.jit(lambda x: x * 3.25)(1.0)
    assert len(files.files()) == 1
    assert not block.loaded
    jax.jit(lambda x: x * 4.25)(1.0)
    thread = threading.Thread(target=lambda: jax.jit(lambda x: x * 5.25)(1.0))
    with OnDisk():
        thread.start()
        thread.join()
    assert len(files.files()) == 1
    with OnDisk() as block:
        assert jax.jit(lambda x: x * 3.25)(2.0) == 6.5
    assert block.loaded


def test_programs_that_call_python_are_not_kept(files):
    def program(x):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return jax.pure_callback(lambda x: np.float32(x + 1), shape, x)

    with OnDisk():
        compiled = jax.jit(program).lower(np.float32(1.0)).compile()
    assert compiled(np.float32(1.0)) == 2.0
    assert files.files() == []


def test_a_damaged_file_is_compiled_again(files):
    with OnDisk():
        jax.jit(lambda x: x * 6.25)(1.0)
    ((_, size, path),) = files.files()
    Path(path).write_bytes(Path(path).read_bytes()[: size // 2])
    with OnDisk() as block:
        assert jax.jit(lambda x: x * 6.25)(1.0) == 6.25
    assert not block.loaded
    assert files.files()[0][1] > 0.9 * size  # whole again
    assert files.problem == ""


def test_the_least_recently_used_are_deleted(tmp_path):
    files = ProgramFiles(tmp_path, max_bytes=10_000)
    paths = [files._file(str(i)) for i in range(12)]
    for i, path in enumerate(paths):
        files._write(path, bytes(996))
        os.utime(path, (i + 1, i + 1))
        if i == 7:
            os.utime(paths[0])  # used now
    kept = [i for i, path in enumerate(paths) if path.exists()]
    assert sum(size for _, size, _ in files.files()) <= 10_000
    assert kept[0] == 0
    assert kept[1:] == list(range(12 - len(kept[1:]), 12))
    assert len(kept) >= 7
    part = tmp_path / f"old{compilation_cache._PART}"
    part.touch()
    os.utime(part, (1, 1))
    files.files()
    assert not part.exists()


def test_a_folder_that_cannot_be_written_is_silently_none(files, tmp_path):
    files.folder = tmp_path / "file" / "programs"
    (tmp_path / "file").touch()
    posterior = fit(normal("unwritten"), Y)  # a warning would be an error
    assert posterior.status == "certified"
    assert files.problem.startswith("it cannot be written: ")
    assert compilation_cache.describe() == f"off, {files.folder}: {files.problem}"


def test_the_cache_of_jax_has_precedence(files, tmp_path):
    with OnDisk():
        jax.jit(lambda x: x * 7.25)(1.0)
    assert JAX._cache is files
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "of jax"))
        with OnDisk():
            jax.jit(lambda x: x * 8.25)(1.0)
        assert JAX._cache is not files
        assert len(files.files()) == 1
        assert compilation_cache.describe() == f"that of JAX, {tmp_path / 'of jax'}"
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        JAX.reset_cache()


def test_a_program_that_jax_cannot_load_is_compiled(files):
    with OnDisk():
        jax.jit(lambda x: x * 9.25)(1.0)
    ((_, _, path),) = files.files()
    value = b"no program"
    Path(path).write_bytes(compilation_cache._checksum(value) + value)
    with pytest.warns(UserWarning, match="Error reading persistent compilation cache"), OnDisk():
        assert jax.jit(lambda x: x * 9.25)(1.0) == 9.25
    assert files.problem == "JAX cannot load its programs"
    assert files.files() == []


def test_programs_of_a_processor_that_cannot_load_them_are_not_kept(files, monkeypatch):
    monkeypatch.setattr(compilation_cache, "_UNLOADABLE", HINT)
    value = JAX.compress_executable(b"... +avx2,+prefer-no-gather ...")
    with OnDisk():
        files.put("key", value)
    assert files.files() == []
    assert "processor" in files.problem


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"VIJAX_CACHE": "0"}, None),
        ({"VIJAX_CACHE": "off"}, None),
        ({"VIJAX_CACHE": "/there"}, "/there"),
        ({"XDG_CACHE_HOME": "/cache"}, "/cache/vijax"),
    ],
)
def test_the_folder_is_the_users(variables, folder, monkeypatch):
    monkeypatch.delenv("VIJAX_CACHE", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = compilation_cache.program_files.__wrapped__()
    assert (found and found.folder) == (folder and Path(folder))


# --- other processes ----------------------------------------------------------------------------

SCRIPT = """
import json, sys
import numpy as np, numpyro, numpyro.distributions as dist
import vijax

def model(y, scale):
    loc = numpyro.sample("loc", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("groups", len(y)):
        theta = numpyro.sample("theta", dist.Normal(loc, tau))
        numpyro.sample("y", dist.Normal(theta, scale), obs=y)

y = np.array([28, 8, -3, 7, -1, 1, 18, 12.0], np.float32)
scale = np.array([15, 10, 16, 11, 9, 11, 10, 18.0], np.float32)
posterior = vijax.fit(model, y, scale, progress_bar=False)
draws = {name: float(np.sum(x, dtype=float)) for name, x in posterior.sample(500).items()}
print(json.dumps([draws, posterior.timing]))
"""


def start(script, cache):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "VIJAX_CACHE": str(cache)}
    keep = f"import vijax.runtime.compilation_cache as c; c._UNLOADABLE = {NO_HINT!r}"
    command = [sys.executable, "-W", "error", "-c", f"{keep}\n{script}"]
    return subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True)


def outcome(process):
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    draws, timing = json.loads(out)
    return draws, Timing(*timing)


@pytest.mark.slow
def test_a_later_process_compiles_nothing_and_draws_the_same(tmp_path):
    both = [start(SCRIPT, tmp_path) for _ in range(2)]  # that write the same files
    first, second = map(outcome, both)
    third = outcome(start(SCRIPT, tmp_path))
    without = outcome(start(SCRIPT, 0))
    assert third[1].num_compiled == 0 < third[1].num_loaded
    assert without[1].num_loaded == 0 < without[1].num_compiled
    assert third[1].compile < 0.3 * without[1].compile
    assert first[0] == second[0] == third[0] == without[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [("HalfCauchy(5.0)", "HalfCauchy(2.0)"), ("8, -3, 7,", "8, -3, 7, 5,"), ("15,", "15.5,")],
)
def test_changes_of_code_shape_and_data_have_the_answer_of_a_fresh_process(tmp_path, change):
    script = SCRIPT.replace(*change)
    if change[0].startswith("8"):
        script = script.replace("11, 9,", "11, 8, 9,")
    assert script != SCRIPT
    old = outcome(start(SCRIPT, tmp_path))
    new, fresh = outcome(start(script, tmp_path)), outcome(start(script, 0))
    assert new[0] == fresh[0] != old[0]


@pytest.mark.slow
def test_a_process_that_ends_while_it_writes_leaves_no_part(tmp_path):
    process = start(SCRIPT, tmp_path)
    while not list(tmp_path.glob("*")):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    draws, _ = outcome(start(SCRIPT, tmp_path))
    assert draws == outcome(start(SCRIPT, 0))[0]

"""What a user gets who installs the package, and the front door of the checkout."""

import importlib.metadata
import importlib.resources
import os
import subprocess
import sys
from pathlib import Path

import pytest

import vijax

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ["quickstart", "test", "check", "docs", "package", "bench"]


def python(*args, cwd=ROOT):
    # A fresh interpreter: this one has already imported what other tests needed.
    return subprocess.run([sys.executable, *args], cwd=cwd, capture_output=True, text=True)


def test_types_are_shipped():
    assert importlib.resources.files("vijax").joinpath("py.typed").is_file()


def test_version_is_the_installed_one():
    assert vijax.__version__ == importlib.metadata.version("vijax-ppl")


def test_every_public_name_exists():
    missing = [name for name in vijax.__all__ if not hasattr(vijax, name)]
    assert missing == []


def test_import_is_light_and_leaves_jax_as_it_was(tmp_path):
    """No plotting, no pandas, no scikit-learn, no JAX setting changed."""
    # arviz_base is among them because its 0.8 imports matplotlib where that is installed.
    code = """
import sys, jax
before = dict(jax.config.values)
import vijax
heavy = {"arviz_base", "arviz_plots", "matplotlib", "pandas", "scipy.optimize", "sklearn"}
heavy &= set(sys.modules)
assert not heavy, f"import vijax also imports {sorted(heavy)}"
changed = [name for name in before if jax.config.values[name] != before[name]]
assert not changed, f"import vijax changes {changed}"
"""
    result = python("-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"]])
def test_dev_help(arguments, tmp_path):
    result = python(str(ROOT / "dev.py"), *arguments, cwd=tmp_path)
    assert result.returncode == 0
    assert all(f"\n  {command} " in result.stdout for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["tests"], f"unknown command 'tests'; available: {', '.join(COMMANDS)}"),
        (["bench", "no_such"], "unknown benchmark 'no_such'; available: "),
        (["bench"], "unknown benchmark ''; available: "),
        (["check", "--fix"], "check: expected no arguments, got --fix"),
    ],
)
def test_dev_refuses_what_it_does_not_know(arguments, complaint):
    result = python(str(ROOT / "dev.py"), *arguments)
    assert result.returncode == 2
    assert complaint in result.stderr


def test_dev_installs_nothing_to_say_so(tmp_path):
    """Help and refusals come before any environment is made."""
    copy = tmp_path / "dev.py"
    copy.write_bytes((ROOT / "dev.py").read_bytes())
    for arguments in (["--help"], ["nonsense"], ["bench", "nonsense"], ["check", "nonsense"]):
        python(os.fspath(copy), *arguments, cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dev.py"]

#!/usr/bin/env python3
"""Run this checkout: everything is installed into .venv, nothing outside it.

usage: python dev.py COMMAND [ARGS...]

commands:
  quickstart [ARGS]   fit a first model: examples/quickstart.py
  test [ARGS]         the tests on two processes; ARGS go to pytest (-m slow, -k elbo, --lf, ...)
  check               formatter, linter and type checker
  docs                the documentation site, into docs/_build/html; the code of its pages runs
  package             sdist and wheel, into dist; the wheel is tried in an empty environment
  bench NAME [ARGS]   the benchmark bench/NAME.py

Paths in ARGS are relative to the checkout.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - older versions of Python must reach this line
    sys.exit(
        f"dev.py: expected Python 3.11 or newer, got {sys.version.split()[0]} "
        f"({sys.executable}). Run it with a newer one, e.g. `python3.12 dev.py test`."
    )

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "vijax-dev.json"
# Settings that would redirect packages or imports away from .venv.
STRAY = ("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "PYTHONSAFEPATH", "PYTHONUSERBASE")
STRAY += ("PIP_PREFIX", "PIP_PYTHON", "PIP_ROOT", "PIP_TARGET", "PIP_USER")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name.upper() not in STRAY}


def interpreter(venv: Path) -> str:
    return str(venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


PYTHON = interpreter(VENV)


def run(*command: str, cwd: Path = ROOT) -> int:
    """Runs a command, in the checkout unless told otherwise, and returns its exit status."""
    process = subprocess.Popen(command, cwd=cwd, env=ENVIRONMENT)
    # Ctrl-C reaches the command directly; wait, because it may print a report.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    status = process.wait()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return status if status >= 0 else 128 - status


def output(*command: str) -> str | None:
    """The output of a command, or None if it fails or does not exist."""
    try:
        result = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    except OSError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def log(message: str) -> None:
    print(f"dev.py: {message}", flush=True)


def make_environment(venv: Path = VENV) -> None:
    """Creates a working environment with pip, or repairs an existing one."""
    version, python = "{}.{}".format(*sys.version_info), interpreter(venv)
    if output(python, "-c", "import sys; print('{}.{}'.format(*sys.version_info))") != version:
        log(f"creating {venv.name} with Python {version}")
        if venv.is_file() or venv.is_symlink():
            venv.unlink()
        # Without pip: some systems have venv but not ensurepip, which it would call.
        if run(sys.executable, "-m", "venv", "--clear", "--without-pip", str(venv)) != 0:
            sys.exit(
                f"Could not create {venv.name}. Install Python's venv (on Debian: python3-venv)."
            )
    if output(python, "-m", "pip", "--version") is None:
        log(f"installing pip into {venv.name}")
        if output(python, "-m", "ensurepip", "--default-pip") is None:
            pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
            if run(*pip, "--force-reinstall", "pip") != 0:
                sys.exit(
                    "Could not install pip. Install Python's ensurepip (on Debian: python3-venv)."
                )


def install(*extras: str) -> None:
    """Installs the checkout, editable, if its dependencies have changed since the last time."""
    make_environment()
    digest = hashlib.sha256(f"{ROOT} {sys.version_info[:2]}".encode())
    for name in ("pyproject.toml", "vijax/_version.py"):
        digest.update((ROOT / name).read_bytes())
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        stamp = {"extras": []}
    wanted = sorted({*stamp["extras"], *extras})
    fresh = {"digest": digest.hexdigest(), "extras": wanted}
    if stamp == fresh:
        return
    target = f".[{','.join(wanted)}]"
    log(f"installing {target} into .venv (the first time takes a few minutes)")
    pip = (PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input")
    if run(*pip, "--editable", target) != 0:
        sys.exit("The installation failed, see above. Run the command again to resume it.")
    STAMP.write_text(json.dumps(fresh))


def quickstart(*args: str) -> int:
    install("examples")
    log("running examples/quickstart.py")
    return run(PYTHON, "examples/quickstart.py", *args)


def test(*args: str) -> int:
    install("test", "examples")
    log("running the tests")
    return run(PYTHON, "-m", "pytest", "-n", "2", "--dist", "worksteal", *args)


def check() -> int:
    install("test")
    tools = ("ruff format --check .", "ruff check .", "mypy")
    return max(run(PYTHON, "-m", *tool.split()) for tool in tools)


def docs() -> int:
    install("docs", "test", "examples")
    log("building docs/_build/html/index.html")
    options = ("-q", "-W", "--keep-going", "-b", "html", "-d", "docs/_build/doctrees")
    status = run(PYTHON, "-m", "sphinx", *options, "docs", "docs/_build/html")
    log("running the code of the pages")
    return max(
        status, run(PYTHON, "-m", "pytest", "-q", "-n", "2", "-m", "docs", "tests/test_readme.py")
    )


def package() -> int:
    install("test")
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    log("building the sdist and from it the wheel, into dist")
    if run(PYTHON, "-m", "build", "--outdir", "dist") != 0:
        return 1
    (wheel,) = (ROOT / "dist").glob("*.whl")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_environment(folder / "venv")
        python = interpreter(folder / "venv")
        log(f"installing {wheel.name} into an empty environment")
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        if run(*pip, f"{wheel}[examples]") != 0:
            return 1
        shutil.copytree(ROOT / "examples", folder / "examples")
        status = run(python, "-m", "vijax", cwd=folder)
        return status or run(python, "examples/quickstart.py", cwd=folder)


def bench(name: str = "", *args: str) -> int:
    names = sorted(path.stem for path in ROOT.glob("bench/[!_]*.py"))
    if name not in names:
        print(f"unknown benchmark {name!r}; available: {', '.join(names)}", file=sys.stderr)
        return 2
    install("bench")
    log(f"running bench/{name}.py")
    return run(PYTHON, "-m", f"bench.{name}", *args)


def main(command: str = "--help", *args: str) -> int:
    commands = {f.__name__: f for f in (quickstart, test, check, docs, package, bench)}
    if command in ("-h", "--help", "help"):
        print(__doc__.strip())
        return 0
    if command not in commands:
        print(f"unknown command {command!r}; available: {', '.join(commands)}", file=sys.stderr)
        return 2
    if args and command in ("check", "docs", "package"):
        print(f"{command}: expected no arguments, got {' '.join(args)}", file=sys.stderr)
        return 2
    return commands[command](*args)


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)

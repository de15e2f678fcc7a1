"""The parts of the library import one another in one direction only.

Every import counts, wherever it stands: at the top of a file, inside a function, under
TYPE_CHECKING, or as a literal `importlib.import_module("vijax...")`.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "vijax"

# Lowest first. A part (a module or a sub-package of vijax) may import any part of a lower layer.
# Within its own layer it may import the others only where the layer says "together".
LAYERS = [
    (
        "together",
        {
            "_contracts",
            "_discrete",
            "_errors",
            "_history",
            "_identity",
            "_interrupt",
            "_jaxpr",
            "_kernel",
            "_keys",
            "_locals",
            "_memory",
            "_mixed",
            "_networks",
            "_permutation",
            "_spread",
            "_stein",
            "_version",
        },
    ),
    ("apart", {"conjugate", "data", "diagnostics", "guides", "model", "nn", "objectives"}),
    ("apart", {"algorithms", "solvers"}),
    ("apart", {"_batches", "_blocks", "_loop", "_options", "_progress", "_starts", "_stopping"}),
    ("apart", {"_arrangement", "_problem", "_scores"}),
    ("apart", {"_engine"}),
    (
        "together",
        {
            "_begin",
            "_candidate",
            "_carried",
            "_centring",
            "_checkpoint",
            "_compare",
            "_covariance",
            "_dependence",
            "_draws",
            "_evidence",
            "_export",
            "_ladder",
            "_least",
            "_loo",
            "_modes",
            "_outcome",
            "_pointwise",
            "_posterior",
            "_refining",
            "_routes",
            "_storage",
            "_summary",
        },
    ),
    ("apart", {"_fit", "_stack"}),
    ("apart", {"__init__"}),
    ("apart", {"__main__", "plot"}),
]

# Who may import what from outside; a package that is not named here is free to all.
RESERVED = {
    "numpyro": {"model", "nn", "guides.numpyro", "_nuts", "_export"},
    "arviz_plots": {"plot"},
    "matplotlib": {"plot"},
    "sklearn": set(),
}

LEVEL = {part: level for level, (_, parts) in enumerate(LAYERS) for part in parts}


def module_name(path: Path, package: Path) -> str:
    """The dotted name inside the package: `guides.normal`, `guides`, `_fit`, `__init__`."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imported_names(path: Path, package: Path) -> Iterator[tuple[int, str]]:
    """The line and the absolute dotted name of everything that a file imports."""
    folder = (package.name, *path.relative_to(package).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                yield from ((node.lineno, alias.name) for alias in node.names)
            case ast.ImportFrom():
                base = folder[: len(folder) - node.level + 1] if node.level else ()
                source = ".".join((*base, *filter(None, [node.module])))
                yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name


def imported_part(name: str) -> str:
    """The part of the package that an absolute name inside it belongs to."""
    first = name.split(".")[1] if "." in name else "__init__"
    # `from vijax import fit`: not a part of its own, so it is the public face that is imported.
    return first if first in LEVEL else "__init__"


def objection(module: str, name: str, package: str) -> str | None:
    """Why a module may not import an absolute name, or None if it may."""
    part, (root, *_) = module.split(".")[0], name.split(".")
    if root != package:
        allowed = RESERVED.get(root)
        if allowed is None or any(module == a or module.startswith(f"{a}.") for a in allowed):
            return None
        return f"only {', '.join(sorted(allowed)) or 'nothing here'} may import {root}"
    other = imported_part(name)
    if other == part or LEVEL[other] < LEVEL[part]:
        return None
    if LEVEL[other] == LEVEL[part]:
        together = LAYERS[LEVEL[part]][0] == "together"
        return None if together else f"{part} and {other} are kept apart"
    return f"{part} is below {other}"


def violations(package: Path) -> list[str]:
    """One line for each import that breaks the order, and for each part without a layer."""
    found = []
    for path in sorted(package.rglob("*.py")):
        module, where = module_name(path, package), path.relative_to(package.parent).as_posix()
        if module.split(".")[0] not in LEVEL:
            found.append(f"{where}: give {module.split('.')[0]!r} a place in LAYERS")
            continue
        for line, name in imported_names(path, package):
            reason = objection(module, name, package.name)
            if reason:
                found.append(f"{where}:{line}: imports {name}, but {reason}")
    return found


def test_imports_run_one_way():
    assert violations(PACKAGE) == []


def write_tree(root: Path, files: dict[str, str]) -> Path:
    package = root / "vijax"
    for name, source in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return package


LEGAL = {
    "__init__.py": "from vijax._fit import fit\nfrom vijax import guides",
    "_fit.py": "from vijax import _engine, guides\nimport vijax._posterior",
    "_posterior.py": "from vijax import _export",
    "_export.py": "from vijax import _posterior\nimport numpyro",
    "_engine.py": "from .algorithms.gradient import Gradient",
    "_contracts.py": "from vijax._errors import VijaxError",
    "_errors.py": "import jax",
    "algorithms/gradient.py": "from ..guides import normal\nfrom vijax.objectives import elbo",
    "guides/__init__.py": "from vijax.guides.normal import Normal\nfrom . import normal",
    "guides/normal.py": "from vijax._contracts import Guide",
    "guides/numpyro.py": "import numpyro.infer",
    "guides/flow/__init__.py": "from ..normal import Normal",
    "model/trace.py": "from numpyro import handlers",
}


def test_a_legal_tree_passes(tmp_path):
    assert violations(write_tree(tmp_path, LEGAL)) == []


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("_engine.py", "import vijax._fit", "_engine is below _fit"),
        ("_engine.py", "from vijax import fit", "_engine is below __init__"),
        ("_engine.py", "import vijax", "_engine is below __init__"),
        ("_errors.py", "from . import guides", "_errors is below guides"),
        ("guides/normal.py", "from ..model import trace", "guides and model are kept apart"),
        ("guides/flow/spline.py", "from ... import model", "guides and model are kept apart"),
        ("guides/__init__.py", "from ..model import trace", "guides and model are kept apart"),
        ("solvers/laplace.py", "import vijax.algorithms", "solvers and algorithms are kept apart"),
        ("objectives/elbo.py", "def f():\n  from vijax import _engine", "is below _engine"),
        (
            "model/trace.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  from vijax._fit import fit",
            "model is below _fit",
        ),
        (
            "data/arrays.py",
            "import importlib\nimportlib.import_module('vijax._engine')",
            "data is below _engine",
        ),
        ("guides/normal.py", "import numpyro.distributions as dist", "may import numpyro"),
        ("guides/numpyro_extra.py", "import numpyro", "may import numpyro"),
        ("_posterior.py", "def plot():\n  import matplotlib.pyplot", "may import matplotlib"),
        ("_novel.py", "", "give '_novel' a place in LAYERS"),
    ],
)
def test_a_violation_is_found(tmp_path, name, source, complaint):
    found = violations(write_tree(tmp_path, {**LEGAL, name: source}))
    assert len(found) == 1
    assert found[0].startswith(f"vijax/{name}")
    assert complaint in found[0]

"""The rooms of the library: imports run one way, nothing is too big, the root stays small.

Every import counts, wherever it stands: at the top of a file, inside a function, under
TYPE_CHECKING, or as a literal `importlib.import_module("vijax...")`.
"""

import ast
import functools
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "vijax"

# Lowest first. A room (a folder of vijax, or a file at its root) may import rooms of lower layers
# only: neither a higher one nor another of its own layer.
LAYERS = [
    {"runtime", "families", "_version"},
    {"contracts"},
    {"model", "diagnostics", "guides", "data", "nn"},
    {"objectives", "solvers"},
    {"algorithms", "engine"},
    {"storage", "auto"},
    {"posterior"},
    {"fitting"},
    {"estimators"},
    {"__init__"},
    {"__main__", "plot"},
]

# Who may import what from outside; a package that is not named here is free to all.
RESERVED = {
    "numpyro": {"model", "guides.numpyro", "nn"},
    "arviz_plots": {"plot"},
    "matplotlib": {"plot"},
    "orbax": {"storage"},
    "sklearn": {"estimators"},
}

# Own modules that import something slow (pandas, flax, pymc): imported where they are needed.
SLOW = {
    "vijax.model.pymc.convert",
    "vijax.nn",
    "vijax.posterior.many.table",
    "vijax.posterior.tables",
}

MOST_ENTRIES, MOST_FLOORS, MOST_LINES, MOST_LINES_OF_A_CLASS = 22, 12, 400, 300

LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def module_name(path: Path, package: Path) -> str:
    """The dotted name inside the package: `guides.flow.spline`, `guides`, `__init__`."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file's syntax tree; parsing takes most of the time of these tests."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imported_names(path: Path, package: Path) -> Iterator[tuple[int, str]]:
    """The line and the absolute dotted name of everything that a file imports."""
    folder = (package.name, *path.relative_to(package).parent.parts)
    for node in nodes(path):
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


def imported_room(name: str) -> str:
    """The room of the package that an absolute name inside it belongs to."""
    first = name.split(".")[1] if "." in name else "__init__"
    # `from vijax import fit`: not a room of its own, so it is the public face that is imported.
    return first if first in LEVEL else "__init__"


def objection(module: str, name: str, package: str) -> str | None:
    """Why a module may not import an absolute name, or None if it may."""
    room, (root, *_) = module.split(".")[0], name.split(".")
    if root != package:
        allowed = RESERVED.get(root)
        if allowed is None or any(module == a or module.startswith(f"{a}.") for a in allowed):
            return None
        return f"only {', '.join(sorted(allowed)) or 'nothing here'} may import {root}"
    other = imported_room(name)
    if other == room or LEVEL[other] < LEVEL[room]:
        return None
    if LEVEL[other] == LEVEL[room]:
        return f"{room} and {other} are of one layer"
    return f"{room} is below {other}"


def violations(package: Path) -> list[str]:
    """One line for each import that breaks the order, and for each room without a layer."""
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


def file_graph(package: Path) -> dict[str, set[str]]:
    """By module of the package, the modules of it that it imports."""
    paths = {module_name(path, package): path for path in package.rglob("*.py")}
    modules = {name: f"{package.name}.{name}".removesuffix(".__init__") for name in paths}
    names = {dotted: name for name, dotted in modules.items()}
    graph = {}
    for name, path in paths.items():
        found = set()
        for _, imported in imported_names(path, package):
            known = (imported, imported.rpartition(".")[0])
            found |= {names[one] for one in known[: 1 if imported in names else 2] if one in names}
        graph[name] = found - {name}
    return graph


def circle(package: Path) -> list[str]:
    """Modules that import one another in a circle, if there are any."""
    try:
        graphlib.TopologicalSorter(file_graph(package)).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def floors(package: Path) -> int:
    """Rooms in the longest chain in which each imports the next."""
    rooms: dict[str, set[str]] = {}
    for module, imported in file_graph(package).items():
        room = module.split(".")[0]
        rooms.setdefault(room, set()).update(name.split(".")[0] for name in imported)

    @functools.cache
    def height(room: str) -> int:
        return 1 + max((height(other) for other in rooms[room] - {room}), default=0)

    return max(map(height, rooms))


def test_imports_run_one_way():
    assert violations(PACKAGE) == []
    assert circle(PACKAGE) == []
    assert floors(PACKAGE) <= MOST_FLOORS


def test_own_modules_are_imported_at_the_top():
    hidden = [
        f"{path.name}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        for node in nodes(path)
        if isinstance(node, ast.ImportFrom) and node.col_offset > 0
        if (node.module or "").split(".")[0] == PACKAGE.name and node.module not in SLOW
    ]
    assert hidden == []


def test_the_root_holds_rooms():
    entries = [path for path in PACKAGE.iterdir() if not path.name.startswith("__pycache__")]
    files = {path.name for path in entries if path.is_file()}
    assert files == {"__init__.py", "__main__.py", "_version.py", "py.typed"}
    assert len(entries) <= MOST_ENTRIES


def test_nothing_is_too_big():
    for path in PACKAGE.rglob("*.py"):
        assert path.read_text(encoding="utf-8").count("\n") <= MOST_LINES, path
        for node in nodes(path):
            if isinstance(node, ast.ClassDef):
                assert node.end_lineno - node.lineno < MOST_LINES_OF_A_CLASS, (path, node.name)


def write_tree(root: Path, files: dict[str, str]) -> Path:
    package = root / "vijax"
    for name, source in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return package


LEGAL = {
    "__init__.py": "from vijax.fitting.fit import fit\nfrom vijax import guides",
    "fitting/fit.py": (
        "from vijax.engine import engine\nfrom vijax import guides\nimport vijax.posterior.files"
    ),
    "posterior/files.py": "from vijax.storage import codec",
    "storage/codec.py": "import orbax.checkpoint",
    "engine/engine.py": "from ..contracts.target import Target",
    "contracts/target.py": "from vijax.runtime.errors import VijaxError",
    "runtime/errors.py": "import jax",
    "algorithms/gradient.py": "from ..guides import normal\nfrom vijax.objectives import elbo",
    "guides/__init__.py": "from vijax.guides.normal import Normal\nfrom . import normal",
    "guides/normal.py": "from vijax.contracts import Guide",
    "guides/numpyro.py": "import numpyro.infer",
    "guides/flow/__init__.py": "from ..normal import Normal",
    "model/trace.py": "from numpyro import handlers",
}


def test_a_legal_tree_passes(tmp_path):
    package = write_tree(tmp_path, LEGAL)
    assert violations(package) == []
    assert circle(package) == []
    assert floors(package) == 5  # __init__, fitting, engine, contracts, runtime


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("engine/loop.py", "import vijax.fitting", "engine is below fitting"),
        ("engine/loop.py", "from vijax import fit", "engine is below __init__"),
        ("engine/loop.py", "import vijax", "engine is below __init__"),
        ("runtime/errors.py", "from .. import guides", "runtime is below guides"),
        ("guides/normal.py", "from ..model import trace", "guides and model are of one layer"),
        ("guides/flow/spline.py", "from ... import model", "guides and model are of one layer"),
        ("guides/__init__.py", "from ..model import trace", "guides and model are of one layer"),
        ("solvers/mode.py", "import vijax.objectives", "solvers and objectives are of one layer"),
        ("objectives/elbo.py", "def f():\n  from vijax import engine", "is below engine"),
        (
            "model/trace.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  from vijax.fitting import fit",
            "model is below fitting",
        ),
        (
            "data/arrays.py",
            "import importlib\nimportlib.import_module('vijax.engine')",
            "data is below engine",
        ),
        ("guides/normal.py", "import numpyro.distributions as dist", "may import numpyro"),
        ("guides/numpyro_extra.py", "import numpyro", "may import numpyro"),
        ("posterior/files.py", "def plot():\n  import matplotlib.pyplot", "may import matplotlib"),
        ("novel.py", "", "give 'novel' a place in LAYERS"),
    ],
)
def test_a_violation_is_found(tmp_path, name, source, complaint):
    found = violations(write_tree(tmp_path, {**LEGAL, name: source}))
    assert len(found) == 1
    assert found[0].startswith(f"vijax/{name}")
    assert complaint in found[0]


def test_a_circle_is_found(tmp_path):
    files = {
        "guides/one.py": "from vijax.guides import two",
        "guides/two.py": "import vijax.guides.one",
    }
    assert set(circle(write_tree(tmp_path, {**LEGAL, **files}))) == {"guides.one", "guides.two"}

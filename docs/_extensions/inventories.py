"""Inventories of other projects' documentation, written here from `docs/inventories/*.txt`.

Intersphinx would fetch them, and a build needs no network. A line of a file is

    numpyro.sample py:function primitives.html#@

the name that users write, its kind, and its place on the project's site, in which `$` stands for
the name and `@` for the name at the place of its definition, here `numpyro.primitives.sample`.
"""

import functools
import importlib
import zlib
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "inventories"


def defining_name(name: str) -> str:
    """Where a name is defined; the name itself if it says so nowhere, or is not installed."""
    module, _, attribute = name.rpartition(".")
    try:
        found = importlib.import_module(module)
    except ImportError:
        module, _, outer = module.rpartition(".")
        attribute = f"{outer}.{attribute}"
        try:
            found = importlib.import_module(module)
        except (ImportError, ValueError):
            return name
    found = functools.reduce(
        lambda value, part: getattr(value, part, None), attribute.split("."), found
    )
    place = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    return ".".join(place) if all(place) else name


def inventory(text: str, project: str) -> bytes:
    """The text in the format of Sphinx's `objects.inv`, version 2."""
    entries = {}
    for name, kind, place in (line.split() for line in text.splitlines()):
        defined = name if kind == "py:module" else defining_name(name)
        place = place.replace("$", name).replace("@", defined)
        # Under both names, as annotations and inspected code have the second.
        entries |= {each: f"{each} {kind} 1 {place} -" for each in (defined, name)}
    head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version:\n# The rest is zlib.\n"
    return head.encode() + zlib.compress("\n".join(entries.values()).encode() + b"\n")


def write(app, config):
    folder = Path(app.outdir).parent / "inventories"
    folder.mkdir(parents=True, exist_ok=True)
    for project, (address, _) in config.intersphinx_mapping.items():
        path = folder / f"{project}.inv"
        path.write_bytes(inventory((FOLDER / f"{project}.txt").read_text("utf-8"), project))
        config.intersphinx_mapping[project] = (address, str(path))


def setup(app):
    """Called by Sphinx."""
    app.connect("config-inited", write, priority=100)  # before intersphinx reads the mapping
    return {"parallel_read_safe": True}

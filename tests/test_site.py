"""The documentation site has a place for everything, without building it."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import vijax

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
MODULES = {
    "vijax": vijax,
    "vijax.callbacks": vijax.callbacks,
    "vijax.objectives.discrete": vijax.objectives.discrete,
    **{
        name: importlib.import_module(name)
        for name in (
            "vijax.algorithms",
            "vijax.contracts",
            "vijax.data",
            "vijax.estimators",
            "vijax.guides",
            "vijax.guides.flow",
            "vijax.objectives",
            "vijax.plot",
            "vijax.solvers",
        )
    },
}


def text(name):
    return (DOCS / name).read_text(encoding="utf-8")


def listed():
    """The names in `docs/api.md`, each a page of the reference, with their modules."""
    found, module = set(), ""
    for line in text("api.md").splitlines():
        current = re.match(r"\.\. currentmodule:: (\S+)", line)
        module = current[1] if current else module
        entry = re.match(r"   ~?([A-Za-z][\w.]*)$", line)
        if entry:
            found.add(f"{module}.{entry[1]}")
    return found


def entries(page):
    """The pages that the contents of a page list."""
    blocks = re.findall(r"^```\{toctree\}\n(.*?)^```$", text(page), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).splitlines()
    return [line for line in lines if line and not line.startswith(":")]


def test_the_reference_has_every_public_name():
    shown = {name.rpartition(".")[2] for name in listed()}
    missing = [
        f"{path}.{name}"
        for path, module in MODULES.items()
        for name, each in inspect.getmembers(module, lambda x: callable(x) or inspect.isclass(x))
        if name in module.__all__ and each.__module__.startswith("vijax.") and name not in shown
    ]
    assert missing == []


def test_the_reference_lists_nothing_else():
    for name in listed():
        module, _, short = name.rpartition(".")
        found = MODULES.get(module) or importlib.import_module(module)
        assert hasattr(found, short), name


def test_every_page_is_in_the_contents_once():
    sections = entries("index.md")
    pages = [*sections, *(page for section in sections for page in entries(f"{section}.md"))]
    pages.remove("gallery/*")
    assert sorted(pages) == sorted({path.stem for path in DOCS.glob("*.md")} - {"index", "README"})


def test_every_example_is_in_the_gallery():
    shown = re.findall(r"^(\w+): ", text("gallery.md"), re.MULTILINE)
    assert sorted(shown) == sorted({path.stem for path in ROOT.glob("examples/*.py")} - {"common"})


def test_the_citation_is_of_this_version():
    assert f"version: {vijax.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"{{{vijax.__version__}}}" in text("citing.md")


@pytest.mark.parametrize("path", sorted(DOCS.glob("inventories/*.txt")), ids=lambda path: path.stem)
def test_an_inventory_is_well_formed(path):
    for line in path.read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"[\w.]+ py:(module|class|function|method|data) \S+", line), line

"""What autodoc shows: public members, public names in types, no internal constructors."""

import functools
import importlib
import inspect
import itertools
import re
import sys
from pathlib import Path

from sphinx.util.nodes import make_refnode

import vijax

# Where users find two modules that are elsewhere: autodoc imports by name.
sys.modules["vijax.callbacks"] = vijax.callbacks
sys.modules["vijax.objectives.discrete"] = vijax.objectives.discrete
MODULES = (
    "vijax",
    "vijax.guides",
    "vijax.guides.flow",
    "vijax.objectives",
    "vijax.objectives.discrete",
    "vijax.callbacks",
    "vijax.algorithms",
    "vijax.solvers",
    "vijax.data",
    "vijax.estimators",
    "vijax.nn",
    "vijax.plot",
    "vijax.contracts",
)
# Types of internal arguments and results, which have no page: patterns of their full names.
UNDOCUMENTED = (r"vijax\..*", r"[A-Z]\w*")
BAR = re.compile(r"\|(?=(?:[^`]*`[^`]*`)*[^`]*$)")  # between cells, not inside of code
HIDDEN_COLON = "\ue000"
# Types of results, which have no shorter name: the page lists them with their modules.
RESULTS = [
    f"vijax.{name}"
    for name in re.findall(
        r"^   ~(\w+\.[\w.]+)$",
        (Path(__file__).parents[1] / "api.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
]


def public_objects():
    """Classes and functions by the name under which users import them."""
    found = {}
    for module in MODULES:
        names = importlib.import_module(module)
        for name in names.__all__:
            each = getattr(names, name)
            if getattr(each, "__module__", "").startswith("vijax.") and each not in found.values():
                found[f"{module}.{name}"] = each
    for name in RESULTS:
        module, _, short = name.rpartition(".")
        found[name] = getattr(importlib.import_module(module), short)
    return found


def defining_names():
    """By the place of a definition (`vijax.guides.delta.Delta`), the name that users write."""
    found = {}
    for name, each in public_objects().items():
        place = f"{each.__module__}.{each.__qualname__}"
        found[place] = name
        for member in itertools.chain(*public_members().get(name, ((), ()))[:2]):
            found[f"{place}.{member}"] = f"{name}.{member}"
    return found


@functools.cache
def public_members():
    """By class: its methods, its properties, and whether a base class has a page.

    In the order of the source. What such a base class declares is described there.
    """
    found = {}
    objects = public_objects()
    for name, cls in objects.items():
        if inspect.isclass(cls):
            bases = [base for base in cls.__mro__[1:] if base in objects.values()]
            described = {each for base in bases for each in vars(base)}
            found[name] = (*members(cls, described), bool(bases))
    return found


def members(cls, described):
    methods, properties = {}, {}
    for base in (base for base in cls.__mro__ if base.__module__.startswith("vijax.")):
        for name, value in vars(base).items():
            # scikit-learn gives its estimators methods of its own
            if name[0] == "_" or name in described or type(value).__module__[:7] == "sklearn":
                continue
            if isinstance(value, (property, functools.cached_property)):
                properties[name] = None
            elif inspect.isroutine(value):
                methods[name] = None
    return list(methods), list(properties)


def hide_constructor(app, what, name, obj, options, signature, annotation):
    """A class whose docstring names no arguments is made by the library, not by its users."""
    if what == "class" and not hasattr(obj, "_fields") and "Args:" not in (obj.__doc__ or ""):
        return "", ""
    return None


def hide_colon(app, what, name, obj, options, lines):
    """Napoleon reads the words before a colon in a property's summary as its type."""
    if what == "property" and lines:
        lines[0] = lines[0].replace(":", HIDDEN_COLON)


def show_colon(app, what, name, obj, options, lines):
    lines[:] = [line.replace(HIDDEN_COLON, ":") for line in lines]


def tables(app, what, name, obj, options, lines):
    """Markdown tables of docstrings as tables."""
    found = []
    for table, group in itertools.groupby(lines, lambda line: line.lstrip().startswith("|")):
        part = list(group)
        found += list_table(part) if table else part
    lines[:] = found


def list_table(rows):
    found = ["", ".. list-table::", "   :header-rows: 1", ""]
    for row in (row for row in rows if not re.fullmatch(r"[\s|:-]*", row)):
        cells = [cell.strip() for cell in BAR.split(row.strip().strip("|"))]
        found += [f"   {'* -' if n == 0 else '  -'} {cell}" for n, cell in enumerate(cells)]
    return [*found, ""]


def resolve(app, env, node, contnode):
    """Links the place of a definition to its public page."""
    name = app.config.codeautolink_inventory_map.get(node.get("reftarget"))
    entry = env.domains["py"].objects.get(name)
    if entry is None:
        return None
    place = (node["refdoc"], entry.docname, entry.node_id)
    return make_refnode(app.builder, *place, contnode, name)


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", hide_colon, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", show_colon, priority=600)  # after it
    app.connect("autodoc-process-docstring", tables)
    app.connect("autodoc-process-signature", hide_constructor)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}

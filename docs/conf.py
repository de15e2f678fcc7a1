"""The documentation site: `python dev.py docs` builds it, offline and without a warning."""

import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import vijax

project = "vijax"
author = "the vijax developers"
release = version = vijax.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "README.md"]  # README.md is the index of this folder on a code host
nitpicky = False
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
default_role = "code"  # of `single` backticks in docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_class_signature = "mixed"
napoleon_use_ivar = True
html_theme = "alabaster"
html_theme_options = {
    "description": "Variational inference for NumPyro models",
    "fixed_sidebar": True,
    "page_width": "1200px",  # lines of a hundred characters fit
    "code_font_size": "0.85em",
    "sidebar_width": "250px",
}
html_static_path = []
html_show_copyright = False


def keep_tables(app, what, name, obj, options, lines):
    """Renders Markdown tables of docstrings as literal blocks."""
    found = []
    for table, group in itertools.groupby(lines, lambda line: line.lstrip().startswith("|")):
        part = list(group)
        found += ["::", "", *(f"    {line}" for line in part), ""] if table else part
    lines[:] = found


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", keep_tables)

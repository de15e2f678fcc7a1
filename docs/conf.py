"""The documentation site: `python dev.py docs` builds it, offline and without a warning."""

import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "_extensions"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import reference

import vijax

project = "vijax"
author = "the vijax developers"
release = version = vijax.__version__

extensions = [
    "myst_parser",
    "notfound.extension",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_codeautolink",
    "sphinx_copybutton",
    "sphinx_design",
    # of docs/_extensions
    "anchors",
    "code_links",
    "gallery",
    "included",
    "inventories",
    "mathml",
    "reference",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
# README.md is the index of this folder on a code host.
exclude_patterns = ["_build", "_templates", "README.md"]
templates_path = ["_templates"]
nitpicky = True  # every reference resolves
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
default_role = "code"  # of `single` backticks in docstrings

autodoc_class_signature = "mixed"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
autosummary_context = {"public_members": reference.public_members()}
autosummary_ignore_module_all = False
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 88  # longer ones have one argument per line
napoleon_use_ivar = True
python_use_unqualified_type_names = True
nitpick_ignore_regex = [("py:.*", name) for name in reference.UNDOCUMENTED]

# Their inventories are in docs/inventories: only names that these pages use, read without network.
intersphinx_mapping = {
    "arviz_base": ("https://python.arviz.org/projects/base/en/latest/", None),
    "arviz_plots": ("https://python.arviz.org/projects/plots/en/latest/", None),
    "arviz_stats": ("https://python.arviz.org/projects/stats/en/latest/", None),
    "flax": ("https://flax.readthedocs.io/en/latest/", None),
    "jax": ("https://docs.jax.dev/en/latest/", None),
    "matplotlib": ("https://matplotlib.org/stable/", None),
    "numpy": ("https://numpy.org/doc/stable/", None),
    "numpyro": ("https://num.pyro.ai/en/stable/", None),
    "optax": ("https://optax.readthedocs.io/en/latest/", None),
    "pandas": ("https://pandas.pydata.org/docs/", None),
    "python": ("https://docs.python.org/3/", None),
    "scipy": ("https://docs.scipy.org/doc/scipy/", None),
    "xarray": ("https://docs.xarray.dev/en/stable/", None),
}
codeautolink_concat_default = True
codeautolink_inventory_map = reference.defining_names()

notfound_urls_prefix = "/"  # the 404 page is served at any depth, of a site at its host's root

html_theme = "pydata_sphinx_theme"
html_title = f"vijax {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_math_renderer = "mathml"
html_show_copyright = False
html_sidebars = {"index": []}
html_theme_options = {
    "article_header_start": ["breadcrumbs"],
    "footer_end": [],
    "footer_start": ["sphinx-version"],
    "header_links_before_dropdown": 6,
    "logo": {
        "alt_text": "vijax, first page",
        "image_dark": "_static/logo-dark.svg",
        "image_light": "_static/logo-light.svg",
        "text": f"vijax <small>{version}</small>",
    },
    "navigation_with_keys": False,
    "pygments_dark_style": "github-dark",
    "pygments_light_style": "tango",
    "secondary_sidebar_items": {
        "*": ["page-toc", "edit-this-page", "sourcelink"],
        "index": [],
        "api/*": ["page-toc"],  # written by the build, as are
        "gallery/*": ["page-toc"],
    },
    "show_nav_level": 2,
    "show_toc_level": 2,
}


def repository() -> dict[str, str]:
    """Where `edit this page` leads: the code host that this checkout was cloned from, if any."""
    command = ["git", "-C", str(Path(__file__).parent), "config", "--get", "remote.origin.url"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    address = re.search(r"github\.com[:/]([\w.-]+)/([\w.-]+?)(\.git)?$", found.stdout.strip())
    if address is None:
        return {}
    names = {"github_user": address[1], "github_repo": address[2]}
    return {**names, "github_version": "main", "doc_path": "docs"}


html_context = repository()
html_theme_options["use_edit_page_button"] = bool(html_context)

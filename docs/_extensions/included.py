"""Files at the root of the checkout (`README.md`, ...) as pages: their links lead to pages here."""

import re
from pathlib import Path

PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def rebase(app, relative_path, parent_docname, content):
    """Makes links, which are relative to the root, relative to `docs`."""

    def place(match):
        link = match[1]
        if ":" in link or link.startswith("#"):
            return match[0]
        if link.startswith("docs/"):
            return f"]({link.removeprefix('docs/')}"
        return f"]({PAGES.get(link, f'../{link}')}"

    if relative_path.parent == Path(".."):
        content[0] = re.sub(r"\]\(([^)#\s]+)", place, content[0])


def setup(app):
    """Called by Sphinx."""
    app.connect("include-read", rebase)
    return {"parallel_read_safe": True}

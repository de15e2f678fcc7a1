"""Every link from one page to another finds its place there.

Sphinx checks references when it reads pages; this checks what it wrote.
"""

import re
from pathlib import Path
from urllib.parse import unquote

from sphinx.errors import ExtensionError


def broken(root: Path) -> list[str]:
    """Links without a target, but for those from and to source code, whose pages may be older."""
    texts = {path: path.read_text("utf-8") for path in root.rglob("*.html")}
    places = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in texts.items()}
    found = []
    for path, text in texts.items():
        if path.name == "404.html" or path.relative_to(root).parts[0].startswith("_"):
            continue
        for link in re.findall(r'href="([^":]+)"', text):
            name, _, place = unquote(link).partition("#")
            target = (path.parent / name.partition("?")[0]).resolve() if name else path
            if "_modules" in target.parts:
                continue
            if not target.exists() or (place and place not in places.get(target, {place})):
                found.append(f"{path.relative_to(root)}: {link}")
    return sorted(set(found))


def check(app, exception):
    if exception is None and app.builder.name == "html":
        found = broken(Path(app.outdir).resolve())
        if found:
            raise ExtensionError("links without a target:\n" + "\n".join(found))


def setup(app):
    """Called by Sphinx."""
    app.connect("build-finished", check, priority=900)
    return {"parallel_read_safe": True}

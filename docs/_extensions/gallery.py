"""The gallery: a page for every script of `examples/`, executed with `--short` by the build.

What a script prints and draws is kept in `docs/_build/examples` and reused until the script, its
data or vijax's version change. A link to `../examples/NAME.py` leads to the page of that example.
"""

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib.image
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import vijax

DOCS = Path(__file__).resolve().parents[1]
PAGES = DOCS / "gallery"  # written here, and ignored by git
EXAMPLES = DOCS.parent / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "common")
logger = logging.getLogger(__name__)

PAGE = """\
# {title}

{subtitle}

{text}

![What the example draws](./{name}.png)

{sections}
## Output

```text
{output}
```

The output and the figure are those of a short run, `python examples/{name}.py --short`, when this
page was built. Download {{download}}`{name}.py <../../examples/{name}.py>`, or find it with
its data in `examples/` of the checkout.
"""
CARD = """\
:::{{grid-item-card}} {title}
:img-top: gallery/{name}-small.png
:img-alt: {title}
:link: gallery/{name}
:link-type: doc
{text}
:::
"""


def digest(name):
    """Of all that the output of an example depends on, but for the source of vijax."""
    found = hashlib.sha256(vijax.__version__.encode())
    for path in (EXAMPLES / f"{name}.py", EXAMPLES / "common.py", *EXAMPLES.glob("data/*.csv")):
        found.update(path.read_bytes())
    return found.hexdigest()


def execute(name, folder):
    """Runs an example, unless `folder` has what it printed and drew."""
    output, stamp = folder / f"{name}.txt", folder / f"{name}.digest"
    if stamp.exists() and stamp.read_text() == digest(name):
        return
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--short"]
    path = os.pathsep.join([str(DOCS.parent), os.environ.get("PYTHONPATH", "")])
    settings = {"MPLBACKEND": "Agg", "VIJAX_FIGURES": str(folder), "PYTHONPATH": path}
    result = subprocess.run(
        command, cwd=folder, env=os.environ | settings, capture_output=True, text=True
    )
    if result.returncode != 0:
        raise ExtensionError(f"examples/{name}.py failed:\n{result.stderr}")
    output.write_text(re.sub(r"^figure: .*\n", "", result.stdout, flags=re.MULTILINE), "utf-8")
    stamp.write_text(digest(name))


def describe(name):
    """Title, subtitle and text of an example, from its docstring."""
    lines = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text("utf-8")))
    first, _, text = lines.partition("\n")
    title, _, rest = re.sub(r"(?<=\?) |: |, ", "\n", first.rstrip("."), count=1).partition("\n")
    return title, f"*{rest[0].upper()}{rest[1:]}.*" if rest else "", text.strip()


def heading(node, source):
    """The section of a page to which a part of the script belongs."""
    if not isinstance(node, ast.FunctionDef):
        return "Set-up"
    if "numpyro.param(" in source:
        return "Guide"
    if "numpyro.sample(" in source:
        return "Model"
    known = {"main": "Fit", "load": "Data", "band": "Figure"}
    title = known.get(node.name, node.name.replace("_", " ").capitalize())
    return "Figure" if node.name.startswith("draw_") else title


def first_line(node):
    """The line on which a statement starts, with its decorators."""
    return min(each.lineno for each in (node, *getattr(node, "decorator_list", ())))


def sections(source):
    """The script's code below headings: set-up, model, fit, and its other functions."""
    lines = source.splitlines()
    body = [node for node in ast.parse(source).body if not isinstance(node, ast.If)][1:]
    starts = [first_line(node) - 1 for node in body]
    # comments above a statement belong to it
    for k, start in enumerate(starts):
        while lines[start - 1].startswith("#"):
            start -= 1
        starts[k] = start
    ends = [*starts[1:], next(n for n, line in enumerate(lines) if line.startswith("if __name__"))]
    found = []
    for node, start, end in zip(body, starts, ends, strict=True):
        code = "\n".join(lines[start:end])
        title = heading(node, code)
        if found and found[-1][0] == title:
            found[-1][1].append(code)
        else:
            found.append((title, [code]))
    return [(title, "\n".join(codes).strip()) for title, codes in found]


def pictures(name, folder):
    figure = folder / f"{name}.png"
    scale = 480 / matplotlib.image.imread(figure).shape[1]
    matplotlib.image.thumbnail(figure, PAGES / f"{name}-small.png", scale=scale)
    shutil.copy(figure, PAGES)


def write(name, folder):
    title, subtitle, text = describe(name)
    source = (EXAMPLES / f"{name}.py").read_text("utf-8")
    parts = (f"## {head}\n\n```python\n{code}\n```\n" for head, code in sections(source))
    output = (folder / f"{name}.txt").read_text("utf-8").strip()
    page = PAGE.format(
        name=name,
        title=title,
        subtitle=subtitle,
        text=text,
        sections="\n".join(parts),
        output=output,
    )
    path = PAGES / f"{name}.md"
    if not path.exists() or path.read_text("utf-8") != page:
        path.write_text(page, "utf-8")
        pictures(name, folder)


def build(app):
    folder = Path(app.outdir).parent / "examples"
    folder.mkdir(parents=True, exist_ok=True)
    PAGES.mkdir(exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: execute(name, folder), NAMES))
    for name in NAMES:
        write(name, folder)
    for path in PAGES.glob("*.md"):
        if path.stem not in NAMES:
            path.unlink()


class Gallery(SphinxDirective):
    """Cards of examples: a line `name: what it shows` each."""

    has_content = True

    def run(self):
        cards = []
        for line in self.content:
            name, _, text = line.partition(": ")
            shown = self.env.metadata[self.env.docname].setdefault("examples", "")
            self.env.metadata[self.env.docname]["examples"] = f"{shown} {name}"
            cards.append(CARD.format(name=name, title=describe(name)[0], text=text))
        grid = "::::{grid} 1 2 3 3\n:gutter: 3\n\n" + "\n".join(cards) + "::::\n"
        return self.parse_text_to_nodes(grid)


def check(app, env):
    """Every example has a card."""
    shown = {name for page in env.metadata.values() for name in page.get("examples", "").split()}
    for name in sorted(set(NAMES) - shown):
        logger.warning(
            f"examples/{name}.py: expected a line in a {{thumbnails}} block of gallery.md"
        )


def lead_to_pages(app, docname, source):
    """Links to scripts lead to their pages."""
    prefix = "" if docname.startswith("gallery/") else "gallery/"
    source[0] = re.sub(r"\]\(\.\./examples/(\w+)\.py\)", rf"]({prefix}\1.md)", source[0])


def setup(app):
    """Called by Sphinx."""
    app.add_directive("thumbnails", Gallery)
    app.connect("builder-inited", build)
    app.connect("source-read", lead_to_pages)
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True}

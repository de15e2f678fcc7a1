"""Names in running text (`vijax.fit`, `posterior.sample(...)`, `.report()`) link to the reference.

The pages stay plain Markdown, which a code host shows as well: a literal that is the name of
something public becomes a link, here or to another project's site.
"""

import pkgutil
import re

from docutils import nodes
from reference import public_objects
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

NAME = re.compile(r"(\.?[A-Za-z_][\w.]*)(?:\(.*\))?", re.DOTALL)
SHORT = {
    ".": "vijax.Posterior.",
    "posterior.": "vijax.Posterior.",
    "Posterior.": "vijax.Posterior.",
    "dist.": "numpyro.distributions.",
    "flow.": "vijax.guides.flow.",
    **{f"{name}.": f"vijax.{name}." for name in ("guides", "objectives", "algorithms", "plot")},
}
logger = logging.getLogger(__name__)


def meaning(text, classes):
    """The full name that a literal stands for, if it is one."""
    match = NAME.fullmatch(text)
    if match is None:
        return ""
    name = match[1]
    for short, full in SHORT.items():
        if name.startswith(short):
            rest = name.removeprefix(short)
            return full + (rest.partition(".")[0] if full == "vijax.Posterior." else rest)
    return name if "." in name else classes.get(name, "")


def exists(name, text):
    """Whether a name without a page is that of something internal, or no name: `.npy`."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return text.startswith(".") and "(" not in text
    return True


class LinkNames(SphinxPostTransform):
    """Wraps a literal that is a public name into a link."""

    default_priority = 200
    formats = ("html",)

    def run(self, **kwargs):
        names = public_objects()
        classes = {name.rpartition(".")[2]: name for name in names}
        classes = {short: name for short, name in classes.items() if short[0].isupper()}
        for literal in list(self.document.findall(nodes.literal)):
            if isinstance(literal.parent, (nodes.reference, nodes.title)):
                continue
            name = meaning(literal.astext(), classes)
            link = self.link(name, literal) if name else None
            if link is not None:
                literal.replace_self(link)
            elif name.startswith("vijax.") and not exists(name, literal.astext()):
                logger.warning(f"{literal.astext()}: {name} does not exist", location=literal)

    def link(self, name, literal):
        entry = self.env.domains["py"].objects.get(name)
        if entry is not None:
            place = (self.env.docname, entry.docname, entry.node_id)
            return make_refnode(self.app.builder, *place, literal.deepcopy(), name)
        for kind, found in self.env.intersphinx_inventory.items():
            if name in found and kind.startswith("py:"):
                uri = found[name].uri
                return nodes.reference("", "", literal.deepcopy(), internal=False, refuri=uri)
        return None


def setup(app):
    """Called by Sphinx."""
    app.add_post_transform(LinkNames)
    return {"parallel_read_safe": True}

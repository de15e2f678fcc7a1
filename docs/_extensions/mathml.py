"""Formulas as MathML, which browsers render by themselves: no script, no font, no network."""

import re

from docutils import nodes
from latex2mathml import converter


def convert(formula, display):
    found = converter.convert(formula, display=display)
    # The space after an operator's name, as in "log p", which TeX has and MathML has not.
    return re.sub(
        r"(<mi>[a-z]{3,}</mi>)(?=<m(?:i|n|sub|sup)>)", r'\1<mspace width="0.17em"/>', found
    )


def inline(writer, node):
    writer.body.append(convert(node.astext(), "inline"))
    raise nodes.SkipNode


def block(writer, node):
    formula = convert(node.astext(), "block")
    writer.body.append(f'<div class="formula">{formula}</div>')
    raise nodes.SkipNode


def setup(app):
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True}

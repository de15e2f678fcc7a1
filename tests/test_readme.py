"""The code in README.md and docs/ runs, and prints the output shown on the pages."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n*^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.\[,])[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|inf|nan)(?!\w)")


def words(text):
    return NUMBER.sub("#", text).split()


def lines(page):
    """The lines of printed text, with numbers and widths removed."""
    return [" ".join(words(line)) for line in page.strip().splitlines()]


@pytest.mark.parametrize(
    "page",
    [PAGES[0], *(pytest.param(page, marks=pytest.mark.docs) for page in PAGES[1:])],
    ids=lambda page: page.stem,
)
def test_code_runs_and_prints_the_output_shown(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    names = {"__name__": page.stem}
    for code, shown in blocks:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, str(page), "exec"), names)
        # `...` ends the comparison: the order of coordinates depends on the last digits.
        expected = lines(shown.partition("\n...")[0])
        printed = lines(out.getvalue())
        assert printed[: len(expected)] == expected


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_exist(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []


def test_numbers_are_distinguished_from_names():
    assert words("theta[3]  1.25 -3e-05 k-hat inf 89 %") == [
        "theta[3]",
        "#",
        "#",
        "k-hat",
        "#",
        "#",
        "%",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_into_a_page_find_their_heading(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        text = (page.parent / (target or page.name)).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        slugs = [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings]
        assert anchor in slugs, f"{target}#{anchor}"

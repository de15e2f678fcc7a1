"""Names and prose use the field's terms: none of the library's former private words is left."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What was said here, and what the literature says.
WORDS = {
    r"verdicts?": "status, diagnosis",
    r"mend(s|ed|ing)?": "correct",
    r"rungs?|ladders?": "stage, sequence of approximations",
    r"climb(s|ed|ing)?": "optimize, ascend, search",
    r"told|tells": "is given, determines, indicates, distinguishes",
    r"hears?|heard": "depends on",
    r"signals?": "terms, Markov blanket",
    r"apart": "separate",
    r"begun": "started",
    r"carried": "taken from the earlier fit, warm start",
    r"troubles?": "non-finite steps, failure",
    r"witness(es)?": "check",
    r"settled": "converged",
    r"leaps": "leapfrog steps",
    r"somebody|nobody|whoever": "the caller, the user",
    r"least values?": "lower bounds",
    r"for ever": "forever",
    r"at its word": "assumed",
    r"summed out|sums? out": "marginalized",
    r"cent(ring|red|re)|colour|behaviour|neighbour": "American spelling",
}
ALLOWED = re.compile(
    r"signal-to-noise|"
    r"import signal|scipy\.signal|signal\.SIG|signal\.signal|signal\.getsignal|signal\.default"
)
PAGES = [
    *sorted(ROOT.glob("vijax/**/*.py")),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("examples/*.py")),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
]


@pytest.mark.parametrize("words", WORDS)
def test_no_private_word_is_left(words):
    pattern = re.compile(rf"(?<![A-Za-z])({words})(?![A-Za-z])", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()} (say: {WORDS[words]})"
        for path in PAGES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line) and not ALLOWED.search(line)
    ]
    assert found == []

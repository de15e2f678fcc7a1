"""The table of examples: a wrong mean under a good status is marked, noise of NUTS is not."""

import numpy as np
import pytest

pytest.importorskip("bench.numpyro_examples")  # an installed wheel has no benchmarks

from bench import numpyro_examples
from bench.examples.case import Example

REFERENCE = {"a": np.random.default_rng(0).normal(2.0, 0.5, (2, 500))}


def compared(shift, status="certified", reference=REFERENCE, sites=None):
    draws = {"a": np.random.default_rng(1).normal(2.0 + shift, 0.5, 4000)}
    return numpyro_examples._compared(Example(None, compared=sites), draws, reference, status)


def test_a_wrong_mean_is_false_where_the_status_is_good():
    assert not compared(0.0)["false"]
    found = compared(0.4)
    assert found["false"]
    assert found["site"] == "a"
    assert abs(found["error"] - 0.8) < 0.1
    assert numpyro_examples._row("x", {"status": "certified"} | found)[-1] == "FALSE"
    assert not compared(0.4, "approximate")["false"]


def test_chains_that_disagree_are_no_reference():
    apart = {"a": REFERENCE["a"] + np.array([[0.0], [9.0]])}
    found = compared(0.4, reference=apart)
    assert not found["false"]
    row = numpyro_examples._row("x", {"status": "certified"} | found)
    assert row[-1] == "NUTS did not mix"


def test_only_the_chosen_sites_are_compared():
    assert compared(5.0, sites=("b",))["error"] == 0.0

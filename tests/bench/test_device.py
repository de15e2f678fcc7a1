"""The run on an accelerator goes through on a CPU, keeps what it has, and survives failures."""

import json

import jax
import pytest

pytest.importorskip("bench.device")  # an installed wheel has no benchmarks

from bench import device
from bench.accelerator import agreement, roofline
from bench.accelerator.sizes import SHORT
from vijax import guides, objectives


@pytest.mark.slow
def test_short_run():
    results = device.run(device.SECTIONS, SHORT, 1.0, lambda results: None)
    assert [len(found) for found in results.values()] == [1] * len(device.SECTIONS)
    for found in results.values():
        (row,) = found.values()
        assert "error" not in row, row
    (answer,) = results["agreement with the CPU"].values()
    assert answer["agrees"]
    assert answer["largest difference"] == 0
    (network,) = results["roofline"].values()
    products = 6 * SHORT.batches[0] * (784 * 8 + 8 * 8 + 8 * 10)  # forward, and backward twice
    assert 0.6 * products < 1e9 * network["GFLOP per step"] < 3 * products
    (trips,) = results["round trips"].values()
    assert 0 < trips["round trips"] <= trips["device calls"] < trips["points"]
    assert 0 < trips["share of round trips"] < 1


@pytest.mark.slow
def test_more_of_each_section():
    results = device.run(device.SECTIONS, SHORT._replace(most=3), 3.0, lambda results: None)
    assert not [row for found in results.values() for row in found.values() if "error" in row]


def test_results_are_kept_whatever_happens(tmp_path, capsys):
    path = tmp_path / "results" / "device.json"

    def fails(left):
        raise ValueError("no such device")

    def kept(left):
        assert json.loads(path.read_text())["results"]["first"]["one"]["error"]
        return {"value": 1.0}

    sections = {
        "first": (lambda sizes: {"one": fails, "two": kept}, 0.5),
        "second": (lambda sizes: {"three": kept}, 0.5),
    }
    results = device.run(sections, SHORT._replace(most=None), 1.0, lambda r: device.write(path, r))
    assert results["first"]["one"]["error"] == "ValueError: no such device"
    assert results["second"]["three"]["value"] == 1.0
    stored = json.loads(path.read_text())
    assert stored["results"] == results
    assert stored["machine"]["platform"] == jax.default_backend()
    over = device.run(sections, SHORT._replace(most=None), 0.0, lambda results: None)
    assert over["second"] == {"three": {"left out": "no time left"}}
    device.show(over)
    assert "no time left" in capsys.readouterr().out


def test_every_guide_and_objective_is_compared():
    cases = agreement.section(SHORT)
    left_out = {"Stein", *agreement.SAME}  # the objective of svgd, other names
    assert {*guides.NAMES, *objectives.__all__} - left_out <= {*cases}
    assert {*agreement.FIRST, *agreement.SAME.values()} <= {*cases}


def test_a_wrong_answer_is_seen():
    right = agreement.Answer(-1.0, 0.01, {"x": jax.numpy.arange(1000.0)}, 0.0)
    wrong = right._replace(draws={"x": jax.numpy.arange(1000.0) + 60})
    assert max(dict(agreement.errors(right, right)).values()) == 0
    found = dict(agreement.errors(wrong, right))
    assert found["median of x"] > 3 > found["spread of x"] == 0
    assert dict(agreement.errors(right._replace(elbo=float("nan")), right))["elbo"] == float("inf")


def test_peaks_of_devices_are_in_plausible_units():
    for bfloat16, float32, bandwidth in roofline.DATASHEETS.values():
        assert 1e14 < float32 <= bfloat16 < 2e15
        assert 5e11 < bandwidth < 1e13

"""Summary, comparison, report and diagnostics as tables, text, HTML and fields."""

import io
import pickle
import re

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest

import vijax
from vijax.posterior.summary import Weighted, summarize

RNG = np.random.default_rng(0)
GROUP = np.arange(36) % 12
Y = (RNG.normal(size=12)[GROUP] + RNG.normal(size=36)).astype(np.float32)
LABELS = ["<i>", *"bcdefghijkl"]


def model(group, y=None):
    mu = numpyro.sample("<b>", dist.Normal(0.0, 3.0))
    with numpyro.plate("groups", 12):
        effect = numpyro.sample("effect", dist.Normal(mu, 1.0))
    with numpyro.plate("rows", len(group)):
        mean = numpyro.deterministic("mean", effect[group])
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


@pytest.fixture(scope="module")
def posterior():
    return vijax.fit(model, GROUP, Y, coords={"groups": LABELS}, progress_bar=False)


def test_a_summary_has_the_moments_of_weighted_draws():
    draws = RNG.normal(size=(400, 3))
    weights = RNG.dirichlet(np.ones(400))
    labels = {"a": ["a[0]", "a[1]", "a[2]"]}
    found = summarize(Weighted({"a": draws}, weights), {"a": draws}, labels, ci_prob=0.5)
    assert list(found.columns[2:4]) == ["25%", "75%"]
    np.testing.assert_allclose(found["mean"], weights @ draws)
    centered = draws - weights @ draws
    np.testing.assert_allclose(found["sd"], np.sqrt(weights @ centered**2))
    np.testing.assert_allclose(found["mcse"], np.sqrt(weights**2 @ centered**2))
    np.testing.assert_allclose(found["guide_sd"], draws.std(0, ddof=1))
    for name, prob in (("25%", 0.25), ("75%", 0.75)):
        below = weights @ (draws <= found[name].to_numpy())
        assert np.all((below >= prob) & (below < prob + weights.max()))


def test_a_summary_is_a_data_frame(posterior):
    summary = posterior.summary()
    assert (summary.status, summary.ci_prob) == (posterior.status, 0.89)
    draws = posterior.sample(8000, rng_key=3)["effect"]
    error = 5 * summary.loc["effect[b]", "sd"] / np.sqrt(4000)
    assert summary.loc["effect[b]", "mean"] == pytest.approx(draws[:, 1].mean(), abs=error)
    again = pd.read_csv(io.StringIO(summary.to_csv()), index_col=0)
    pd.testing.assert_frame_equal(again, pd.DataFrame(summary))
    pickled = pickle.loads(pickle.dumps(summary))
    assert (str(pickled), pickled.status) == (str(summary), summary.status)
    largest = summary[summary["sd"] > 0.3].sort_values("sd", ascending=False)
    assert largest["sd"].is_monotonic_decreasing
    assert str(largest.head(2)).splitlines()[0].split() == list(summary.columns)
    assert "status" not in str(largest)


def test_large_sites_are_abridged_in_print_only(posterior):
    summary = posterior.summary()
    assert len(summary) == 1 + 12 + 36
    shown = str(summary)
    assert "mean: 30 more" in shown
    assert "mean[35]" in shown
    assert "mean[20]" not in shown
    assert len(shown.splitlines()) == 1 + 1 + 7 + 7 + 1


def test_sites_are_selected_by_name_scalar_or_pattern(posterior):
    def selected(sites):
        return list(posterior.summary(sites).index)

    assert selected("<b>") == ["<b>"]
    assert selected(["effect[c]", "<b>", "effect[b]"]) == ["effect[c]", "<b>", "effect[b]"]
    assert selected("eff*") == [f"effect[{label}]" for label in LABELS]
    assert selected("mean[1?]") == [f"mean[{i}]" for i in range(10, 20)]
    with pytest.raises(vijax.VijaxError, match=r"got 'efect'\. Did you mean 'effect'\?"):
        posterior.summary("efect")
    with pytest.raises(vijax.VijaxError, match=r"sites: expected names among .*got 'x"):
        posterior.summary(["<b>", "x*"])
    with pytest.raises(vijax.VijaxError, match=r"sites: expected names among .*got none"):
        posterior.summary([])
    with pytest.raises(KeyError, match=r"'<b>' is not a column .*\.loc"):
        posterior.summary()["<b>"]


def test_numbers_are_rounded_on_request(posterior):
    rounded = posterior.summary("<b>", round_to=1)
    exact = posterior.summary("<b>")
    np.testing.assert_array_equal(rounded, np.round(exact, 1))
    assert re.fullmatch(r"<b>(\s+-?\d+\.\d)+", str(rounded).splitlines()[1])


def test_the_report_says_what_the_diagnostics_hold(posterior):
    found, report = posterior.diagnostics, posterior.report()
    assert found.status == posterior.status
    assert (found.elbo, found.khat, found.converged) == (posterior.elbo, posterior.khat, True)
    assert f"ELBO: {found.elbo:.3f} ± {found.elbo_se:.2g} nats" in report
    flat = " ".join(report.split())
    assert all(" ".join(reason.split()) in flat for reason in found.reasons)
    assert f"{found.chains.num_chains} short HMC chains" in report
    corrections = found.corrections
    assert sorted(corrections.index) == sorted(["<b>", *(f"effect[{one}]" for one in LABELS)])
    rows = report.partition("largest first:\n")[2].splitlines()[1:11]
    for row, (label, exact) in zip(rows, corrections.iterrows(), strict=False):
        name, shift, ratio, chain_shift, _, error, *_ = row.split()
        assert name == label
        assert float(shift) == pytest.approx(exact["psis_shift"], abs=5e-4)
        assert float(ratio) == pytest.approx(exact["psis_sd_ratio"], abs=5e-4)
        assert float(chain_shift) == pytest.approx(exact["mcmc_shift"], abs=5e-4)
        assert float(error) == pytest.approx(exact["mcmc_shift_se"], abs=5e-4)
    largest = np.abs(corrections["mcmc_shift"]).max()
    assert largest == pytest.approx(found.chains.max_mean_shift)
    assert pickle.loads(pickle.dumps(report)) == report


def test_html_is_escaped_and_has_no_fixed_colors_of_text(posterior):
    pair = {"<u>": posterior, "other": posterior}
    for shown, tag in (
        (posterior.summary(), "<b>"),
        (posterior.summary().sort_values("sd"), "<i>"),
        (posterior.report(), "<i>"),
        (vijax.compare(pair, num_draws=500), "<u>"),
    ):
        html = shown._repr_html_()
        cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", html)
        escaped = tag.replace("<", "&lt;").replace(">", "&gt;")
        assert any(escaped in cell for cell in cells)
        assert not any(tag in cell for cell in cells)
    overview = posterior._repr_html_()
    assert posterior.status in overview
    assert f"{posterior.elbo:.3f}" in overview
    assert "background" not in overview
    assert "next" not in overview  # nothing is needed


def test_a_repr_is_one_short_line(posterior):
    assert re.fullmatch(
        rf"Posterior\({posterior.status}, FullRank\(init_scale=0.1\), dim 13, "
        r"ELBO -\d+\.\d\d ± [\d.]+\)",
        repr(posterior),
    )
    stacked = vijax.stack([posterior, posterior], "evidence")
    assert len(repr(stacked)) <= 100
    assert "Mixture(...)" in repr(stacked)

"""Figures show the numbers of the posterior."""

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import vijax
import vijax.plot
from vijax.plot import densities
from vijax.plot.scalars import scalars
from vijax.posterior.prior import prior_of

EFFECT = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERROR = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools(error, effect=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(error)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("effect", dist.Normal(theta, error), obs=effect)


@pytest.fixture(scope="module")
def automatic():
    return vijax.fit(schools, ERROR, EFFECT, progress_bar=False)


@pytest.fixture(scope="module")
def stepped():
    options = {"guide": "meanfield", "algorithm": "gradient", "num_steps": 500}
    return vijax.fit(schools, ERROR, EFFECT, progress_bar=False, **options)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def line(axes, label):
    """Data of the line whose label starts with `label`."""
    found = [each for each in axes.get_lines() if str(each.get_label()).startswith(label)]
    assert len(found) == 1
    return np.asarray(found[0].get_xdata()), np.asarray(found[0].get_ydata())


def drawn(figure):
    """Share of the figure's pixels that are not white."""
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    return (pixels < 200).any(axis=-1).mean()


def test_losses_and_the_reason_to_stop_are_those_of_the_fit(stepped):
    axes = vijax.plot.losses(stepped)
    steps, values = line(axes, "each step")
    np.testing.assert_array_equal(steps, np.arange(1, 501))
    np.testing.assert_array_equal(values, stepped.losses)
    at, average = line(axes, "average of 5 steps")
    assert at[0] == 5
    assert average[-1] == pytest.approx(stepped.losses[-5:].mean())
    assert line(axes, "final ELBO")[1] == pytest.approx(-stepped.elbo)
    assert axes.get_title(loc="left") == "stopped: num_steps=500 reached"
    low, high = axes.get_ylim()
    assert low < -stepped.elbo < high


def test_stages_have_a_row_for_every_attempt(automatic):
    axes = vijax.plot.stages(automatic)
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        one.stage for one in automatic.history
    ]
    shown = [mark.lines[0].get_xdata()[0] for mark in axes.containers]
    assert shown == pytest.approx([one.elbo for one in automatic.history])


def test_figures_that_do_not_apply_are_rejected_with_a_remedy(automatic, stepped):
    with pytest.raises(vijax.VijaxError, match=r"stages: .* Draw losses"):
        vijax.plot.stages(stepped)
    mode = vijax.fit(schools, ERROR, EFFECT, guide="map", progress_bar=False)
    with pytest.raises(vijax.VijaxError, match=r"losses: .* Draw stages"):
        vijax.plot.losses(mode)
    with pytest.raises(vijax.VijaxError, match="weights: expected"):
        vijax.plot.weights(mode)
    with pytest.raises(vijax.VijaxError, match="shifts: expected"):
        vijax.plot.shifts(mode)
    assert drawn(vijax.plot.report(mode)) > 0.01


def test_weights_show_k_hat_and_the_gap_between_elbo_and_evidence(automatic):
    axes = vijax.plot.weights(automatic)
    gap = automatic._result.assessment.importance.log_evidence - automatic.elbo
    assert line(axes, "log evidence")[0] == pytest.approx(gap, abs=1e-4)
    counts = sum(patch.get_height() for patch in axes.patches)
    assert counts == automatic._result.assessment.draws.log_q.size
    assert f"k-hat {automatic.khat:.2f}" in axes.get_title(loc="left")


def test_shifts_are_those_of_the_report_largest_first(automatic):
    means, sds = vijax.plot.shifts(automatic)
    names = [text.get_text() for text in means.get_yticklabels()]
    table = automatic.report().partition("largest first:\n")[2].splitlines()[1:]
    assert names == [row.split()[0] for row in table]
    first = automatic.space.coordinates().index(names[0])
    assert line(means, "PSIS")[0][0] == automatic._result.assessment.shift.mean[first]
    chains = sds.containers[0].lines[0].get_xdata()[0]
    assert chains == pytest.approx(automatic._result.assessment.check.log_sd[first])


def test_marginals_are_densities_of_posterior_guide_and_prior(automatic):
    figure = vijax.plot.marginals(automatic, ["mu", "tau"])
    for axes, site in zip(figure.axes, ("mu", "tau"), strict=True):
        draws = automatic.sample(4000, rng_key=5)[site]
        for label in ("corrected", "guide"):
            grid, density = line(axes, label)
            assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=0.02)
        grid, density = line(axes, "corrected")
        # two samples of 4,000, and what the smoothing adds
        error = 5 * draws.std() * np.sqrt(2 / 4000)
        assert np.trapezoid(grid * density, grid) == pytest.approx(draws.mean(), abs=error)
    grid, density = line(figure.axes[0], "prior")
    exact = stats.norm(0, 5).pdf(grid)
    inside = slice(20, -20)  # the ends in view are not those of the prior
    assert np.abs(density - exact)[inside].max() < 0.12 * exact.max()


def test_the_prior_is_drawn_at_the_fits_own_arguments(automatic):
    draws = prior_of(automatic._result).sample(4000)
    assert draws["theta"].shape == (4000, 8)
    deviation = draws["theta"] - draws["mu"][:, None]
    standard = deviation / draws["tau"][:, None]
    assert stats.kstest(standard[:, 0], "norm").pvalue > 1e-3
    assert stats.kstest(draws["tau"], stats.halfcauchy(scale=5).cdf).pvalue > 1e-3


def test_contours_enclose_the_stated_probabilities():
    rng = np.random.default_rng(0)
    x = rng.normal(size=4000)
    y = 0.95 * x + np.sqrt(1 - 0.95**2) * rng.normal(size=4000)
    xs, ys, density, levels = densities.contours(x, y, (0.5, 0.9))
    fresh = rng.multivariate_normal([0, 0], [[1, 0.95], [0.95, 1]], size=20_000)
    at = density[np.searchsorted(ys, fresh[:, 1]) % 150, np.searchsorted(xs, fresh[:, 0]) % 150]
    inside = [(at > level).mean() for level in levels]
    assert inside == pytest.approx([0.9, 0.5], abs=0.04)


def test_densities_stay_on_their_support():
    draws = np.random.default_rng(0).exponential(size=20_000)
    grid, density = densities.curve(draws, -1.0, 6.0)
    assert grid.min() >= 0
    assert np.abs(density - np.exp(-grid)).max() < 0.1


def test_pairs_share_their_axes(automatic):
    figure = vijax.plot.pair(automatic, ["mu", "tau", "theta[0]"])
    grid = np.array(figure.axes).reshape(3, 3)
    assert [axes.get_xlabel() for axes in grid[-1]] == ["mu", "tau", "theta[0]"]
    assert grid[2, 0].get_ylim() == grid[2, 1].get_ylim()
    assert grid[1, 0].get_xlim() == grid[2, 0].get_xlim() == grid[0, 0].get_xlim()
    points = grid[1, 0].get_lines()[0]
    assert np.corrcoef(points.get_data())[0, 1] == pytest.approx(
        np.corrcoef(
            automatic.sample(4000, rng_key=3)["mu"], automatic.sample(4000, rng_key=3)["tau"]
        )[0, 1],
        abs=5 / np.sqrt(800),
    )


def test_the_predictive_check_has_the_data_and_num_draws_draws(automatic):
    figure = vijax.plot.predictive(automatic, num_draws=20)
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == ["20 draws", "data"]
    lines = [each for each in figure.axes[0].get_lines() if len(each.get_xdata())]
    assert len(lines) == 21
    before = vijax.plot.predictive(vijax.prior(schools, ERROR, EFFECT), num_draws=20)
    assert len([each for each in before.axes[0].get_lines() if len(each.get_xdata())]) == 21


def test_the_report_has_every_reason(automatic, stepped):
    for posterior in (automatic, stepped):
        figure = vijax.plot.report(posterior)
        words = " ".join(text.get_text() for axes in figure.axes for text in axes.texts)
        words = " ".join(words.split())
        assert f"status: {posterior.status}" in words
        assert all(reason in words for reason in posterior._result.assessment.diagnosis.reasons)
        assert drawn(figure) > 0.02


def test_scalars_by_name(automatic):
    draws = {"a": np.arange(3.0), "b": np.arange(12.0).reshape(3, 2, 2)}
    assert list(scalars(automatic, draws, None, 3)) == ["a", "b[0,0]", "b[0,1]"]
    np.testing.assert_array_equal(scalars(automatic, draws, ["b[1,0]"], 3)["b[1,0]"], [2, 6, 10])
    with pytest.raises(ValueError, match=r"sites: expected names among \['a', 'b'\].*, got 'c'"):
        scalars(automatic, draws, ["c"], 3)
    with pytest.raises(ValueError, match="at most 3 scalars in one figure, got 4"):
        scalars(automatic, draws, ["b"], 3)


def test_without_matplotlib_the_import_error_has_a_remedy():
    code = "import sys; sys.modules['matplotlib'] = None; import vijax.plot"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert "ImportError: vijax.plot: expected matplotlib, which is not installed" in result.stderr


def test_matplotlib_settings_are_restored(automatic):
    before = dict(plt.rcParams)
    vijax.plot.weights(automatic)
    assert dict(plt.rcParams) == before


def test_comparisons_show_elpd_and_differences_with_standard_errors(automatic, stepped):
    found = vijax.compare({"automatic": automatic, "stepped": stepped}, num_draws=1000)
    for axes, name in zip(vijax.plot.compare(found), ("elpd", "elpd_diff"), strict=True):
        (mark,) = axes.containers
        np.testing.assert_array_equal(mark.lines[0].get_xdata(), found[name])
        ends = np.array([segment[:, 0] for segment in mark.lines[2][0].get_segments()])
        np.testing.assert_allclose(np.diff(ends, axis=1)[:, 0], 2 * found[f"{name}_se"])
    found["elpd"] = np.nan
    with pytest.raises(vijax.VijaxError, match="compare: expected models with pointwise"):
        vijax.plot.compare(found)


def test_words_of_topics():
    table = [[("sun", 0.5), ("rain", 0.2)], [("goal", 0.4), ("team", 0.3)]]
    panels = vijax.plot.topics(table).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["topic 0", "topic 1"]
    assert [label.get_text() for label in panels[1].get_yticklabels()] == ["goal", "team"]
    assert [bar.get_width() for bar in panels[0].patches] == [0.5, 0.2]
    with pytest.raises(vijax.VijaxError, match="at least one topic"):
        vijax.plot.topics([])

"""The interface of `fit`: defaults, option names and values, initial values, misuse."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import vijax
from tests import targets
from vijax import ModelError
from vijax.solvers import NAMES

Y = np.array([0.3, 1.9, -0.4, 2.2, 1.1], np.float32)


def model(y, scale=1.5):
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    sigma = numpyro.sample("sigma", dist.LogNormal(0.0, 0.3))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, scale * sigma), obs=y)


def fit(*args, **options):
    return vijax.fit(*args, **{"progress_bar": False, **options})


@pytest.mark.parametrize("name", ["gamma_poisson", "regression", "beta_binomial"])
def test_no_options_give_a_posterior_whose_evidence_brackets_the_truth(name):
    problem = targets.problem(name)
    posterior = fit(problem.model, *problem.args)
    assert posterior.status in ("certified", "corrected")
    assert posterior.elbo < problem.log_evidence + 5 * posterior.elbo_se + 1e-3
    found = posterior.importance()
    assert abs(found.log_evidence - problem.log_evidence) < 5 * found.log_evidence_se + 1e-3


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("n_steps", "num_steps"),
        ("progressbar", "progress_bar"),
        ("random_seed", "rng_key"),
        ("learning_rate", r"optimizer=optax.adam"),
        ("init_loc_fn", "init"),
        ("num_step", "num_steps"),
        ("scal", "scale"),
    ],
)
def test_the_right_name_is_suggested_for_a_misspelled_option(wrong, right):
    with pytest.raises(TypeError, match=rf"got '{wrong}'.*Did you mean '{right}"):
        fit(model, Y, **{wrong: 3})


def test_a_fit_inside_a_transformation_is_refused():
    def inside(y):
        return fit(model, y).elbo

    for transform, y in ((jax.jit, Y), (jax.vmap, np.stack([Y, Y])), (jax.grad, Y)):
        with pytest.raises(TypeError, match=r"argument 'y': .*fit cannot run inside jax\.jit"):
            transform(inside)(y)

    def no_data():
        numpyro.sample("mu", dist.Normal(0.0, 1.0))

    with pytest.raises(TypeError, match="fit: expected values, got a traced array"):
        jax.jit(lambda: fit(no_data).elbo)()


def test_an_exception_of_a_callback_says_where_it_came_from():
    def careless(state, losses, step):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        fit(model, Y, guide="meanfield", num_steps=20, callbacks=[careless])
    assert "careless raised this at step" in caught.value.__notes__[0]


def test_complex_observations_are_refused_by_site():
    with pytest.raises(ModelError, match=r"site 'y': expected a real log density, got complex64"):
        fit(model, Y.astype(np.complex64))


def clashing(y, guide=1.0):
    numpyro.sample("mu", dist.Normal(0.0, guide))
    numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def test_a_name_that_is_both_option_and_argument_is_rejected():
    with pytest.raises(
        TypeError, match=r"'guide' is an option of fit and an argument.*model_kwargs"
    ):
        fit(clashing, Y, guide="meanfield")
    posterior = fit(clashing, Y, guide="meanfield", model_kwargs={"guide": 0.5})
    assert np.exp(posterior.params.log_scale["mu"]) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"num_steps": 0}, ValueError, "num_steps: expected a positive integer"),
        (
            {"algorithm": "laplace", "checkpoint": "nowhere"},
            ValueError,
            "checkpoint: .* takes no gradient steps",
        ),
        ({"num_particles": 1.5}, ValueError, "num_particles: expected a positive integer"),
        ({"num_restarts": True}, ValueError, "num_restarts: expected a positive integer"),
        ({"max_seconds": -1}, ValueError, "max_seconds: expected a positive number"),
        ({"rng_key": "seed"}, TypeError, "rng_key: expected an int"),
        ({"rng_key": 1.5}, TypeError, "rng_key: expected an int"),
        ({"guide": "meanfeild"}, vijax.GuideError, "meanfield"),
        ({"algorithm": "adam"}, ValueError, "algorithm: expected 'auto', 'gradient', 'natural', "),
        ({"algorithm": "batch-and-match"}, ValueError, "Did you mean 'batch_and_match'"),
        ({"algorithm": 3}, TypeError, "algorithm: expected a name, an Algorithm or a Solver"),
        ({"algorithm": "mode", "num_steps": 9}, ValueError, "num_steps: ModeSolver.*no gradient"),
        ({"algorithm": "mode", "callbacks": [print]}, ValueError, "callbacks: ModeSolver"),
        (
            {"algorithm": "pathfinder", "objective": vijax.objectives.ELBO()},
            ValueError,
            "objective: it belongs to the algorithm Pathfinder",
        ),
        ({"optimizer": 0.01}, TypeError, "optimizer: expected an optax"),
        ({"objective": "elbo"}, TypeError, "objective: expected"),
        ({"callbacks": print}, TypeError, "callbacks: expected a sequence"),
        ({"init": 3}, TypeError, "init: expected initial values"),
        ({"init": {"nu": 1.0}}, vijax.ModelError, "init: expected sites among"),
        ({"init": {"mu": np.ones(2)}}, vijax.ModelError, r"init\['mu'\]: expected shape \(\)"),
        ({"init": {"sigma": -1.0}}, vijax.ModelError, r"init\['sigma'\].*support"),
        (
            {"objective": vijax.objectives.ELBO(), "num_particles": 3},
            ValueError,
            r"num_particles: set it in the objective",
        ),
    ],
)
def test_a_wrong_value_is_named(options, error, text):
    with pytest.raises(error, match=text):
        fit(model, Y, **options)


def grouped(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    with numpyro.plate("groups", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, 1.0))
        numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)


@pytest.mark.parametrize("name", NAMES)
def test_every_solver_can_be_chosen_by_name(name):
    suited = {"fixed_draws": "meanfield", "mode": "map", "structured_newton": "plates"}
    guide = (suited | {"coordinate_ascent": "conjugate"}).get(name, "fullrank")
    fitted = grouped if guide in ("plates", "conjugate") else model
    posterior = fit(fitted, Y, guide=guide, algorithm=name)
    same = fit(fitted, Y, guide=guide, algorithm=NAMES[name]())
    assert posterior.num_steps == 0
    assert posterior.stop_reason == same.stop_reason
    assert posterior.elbo == same.elbo or guide == "map"


def test_a_missing_argument_is_named():
    with pytest.raises(vijax.ModelError, match="y"):
        fit(model)


def test_data_with_nan_are_detected_before_the_fit():
    y = Y.copy()
    y[2] = np.nan
    with pytest.raises(vijax.ModelError, match=r"'y'.*2"):
        fit(model, y)


def test_no_finite_start_names_the_site():
    def impossible(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.factor("wall", jnp.where(mu < 1e6, -jnp.inf, 0.0))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    with pytest.raises(vijax.ModelError, match=r"'wall': no finite starting point.*init="):
        fit(impossible, Y)


def narrow(y):
    """The density is NaN unless `s` is below 0.01."""
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    mu = numpyro.sample("mu", dist.Normal(0.0, 0.01 - s))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def test_a_density_that_is_nan_almost_everywhere():
    options = {"guide": "meanfield", "num_steps": 2, "progress_bar": False}
    with pytest.raises(vijax.ModelError, match=r"site 'mu': no finite starting point.*init="):
        vijax.fit(narrow, Y, **options)
    posterior = vijax.fit(narrow, Y, init={"s": 0.001, "mu": 0.0}, **options)
    assert posterior.median()["s"] == pytest.approx(0.001, rel=0.3)


@pytest.mark.parametrize("key", [3, np.int64(3), jax.random.key(3), jax.random.PRNGKey(3)])
def test_every_form_of_key_gives_the_same_fit(key):
    a = fit(model, Y, rng_key=key, guide="meanfield", num_steps=50)
    b = fit(model, Y, rng_key=3, guide="meanfield", num_steps=50)
    np.testing.assert_array_equal(a.losses, b.losses)
    c = fit(model, Y, rng_key=4, guide="meanfield", num_steps=50)
    assert not (a.losses == c.losses).all()


def test_the_guide_starts_at_initial_values():
    options = {"guide": "meanfield", "num_steps": 1, "optimizer": optax.sgd(0.0)}
    posterior = fit(model, Y, init={"mu": 5.0, "sigma": 0.5}, **options)
    center = posterior.median()
    assert center["mu"] == pytest.approx(5.0, abs=0.05)
    assert center["sigma"] == pytest.approx(0.5, rel=0.05)


def test_numpyro_init_strategies_are_supported():
    from numpyro.infer import init_to_value

    options = {"guide": "meanfield", "num_steps": 1, "optimizer": optax.sgd(0.0)}
    strategy = init_to_value(values={"mu": -4.0, "sigma": 2.0})
    center = fit(model, Y, init=strategy, **options).median()
    assert center["mu"] == pytest.approx(-4.0, abs=0.05)


def test_static_arguments_are_configuration():
    wide = fit(model, Y, scale=10.0, guide="meanfield")
    narrow = fit(model, Y, scale=0.1, guide="meanfield")
    assert np.exp(wide.params.log_scale["mu"]) > 5 * np.exp(narrow.params.log_scale["mu"])


def test_changed_data_changes_the_answer():
    a, b = (fit(model, Y + shift, guide="meanfield") for shift in (0.0, 3.0))
    assert b.params.loc["mu"] - a.params.loc["mu"] > 1


def test_point_estimates_and_compositions_are_fitted():
    posterior = fit(model, Y, guide={"mu": "meanfield", "sigma": "map"})
    draws = posterior.sample(num_draws=500)
    assert np.ptp(draws["sigma"]) == 0
    assert np.std(draws["mu"]) > 0.3


def test_a_fit_prints_and_warns_nothing(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vijax.fit(model, Y, guide="meanfield", num_steps=200)
    assert capsys.readouterr().out == ""


def two_modes(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
    numpyro.sample("y", dist.Normal(jnp.abs(mu), 0.2).expand([8]).to_event(1), obs=y)


def test_gradient_steps_do_not_certify_one_of_two_modes():
    posterior = vijax.fit(two_modes, np.full(8, 2.0), guide="fullrank", algorithm="gradient")
    assert abs(abs(posterior.sample(1000)["mu"].mean()) - 2) < 0.1  # one of the modes
    assert posterior.khat < 0.5
    assert posterior.status == "approximate"
    assert "2 separate modes were found" in posterior.report()

"""PyMC models with all kinds of variables, transforms and dims."""

import numpy as np
import pytest

pm = pytest.importorskip("pymc")
pt = pytest.importorskip("pytensor.tensor")

RNG = np.random.default_rng(0)
X, GROUP = RNG.normal(size=(12, 2)), np.arange(12) % 3
Y = RNG.normal(size=12)
COUNTS = RNG.poisson(2.0, 12)
VOTES = RNG.integers(0, 2, 12)


def hierarchy(x=X, y=Y, group=GROUP):
    with pm.Model(coords={"group": ["a", "b", "c"], "feature": ["u", "v"]}) as model:
        x, group = pm.Data("x", x, dims=("row", "feature")), pm.Data("index", group, dims="row")
        mu = pm.Normal("mu", 0, 3)
        tau = pm.HalfCauchy("tau", 2.0)
        theta = pm.Normal("theta", mu, tau, dims="group")
        slope = pm.Laplace("slope", 0, 1, dims="feature")
        sigma = pm.Exponential("sigma", 2.0)
        mean = pm.Deterministic("mean", theta[group] + x @ slope, dims="row")
        pm.Normal("y", mean, sigma, observed=y, dims="row")
    return model


def tabled():
    """Every continuous prior of the table."""
    with pm.Model() as model:
        pm.HalfNormal("half_normal", 2.0)
        pm.StudentT("student_t", nu=3, mu=1, sigma=2, shape=2)
        pm.Cauchy("cauchy", 1, 2)
        pm.Gamma("gamma", 2.0, 3.0)
        pm.InverseGamma("inverse_gamma", 2.0, 3.0)
        pm.Beta("beta", 2.0, 3.0)
        low = pm.Uniform("uniform", -1, 2)
        pm.Uniform("above", low, low + 3.0)
        pm.LogNormal("log_normal", 0.3, 0.5)
        pm.Logistic("logistic", 1, 2)
        pm.Gumbel("gumbel", 1, 2)
        pm.Weibull("weibull", 2.0, 3.0)
        scale = np.array([[2.0, 0.0], [0.5, 1.0]])
        pm.MvNormal("by_factor", np.ones(2), chol=scale)
        pm.MvNormal("by_covariance", np.ones(2), cov=scale @ scale.T)
        pm.Dirichlet("dirichlet", np.array([1.0, 2.0, 3.0]))
    return model


def likelihoods():
    """Every observed distribution of the table, with logits and without."""
    with pm.Model() as model:
        a = pm.Normal("a")
        p = pm.Beta("p", 2.0, 2.0)
        eta = a * X[:, 0]
        pm.Bernoulli("bernoulli", p=p, observed=VOTES)
        pm.Bernoulli("bernoulli_logits", logit_p=eta, observed=VOTES)
        pm.Binomial("binomial", n=9, p=p, observed=COUNTS)
        pm.Binomial("binomial_logits", n=9, logit_p=eta, observed=COUNTS)
        pm.Categorical("classes", p=pt.stack([p, 0.5 * (1 - p), 0.5 * (1 - p)]), observed=GROUP)
        logits = pt.stack([eta, 0 * eta, -eta], axis=-1)
        pm.Categorical("classes_logits", logit_p=logits, observed=GROUP)
        pm.Poisson("poisson", pt.exp(eta), observed=COUNTS)
        pm.NegativeBinomial("negative_binomial", mu=pt.exp(eta), alpha=2.0, observed=COUNTS)
        pm.BetaBinomial("beta_binomial", n=9, alpha=1 + p, beta=2.0, observed=COUNTS)
        pm.VonMises("von_mises", eta, 2.0, observed=Y)
    return model


def others():
    """Distributions and transforms that NumPyro has not, potentials, censoring, imputation."""
    with pm.Model(coords={"level": ["low", "high"]}) as model:
        pm.HalfStudentT("half_student_t", nu=3, sigma=2.0)
        pm.Normal("ordered", 0, 1, shape=3, transform=pm.distributions.transforms.ordered)
        pm.ZeroSumNormal("zero_sum", 1.0, shape=4)
        pm.GaussianRandomWalk("walk", 0, 0.5, init_dist=pm.Normal.dist(), steps=4)
        low = pm.TruncatedNormal("truncated", 0, 1, lower=-1.0, dims="level")
        factor, _, _ = pm.LKJCholeskyCov("factor", n=2, eta=2.0, sd_dist=pm.Exponential.dist(1.0))
        pm.Kumaraswamy("kumaraswamy", 2.0, 3.0)
        pm.AsymmetricLaplace("asymmetric", b=1.0, kappa=1.2, mu=0.0)
        weights = pm.Dirichlet("weights", np.ones(2))
        pm.Potential("potential", -0.5 * (low[0] - factor[1, 0]) ** 2)
        parts = [pm.Normal.dist(-1.0, 1.0), pm.Normal.dist(low[1], 0.5)]
        pm.Mixture("mixture", weights, parts, observed=Y)
        censored = pm.Normal.dist(low[0], 1.0)
        pm.Censored("censored", censored, lower=None, upper=1.0, observed=np.minimum(Y, 1.0))
        pm.ZeroInflatedPoisson("zip", 0.6, pt.exp(low[0]), observed=COUNTS)
    return model


MODELS = [hierarchy, tabled, likelihoods, others]

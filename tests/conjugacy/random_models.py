"""Random models: normal, count and binary rows whose arguments are random expressions of latents.

Some are conjugate, most are not. A reader may refuse any of them, but what it accepts must agree
with the oracle: an expression that is not affine in the statistics of each block has another
average over the oracle's points than the reader's formula.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from tests.conjugacy.case import Case, Family

LATENTS: dict[str, tuple[Callable, Family]] = {
    "v": (lambda: dist.Normal(0.5, 1.0), Family("Normal")),
    "u": (lambda: dist.Normal(-0.5, 0.8), Family("Normal")),
    "w": (
        lambda: dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)),
        Family("MultivariateNormal"),
    ),
    "t": (lambda: dist.Gamma(3.0, 2.0), Family("Gamma")),
    "r": (lambda: dist.Gamma(2.0, 1.0), Family("Gamma")),
    "s": (lambda: dist.InverseGamma(3.0, 2.0), Family("Gamma", -1)),
    "p": (lambda: dist.Beta(2.0, 3.0), Family("Beta")),
}
REAL, POSITIVE, UNIT = ("v", "u", "w"), ("t", "r", "s"), ("p",)
X = np.asarray([[0.4, -1.1], [1.3, 0.2], [-0.7, 0.9]])
Y, COUNTS, BITS = np.asarray([0.3, 1.4, -0.6]), np.asarray([2, 0, 3]), np.asarray([1, 0, 1])


class Expression:
    """A random function of the latents' values; `used` are the latents that it reads."""

    def __init__(self, rng):
        self.rng, self.used = rng, set()

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def leaf(self, names):
        name = self.pick(*names)
        self.used.add(name)
        if name == "w":
            kind = self.rng.integers(3)
            return lambda of: (X @ of["w"], of["w"][0], of["w"][1])[kind]
        return lambda of: of[name]

    def real(self, depth):
        """Of any sign, a number or one per row."""
        if depth == 0:
            names = REAL if self.rng.random() < 0.9 else POSITIVE
            return self.leaf(names)
        a, number = self.real(depth - 1), float(self.rng.normal())
        kind = self.rng.choice(
            ["scale", "shift", "sum", "product", "row", "where", "sum", "harmless", "harmful"]
        )
        b = self.real(depth - 1) if kind in ("sum", "product") else a
        harmful = self.pick(jnp.square, jnp.exp, jnp.abs, jnp.sin, jnp.tanh, jnp.reciprocal)
        harmless = self.pick(jnp.negative, jnp.asarray, lambda x: x / 2, lambda x: 2 * x - x)
        return {
            "scale": lambda of: number * a(of),
            "shift": lambda of: a(of) - number,
            "sum": lambda of: a(of) + b(of),
            "product": lambda of: a(of) * b(of),
            "row": lambda of: X[:, 0] * a(of),
            "where": lambda of: jnp.where(X[:, 1] > 0, a(of), number),
            "harmless": lambda of: harmless(a(of)),
            "harmful": lambda of: harmful(a(of)),
        }[kind]

    def positive(self, depth, names=POSITIVE):
        if depth == 0:
            return self.leaf(names)
        a, number = self.positive(depth - 1, names), float(np.exp(self.rng.normal()))
        kind = self.rng.choice(["scale", "product", "quotient", "power", "exp-log", "sum", "row"])
        pair = kind in ("product", "quotient", "sum")
        b = self.positive(depth - 1, names) if pair else a
        power = self.pick(0.5, -0.5, -1.0, 2.0, -2.0)
        return {
            "scale": lambda of: number * a(of),
            "product": lambda of: a(of) * b(of),
            "quotient": lambda of: a(of) / b(of),
            "power": lambda of: a(of) ** power,
            "exp-log": lambda of: jnp.exp(power * jnp.log(a(of))),
            "sum": lambda of: a(of) + number * b(of),
            "row": lambda of: jnp.asarray([0.5, 1.0, 2.0]) * a(of),
        }[kind]

    def unit(self):
        a, power = self.leaf(UNIT), self.pick(0.5, 2.0)
        return self.pick(
            a, lambda of: 1 - a(of), lambda of: a(of) ** power, lambda of: (1 + a(of)) / 3
        )


def random_case(seed):
    """A model of one or two sites of rows whose arguments are random expressions."""
    rng = np.random.default_rng(seed)
    make = Expression(rng)
    sites = []
    for number in range(rng.integers(1, 3)):
        depth = int(rng.integers(0, 3))
        kind = rng.choice(["normal", "normal", "poisson", "exponential", "bernoulli"])
        if kind == "normal":
            loc = make.real(depth)
            inverse = make.positive(int(rng.integers(0, 2)))
            root = make.pick(lambda t: 1 / jnp.sqrt(t), jnp.sqrt, lambda t: t**-0.5, lambda t: t)
            scale = make.pick(lambda of: 0.8, lambda of, f=inverse, g=root: g(f(of)))
            sites.append((number, _normal(loc, scale), Y))
        elif kind == "bernoulli":
            sites.append((number, _of(dist.Bernoulli, make.unit()), BITS))
        else:
            rate = make.positive(depth)
            likelihood, y = (
                (dist.Poisson, COUNTS) if kind == "poisson" else (dist.Exponential, COUNTS + 0.5)
            )
            sites.append((number, _of(likelihood, rate), y))
    used = [name for name in LATENTS if name in make.used]

    def model(*data):
        values = {name: numpyro.sample(name, LATENTS[name][0]()) for name in used}
        with numpyro.plate("rows", 3):
            for (number, likelihood, _), y in zip(sites, data, strict=True):
                numpyro.sample(f"y{number}", likelihood(values), obs=y)

    args = tuple(y for *_, y in sites)
    return Case(model, args, {name: LATENTS[name][1] for name in used})


def _normal(loc, scale):
    return lambda of: dist.Normal(loc(of), scale(of))


def _of(likelihood, argument):
    return lambda of: likelihood(argument(of))

"""Discrete codes of rows as a site of a model function: the bound of a deterministic encoder.

With a code `c` that a network computes from the row `x`, `log p(x) >= log p(x | c) + log p(c)`: the
ELBO of a guide that is certain of one code, whose entropy is zero.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jax import Array

from vijax.nn.generative.masked import MaskedDiffusion
from vijax.nn.generative.quantizers import Codes
from vijax.nn.generative.sites import declare
from vijax.runtime.errors import ModelError, mismatch
from vijax.runtime.row_densities import RowDensity


def discrete_codes(name: str, codes: Any, *, prior: Callable[[Array], Array] | None = None) -> None:
    """The discrete codes of rows, whose negative log probabilities count as divergence.

    For an autoencoder with a deterministic encoder, whose code is the latent variable. The model is
    `c ~ prior`, `x ~ p(x | c)`, the guide is certain of the code that the encoder computes, and so
    the ELBO is `log p(x | c) + log p(c)`, a bound on `log p(x)`. Under the uniform prior
    `-log p(c)` is `log num_codes` for each code of a row.

    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist, vijax
    >>> from flax import nnx
    >>> class Autoencoder(nnx.Module):
    ...     def __init__(self, rngs):
    ...         self.encoder = nnx.Linear(16, 4 * 3, rngs=rngs)
    ...         self.quantizer = vijax.nn.FiniteScalarQuantizer((8, 6, 5))
    ...         self.decoder = nnx.Linear(4 * 3, 16, rngs=rngs)
    ...     def __call__(self, x):
    ...         codes = self.quantizer(self.encoder(x).reshape(-1, 4, 3))
    ...         return self.decoder(codes.values.reshape(-1, 4 * 3)), codes
    >>> def model(x):
    ...     network = vijax.nn.network("network", Autoencoder, prior=None)
    ...     mean, codes = network(x)
    ...     with numpyro.plate("rows", len(x)):
    ...         vijax.nn.discrete_codes("codes", codes)
    ...         numpyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)
    >>> with numpyro.handlers.seed(rng_seed=0):
    ...     trace = numpyro.handlers.trace(model).get_trace(jnp.ones((5, 16)))
    >>> trace["codes"]["value"].shape
    (5, 4)

    `posterior.predict(x, num_draws=1)["codes"]` are the codes of rows, `posterior.bound(x)` is the
    bound with its parts and the number of codes that the rows use, and `posterior.generate()` draws
    codes from the prior.

    Args:
        name: of the deterministic site with the indices of the codes; the bound is at `name/rate`.
        codes: of the rows, from `vijax.nn.VectorQuantizer` or `vijax.nn.FiniteScalarQuantizer`. The
            gradient of `codes.loss` is added to that of the negative log density, its value is not:
            the density remains a bound.
        prior: a network as in `vijax.nn.masked_diffusion`, from tokens `(rows, codes)` to logits
            `(rows, codes, num_codes)`, that learns the distribution of the codes of a row; by
            default they are uniform and independent.

    Raises:
        ModelError: `codes` are not codes of rows.
    """
    if not isinstance(codes, Codes) or codes.indices.ndim < 1:
        expected = "those that VectorQuantizer or FiniteScalarQuantizer returns for rows"
        raise ModelError(mismatch(f"discrete_codes {name!r}, codes", expected, repr(codes)[:80]))
    numpyro.deterministic(name, codes.indices)
    number = len(codes.indices)
    tokens = codes.indices.reshape(number, -1)
    learned = None if prior is None else MaskedDiffusion(name, prior, tokens, codes.num_codes)
    loss = jnp.sum(codes.loss.reshape(number, -1), axis=1)
    rows = CodedRows(tokens, codes.num_codes, codes.indices.shape[1:], loss, learned)
    declare(f"{name}/rate", rows)


@dataclasses.dataclass(frozen=True, eq=False)
class CodedRows(RowDensity):
    """Rows of codes with their prior.

    Attributes:
        x: indices, `(rows, codes)`.
        size: number of values of a code.
        shape: of the codes of a row in the model.
        commitment: `(rows,)`, whose gradient is added to that of the loss.
        learned: their distribution, `None` if they are uniform.
    """

    x: Array
    size: int
    shape: tuple[int, ...]
    commitment: Array
    learned: MaskedDiffusion | None

    @property
    def num_codes(self) -> int:
        """See `RowDensity`."""
        return self.size

    def loss(self, key: Array) -> Array:
        """What a step minimizes, `(rows,)`: the bound on `-log p(code)`."""
        gradient_only = self.commitment - jax.lax.stop_gradient(self.commitment)
        rate = self._uniform() if self.learned is None else self.learned.loss(key)
        return rate + gradient_only

    def parts(self, key: Array, start: Any, num_steps: int | None) -> dict[str, Array]:
        """See `RowDensity`; there is one part."""
        if self.learned is None:
            return {"rate": self._uniform()}
        return {"rate": self.learned.parts(key, start, num_steps)["diffusion"]}

    def generate(
        self,
        key: Array,
        num_rows: int,
        num_steps: int | None,
        method: str,
        keep: Array | None = None,
    ) -> Array:
        """See `RowDensity`: codes are drawn from their prior."""
        if self.learned is not None:
            drawn = self.learned.generate(key, num_rows, num_steps, method, keep)
        else:
            drawn = jax.random.randint(key, (num_rows, self.dim), 0, self.num_codes)
            drawn = drawn if keep is None else jnp.where(keep, self.x, drawn)
        return drawn.reshape(num_rows, *self.shape)

    def ode_log_density(self, key: Array, num_steps: int) -> Array:
        """See `RowDensity`.

        Raises:
            ModelError: discrete codes have none.
        """
        expected = "a site of vijax.nn.diffusion, whose data are numbers"
        raise ModelError(mismatch("ode_steps", expected, "discrete codes", "Leave it out."))

    def _uniform(self) -> Array:
        return jnp.full(self.num_rows, self.dim * math.log(self.num_codes))

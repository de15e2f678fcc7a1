"""Sites of a model function whose density is that of a diffusion model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from vijax.nn.generative.gaussian import GaussianDiffusion, Network, Weight
from vijax.nn.generative.masked import MaskedDiffusion
from vijax.nn.generative.schedules import ScheduleName, declare_schedule
from vijax.runtime.checks import check_count
from vijax.runtime.errors import ModelError, mismatch
from vijax.runtime.row_densities import BOUND, RowDensity, current_row_densities

_LOG_SNR = (13.3, -5.0)


def diffusion(
    name: str,
    net: Network,
    x: Any,
    *,
    levels: int | None = None,
    num_steps: int | None = None,
    schedule: ScheduleName = "fixed",
    log_snr: tuple[float, float] = _LOG_SNR,
    weight: Weight | None = None,
) -> None:
    """Rows observed from a variational diffusion model: adds a bound on their log density.

    The bound is estimated without bias, by one time and one draw of noise for each row at every
    evaluation: `fit` maximizes it by stochastic gradients, `posterior.bound` evaluates it and
    `posterior.generate` draws rows.

    >>> import jax, numpy as np, numpyro, vijax
    >>> def net(z, time):  # that of standard normal rows
    ...     snr = jnp.exp(18.3 * time - 13.3)[:, None]
    ...     return z * jnp.sqrt(jax.nn.sigmoid(18.3 * time - 13.3))[:, None]
    >>> def model(x):
    ...     with numpyro.plate("rows", len(x)):
    ...         vijax.nn.diffusion("x", net, x)
    >>> rows = jax.random.normal(jax.random.key(0), (5, 2))
    >>> with numpyro.handlers.seed(rng_seed=0):
    ...     trace = numpyro.handlers.trace(model).get_trace(rows)
    >>> trace["x"]["fn"].log_prob(trace["x"]["value"]).shape
    (5,)

    Args:
        name: of the site.
        net: `net(z, time)` predicts the noise in `z`, of the shape of `x`; `time`, `(rows,)`, is
            the negative log signal-to-noise ratio scaled to [0, 1]. For example
            `vijax.nn.network("net", Net, prior=None)`.
        x: the rows, `(rows, ...)`: real numbers of a scale near 1, or integers in `0, ...,
            levels - 1`.
        levels: number of values of an element, 256 for 8-bit data, whose probabilities are bounded;
            `None` for real numbers.
        num_steps: of the process; `None` for continuous time, where the bound is tightest.
        schedule: `"fixed"`, the log signal-to-noise ratio falls linearly from `log_snr[0]` to
            `log_snr[1]`; `"linear"`, its ends are learned by the bound; `"learned"`, the shape,
            too, in continuous time by minimizing the variance of the estimate.
        log_snr: at time 0 and 1, where learned ends start.
        weight: a function of the log signal-to-noise ratio by which the noise's loss is weighted,
            as is common for images. The objective is then no bound; `posterior.bound` has it.

    Raises:
        ModelError: data, network or options do not fit together.

    Source: Variational Diffusion Models, Kingma, Salimans, Poole and Ho, 2021.
    """
    x = _checked(f"diffusion {name!r}", x)
    is_integer = jnp.issubdtype(x.dtype, jnp.integer)
    if is_integer != (levels is not None):
        expected = "levels=256 for 8-bit integers, levels=None for real numbers"
        got = f"levels={levels} and {x.dtype}"
        raise ModelError(mismatch(f"diffusion {name!r}", expected, got))
    check_count("num_steps", num_steps, optional=True)
    used = declare_schedule(name, schedule, log_snr, num_steps)

    def checked_net(z: Array, time: Array) -> Array:
        noise = net(z, time)
        if noise.shape != z.shape:
            what = f"diffusion {name!r}, net(z, time)"
            raise ModelError(mismatch(what, f"shape {z.shape}", f"shape {noise.shape}"))
        return noise

    declare(name, GaussianDiffusion(checked_net, x, used, levels, num_steps, weight))


def masked_diffusion(name: str, net: Callable[[Array], Array], x: Any, *, num_values: int) -> None:
    """Rows of discrete values observed from a masked diffusion model: a bound on their density.

    As `vijax.nn.diffusion`; the number of masked elements is drawn exactly.

    Args:
        name: of the site.
        net: `net(tokens)` predicts masked elements by logits `(rows, ..., num_values)`; in
            `tokens`, of the shape of `x`, the value `num_values` stands for a masked one.
        x: the rows, `(rows, ...)`, integers in `0, ..., num_values - 1`.
        num_values: number of values of an element.

    Raises:
        ModelError: data or network do not fit.

    Sources: Simple and Effective Masked Diffusion Language Models, Sahoo et al., 2024; Simplified
    and Generalized Masked Diffusion for Discrete Data, Shi et al., 2024.
    """
    x = _checked(f"masked_diffusion {name!r}", x)
    if not (jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool):
        what = f"masked_diffusion {name!r}, x"
        raise ModelError(mismatch(what, "integers", f"{x.dtype}", "Convert it: x.astype(int)."))
    check_count("num_values", num_values)
    x = x.astype(jnp.int32) if x.dtype == bool else x
    declare(name, MaskedDiffusion(name, net, x, num_values))


def _checked(what: str, x: Any) -> Array:
    x = jnp.asarray(x)
    if x.ndim < 2 or 0 in x.shape:
        expected = "rows of elements, shape (rows, ...)"
        raise ModelError(mismatch(f"{what}, x", expected, f"shape {x.shape}", "Use x[:, None]."))
    return x


def declare(name: str, rows: RowDensity) -> None:
    """Adds the estimate of the bound to the model, or notes the rows where a method asks for them.

    A factor whose `infer` says that it is a stochastic bound.
    """
    record = current_row_densities()
    if record is not None:
        record[name] = rows
        log_density = jnp.zeros(rows.num_rows)
    else:
        key = numpyro.prng_key()
        log_density = -rows.loss(jax.random.key(0) if key is None else key)
    is_bound = getattr(rows, "weight", None) is None
    factor = dist.Unit(log_density)
    infer = {"is_auxiliary": True, BOUND: is_bound}
    numpyro.sample(name, factor, obs=factor.sample(None), infer=infer)

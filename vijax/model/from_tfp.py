"""Joint distributions of TensorFlow Probability on JAX."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro

from vijax.runtime.errors import ModelError, mismatch
from vijax.runtime.keywords import did_you_mean


class _Joint:
    """A joint distribution as a static argument, the same one each time."""

    def __init__(self, joint: Any) -> None:
        self.joint = joint
        self.names = tuple(joint._flat_resolve_names())


_known: weakref.WeakKeyDictionary[Any, _Joint] = weakref.WeakKeyDictionary()


def from_tfp(joint: Any, observed: Mapping[str, Any]) -> Callable[..., None]:
    """A joint distribution of TensorFlow Probability, given some of its parts, for `fit`.

    Example::

        joint = tfd.JointDistributionNamedAutoBatched({
            "mu": tfd.Normal(0.0, 5.0),
            "y": lambda mu: tfd.Sample(tfd.Normal(mu, 1.0), 3),
        })
        posterior = vijax.fit(vijax.from_tfp(joint, {"y": y}))

    Parts are sites of their names, with their event space bijectors. A part is one term of the log
    likelihood, however many numbers it has. What is observed is an argument: a fit to other values
    compiles nothing; what the parts refer to otherwise, as covariates, is compiled in.

    Args:
        joint: any `tfp.substrates.jax.distributions.JointDistribution*` without a batch shape.
        observed: values by name.

    Returns:
        A model without further arguments.

    Raises:
        ModelError: `joint` is no joint distribution on JAX or has a batch shape, a name or a shape
            in `observed` is wrong, or nothing is left to infer.
    """
    if not callable(getattr(joint, "_model_coroutine", None)) or not callable(
        getattr(joint, "_flat_resolve_names", None)
    ):
        expected = "a JointDistribution of tensorflow_probability.substrates.jax"
        raise ModelError(mismatch("joint", expected, type(joint).__name__))
    static = _known.setdefault(joint, _Joint(joint))
    for name in observed.keys() - set(static.names):
        hint = did_you_mean(name, static.names)
        raise ModelError(
            mismatch(f"observed[{name!r}]", f"one of {list(static.names)}", repr(name), hint)
        )
    if set(static.names) <= observed.keys():
        raise ModelError("observed: expected some parts to infer, got values of all.")
    drawn = jax.eval_shape(lambda key: joint.sample(seed=key), jax.random.key(0))
    shape = jax.eval_shape(joint.log_prob, drawn).shape
    if shape:
        remedy = "Use the AutoBatched class, or tfd.Independent and tfd.Sample for its parts."
        raise ModelError(mismatch("joint", "no batch shape", shape, remedy))
    values = {name: jnp.asarray(value) for name, value in observed.items()}
    return functools.partial(tfp_model, static, **values)


def tfp_model(static: _Joint, /, **observed: Any) -> None:
    """The model of `from_tfp`."""
    parts = static.joint._model_coroutine()
    part = next(parts)
    for name in static.names:
        fn = getattr(part, "distribution", part) if type(part).__name__ == "Root" else part
        value, shape = observed.get(name), (*fn.batch_shape, *fn.event_shape)
        if value is not None and jnp.shape(value) != shape:
            raise ModelError(mismatch(f"observed[{name!r}]", f"shape {shape}", jnp.shape(value)))
        value = numpyro.sample(name, fn, obs=value)
        try:
            part = parts.send(value)
        except StopIteration:
            return

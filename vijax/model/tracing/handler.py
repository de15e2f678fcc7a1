"""One NumPyro effect handler that gives every site its value, inside `scan` and `cond` as well.

NumPyro's `substitute` does not reach `param`, `mutable` and `plate` sites inside control flow,
does not know the prefix that `scope` puts before a site there, and takes the steps of a reversed
scan in the wrong order. Here the body of a scan also receives the position of its step, so that
a latent of the body is a slice of one array for the whole series, in nested scans too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from numpyro import handlers
from numpyro.distributions import Distribution, ExpandedDistribution, MaskedDistribution
from numpyro.primitives import _PYRO_STACK, Messenger

from vijax.contracts import PyTree
from vijax.model.tracing.scan_by_state import steps_apart
from vijax.runtime.errors import ModelError
from vijax.runtime.precision import full_precision

Message = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Loop:
    """One scan of a model: its number among them, its length and its direction.

    Scans inside of others have no number, -1.
    """

    number: int
    length: int
    reverse: bool


@dataclasses.dataclass(frozen=True)
class Step:
    """The position of a scan's step, a traced integer, its scan, and which states it is to see.

    The last matters where steps are taken side by side, see `vijax.model.tracing.scan_by_state`.
    """

    index: Array
    loop: Loop
    moment: str = "now"

    @property
    def length(self) -> int:
        """Length of the scan."""
        return self.loop.length


class Record(NamedTuple):
    """What is kept beside a site's value, in the `intermediates` of its message.

    Attributes:
        z: the unconstrained value, `None` for a site that is not latent.
        log_det: `log |dx/dz|`, one scalar for each step of a scan, `None` likewise.
        log_prob: log density as seen inside a control flow body, `None` outside; NumPyro's own
            for the stacked site mixes the time axis up with batch axes in some distributions.
        log_prior_sd: log standard deviation under the prior given all else, shaped like `z`, where
            it was asked for.
    """

    z: Array | None = None
    log_det: Array | None = None
    log_prob: Array | None = None
    log_prior_sd: Array | None = None


@dataclasses.dataclass
class Sources:
    """Where values come from, for a model and everything inside it.

    Attributes:
        sample: `(name, message, steps) -> value` for every `sample` site, observed ones too;
            `None` leaves the site as it is. It may put a `Record` in the message.
        param: `(name, message) -> value` for every `param` site, or `None`.
        mutable: mutable state by name.
        index: rows in use of subsampled plates.
        full: their full sizes, where the model may know those of the batch only.
        scored: whether the log density is wanted.
        plates: filled while the model runs: full size and number of rows in use by plate.
        scale: filled while the model runs: by plate, full rows over rows in use, where NumPyro
            does not know that there are more.
        apart: numbers of the scans whose steps are taken side by side.
        first: whether of those only the first step is taken, or all others.
        loops: counted while the model runs: its scans.
    """

    sample: Callable[[str, Message, tuple[Step, ...]], Any]
    param: Callable[[str, Message], PyTree | None]
    mutable: Mapping[str, PyTree]
    index: Mapping[str, Array]
    full: Mapping[str, int] = dataclasses.field(default_factory=dict)
    scored: bool = True
    plates: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    scale: dict[str, float] = dataclasses.field(default_factory=dict)
    apart: frozenset[int] = frozenset()
    first: bool = False
    loops: int = 0


class Values(Messenger):
    """Gives the sites of `fn` their values.

    Args:
        fn: a model, or the body of a control flow primitive inside one.
        sources: where the values come from.
        outer: the handler round the control flow primitive.
        prefix: what scopes round the primitive put before the names of its sites.
        step: the step of the scan, if the primitive is one.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        sources: Sources,
        outer: Values | None = None,
        prefix: str = "",
        step: Step | None = None,
    ) -> None:
        super().__init__(fn)
        self.sources = sources
        self.prefix = prefix
        self.is_body = outer is not None
        self.frames: list[Values] = outer.frames if outer else []
        self.kinds: dict[str, str] = outer.kinds if outer else {}
        self.steps: tuple[Step, ...] = outer.steps if outer else ()
        if step is not None:
            self.steps = (*self.steps, step)

    def __enter__(self) -> None:
        super().__enter__()
        self.frames.append(self)

    def __exit__(self, *error: Any) -> None:
        self.frames.remove(self)
        super().__exit__(*error)

    def process_message(self, msg: Message) -> None:
        """Sets the value of a site."""
        kind = msg["type"]
        if kind == "control_flow":
            self._enter_control_flow(msg)
        elif "name" not in msg or msg.get("_control_flow_done"):
            pass  # no site, or one that had its value inside the body
        elif kind in ("param", "mutable", "plate"):
            value = getattr(self, f"_{kind}")(self._name(msg), msg)
            if value is not None:
                msg["value"] = value
        elif kind == "sample" and not self.is_body:  # in a body, `_sample` is called by NumPyro
            value = self._sample(msg)
            if value is not None:
                msg["value"] = value

    def _enter_control_flow(self, msg: Message) -> None:
        prefix = self.prefix + self._scopes()
        if "history" in msg["kwargs"]:
            body, init, xs, length, reverse = msg["args"]
            if length is None:
                length = jnp.shape(jax.tree.leaves(xs)[0])[0]
            loop = Loop(-1 if self.is_body else self.sources.loops, length, reverse)
            self.sources.loops += not self.is_body

            def step_body(moment: str) -> Callable[..., Any]:
                def run(carry: PyTree, indexed: tuple[Array, PyTree]) -> tuple[PyTree, PyTree]:
                    index, x = indexed
                    step = Step(index, loop, moment)
                    return Values(body, self.sources, self, prefix, step)(carry, x)

                return run

            steps = (init, (jnp.arange(length), xs), length, reverse)
            if loop.number in self.sources.apart:
                msg["args"] = (msg["fn"], step_body, self.sources.first, *steps)
                msg["fn"] = steps_apart
            else:
                msg["args"] = (step_body("now"), *steps)
        else:
            predicate, true_fun, false_fun, operand = msg["args"]
            bodies = [Values(f, self.sources, self, prefix) for f in (true_fun, false_fun)]
            msg["args"] = (predicate, *bodies, operand)
        if not self.is_body:  # NumPyro hands it on to what is nested deeper
            msg["kwargs"]["substitute_stack"].append(("substitute", self._sample))

    def _scopes(self) -> str:
        """The prefix of the scopes between here and the site that is being run."""
        prefix = ""
        for handler in reversed(_PYRO_STACK):
            if handler is self:
                break
            if isinstance(handler, handlers.scope) and "sample" not in handler.hide_types:
                prefix = f"{handler.prefix}{handler.divider}{prefix}"
        return prefix

    def _name(self, msg: Message) -> str:
        name = self.prefix + msg["name"]
        kind = self.kinds.setdefault(name, msg["type"])
        if kind != msg["type"] and {kind, msg["type"]} & {"sample", "param"}:
            raise ModelError(
                f"site {name!r}: expected every site to have a name of its own, got a "
                f"{kind} and a {msg['type']} site called so. Rename one of them."
            )
        return name

    def _sample(self, msg: Message) -> Any:
        """The value of a sample site; `frames[-1]` is the innermost body that is being run."""
        if msg["type"] != "sample":
            return None
        frame = self.frames[-1]
        name = frame._name(msg)
        twin = name.removesuffix("_unobserved") + "_observed"
        if name.endswith("_unobserved") and twin in self.kinds:
            msg["fn"] = _without_obs_mask(msg["fn"])
        self._scale(msg)
        msg["_loops"] = tuple(step.loop for step in frame.steps)
        value = self.sources.sample(name, msg, frame.steps)
        known = msg["value"] if value is None else value
        if frame.is_body and known is not None and self.sources.scored:
            record = msg["intermediates"] or Record()
            if isinstance(record, Record) and record.log_prob is None:
                with full_precision():
                    log_prob = msg["fn"].log_prob(known)
                msg["intermediates"] = record._replace(log_prob=log_prob)
                msg["_masks"] = count_masks(msg["fn"])
        return value

    def _scale(self, msg: Message) -> None:
        """Scales a site up by the rows that were left out before the model saw the data."""
        for name in {frame.name for frame in msg["cond_indep_stack"]} & self.sources.scale.keys():
            own = 1.0 if msg["scale"] is None else msg["scale"]
            msg["scale"] = own * self.sources.scale[name]

    def _param(self, name: str, msg: Message) -> PyTree | None:
        msg["_steps"] = len(self.steps)  # NumPyro stacks its value over that many scans
        return self.sources.param(name, msg)

    def _mutable(self, name: str, msg: Message) -> PyTree | None:
        if self.is_body:
            raise ModelError(
                f"mutable site {name!r}: expected it outside control flow, got it inside the body "
                "of a scan or cond, where its new value would be lost. Read it before, and carry "
                "what changes through the scan."
            )
        if name not in self.sources.mutable:
            return None
        return copied(self.sources.mutable[name])

    def _plate(self, name: str, msg: Message) -> Array | None:
        size, used = msg["args"]
        rows = self.sources.index.get(name)
        if rows is not None:
            used = len(rows)
            full = self.sources.full.get(name, size)
            if size != full:
                if size != used:
                    raise ModelError(
                        f"plate {name!r}: expected {full} rows, or the {used} of a batch, got "
                        f"{size}. Give it the length of an array that runs along it."
                    )
                self.sources.scale[name] = full / used  # to NumPyro the plate is whole
            size = full
            msg["args"] = (size, used)  # else NumPyro warns that the sizes differ
        self.sources.plates[name] = (size, used or size)
        return None if rows is None else jnp.asarray(rows)


def copied(tree: PyTree) -> PyTree:
    """A pytree with containers of its own: modules write into theirs while the model runs."""
    return jax.tree.map(lambda leaf: leaf, tree)


def _without_obs_mask(fn: Distribution) -> Distribution:
    """The latent part of `sample(..., obs_mask=m)` without the mask that `m` puts on it.

    NumPyro adds a latent for every entry and masks those that were observed. Unmasked entries
    are used, masked ones are not: giving those their own prior changes nothing else and keeps
    the density proper. The mask of `m` is the innermost one.
    """
    if count_masks(fn) == 0:
        return fn
    inner = fn.base_dist
    if isinstance(fn, ExpandedDistribution):
        return _without_obs_mask(inner).expand(fn.batch_shape)
    return _without_obs_mask(inner).mask(fn._mask) if count_masks(inner) else inner


def without_masks(fn: Distribution) -> Distribution:
    """A distribution without any mask on it."""
    return fn if count_masks(fn) == 0 else without_masks(fn.base_dist).expand(fn.batch_shape)


def count_masks(fn: Distribution) -> int:
    """How many masks a distribution carries."""
    number = 0
    while isinstance(fn, (ExpandedDistribution, MaskedDistribution)):
        number += isinstance(fn, MaskedDistribution)
        fn = fn.base_dist
    return number

"""A NumPyro effect handler that sets the value of every site, inside `scan` and `cond` as well.

NumPyro's `substitute` does not reach `param`, `mutable` and `plate` sites inside control flow,
ignores the prefix that `scope` adds to the names of sites there, and assigns values to the steps of
a reversed scan in the wrong order. Here the body of a scan also receives the index of its step: a
latent site of the body is a slice of one array over all steps, in nested scans too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from numpyro import handlers
from numpyro.distributions import Distribution, ExpandedDistribution, MaskedDistribution
from numpyro.primitives import _PYRO_STACK, Messenger

from vijax.contracts import PyTree
from vijax.model.tracing.limits import with_defined_gradient
from vijax.model.tracing.vectorized_scan import vectorized_scan
from vijax.runtime.errors import ModelError
from vijax.runtime.precision import full_precision

Message = dict[str, Any]  # of a site, as NumPyro defines it
WhichStates = Literal["current", "previous", "any"]


@dataclasses.dataclass(frozen=True)
class Loop:
    """A scan of a model.

    Attributes:
        number: its index among the scans of the model, -1 for one nested in another scan.
        length: number of steps.
        reverse: whether the last index comes first.
    """

    number: int
    length: int
    reverse: bool


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of a scan.

    Attributes:
        index: position of the step, a traced integer.
        loop: the scan.
        states: in a vectorized scan (`vijax.model.tracing.vectorized_scan`), whether discrete sites
            take their current states, the previous ones, or any.
    """

    index: Array
    loop: Loop
    states: WhichStates = "current"

    @property
    def length(self) -> int:
        """Number of steps of the scan."""
        return self.loop.length


SubstituteFn = Callable[[str, Message, tuple[Step, ...]], Any]
"""`(name, message, steps) -> value` of a `sample` site in the given steps of nested scans; `None`
leaves the site unchanged. It may put a `Record` into the message."""


class Previous(NamedTuple):
    """The key of the state of a discrete site at the previous step of a scan."""

    name: str


class Record(NamedTuple):
    """What is recorded with a site's value, in the `intermediates` of its message.

    Attributes:
        z: the unconstrained value, `None` for a site that is not latent.
        log_det: `log |dx/dz|`, one scalar for each step of a scan, `None` likewise.
        log_prob: log density computed inside a control flow body, `None` outside; NumPyro's log
            density of the stacked site confuses time and batch axes in some distributions.
        log_prior_sd: log conditional prior standard deviation, shaped like `z`, where requested.
        mask: of an enumerated site, `None` without one.
        arguments: of its distribution in a control flow body, where requested: NumPyro stacks
            distributions, and those of some then have other parameters.
    """

    z: Array | None = None
    log_det: Array | None = None
    log_prob: Array | None = None
    log_prior_sd: Array | None = None
    mask: Array | None = None
    arguments: PyTree = None


@dataclasses.dataclass
class ValueSources:
    """The values of all sites of a model, including those in control flow bodies.

    Attributes:
        sample: the value of every `sample` site, observed ones too.
        param: `(name, message) -> value` of every `param` site, or `None`.
        mutable: mutable state by name.
        index: rows in use of subsampled plates.
        full_sizes: their numbers of rows, where the model is given only the rows of the minibatch.
        with_log_density: whether the log density of the trace is needed.
        deterministic: the value of every deterministic, `None` for that of the model.
        arguments: of a distribution, recorded in control flow bodies.
        plates: set during the run: full size and number of rows in use, by plate.
        scales: set during the run: full rows over rows in use, by plate, for plates that NumPyro
            takes to be complete.
        vectorized_loops: numbers of the scans whose steps are vectorized.
        first_step: whether these run their first step only, or all others.
        num_steps: how many others at most, see `vectorized_scan`.
        num_loops: set during the run: number of scans so far.
    """

    sample: SubstituteFn
    param: Callable[[str, Message], PyTree | None]
    mutable: Mapping[str, PyTree]
    index: Mapping[str, Array]
    full_sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    with_log_density: bool = True
    deterministic: SubstituteFn | None = None
    arguments: Callable[[Distribution], PyTree] | None = None
    plates: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    scales: dict[str, float] = dataclasses.field(default_factory=dict)
    vectorized_loops: frozenset[int] = frozenset()
    first_step: bool = False
    num_steps: int | None = None
    num_loops: int = 0


class ValueHandler(Messenger):
    """Sets the values of the sites of `fn`.

    Args:
        fn: a model, or the body of a control flow primitive in one.
        sources: the values.
        outer: the handler around the control flow primitive.
        prefix: prefix that scopes around the primitive add to the names of its sites.
        step: the step of the scan, if the primitive is one.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        sources: ValueSources,
        outer: ValueHandler | None = None,
        prefix: str = "",
        step: Step | None = None,
    ) -> None:
        super().__init__(fn)
        self.sources = sources
        self.prefix = prefix
        self.is_body = outer is not None
        self.frames: list[ValueHandler] = outer.frames if outer else []
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
            pass  # not a site, or one whose value was set inside the body
        elif kind in ("param", "mutable", "plate", "deterministic"):
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
            loop = Loop(-1 if self.is_body else self.sources.num_loops, length, reverse)
            self.sources.num_loops += not self.is_body

            def step_body(states: WhichStates) -> Callable[..., Any]:
                def run(carry: PyTree, indexed: tuple[Array, PyTree]) -> tuple[PyTree, PyTree]:
                    index, x = indexed
                    step = Step(index, loop, states)
                    return ValueHandler(body, self.sources, self, prefix, step)(carry, x)

                return run

            steps = (init, (jnp.arange(length), xs), length, reverse)
            if loop.number in self.sources.vectorized_loops:
                which = self.sources.first_step, self.sources.num_steps
                msg["args"] = (msg["fn"], step_body, *which, *steps)
                msg["fn"] = vectorized_scan
            else:
                msg["args"] = (step_body("current"), *steps)
        else:
            predicate, true_fun, false_fun, operand = msg["args"]
            bodies = [ValueHandler(f, self.sources, self, prefix) for f in (true_fun, false_fun)]
            msg["args"] = (predicate, *bodies, operand)
        if not self.is_body:  # NumPyro passes it on to nested control flow
            msg["kwargs"]["substitute_stack"].append(("substitute", self._sample))

    def _scopes(self) -> str:
        """The prefix of the scopes between this handler and the site being run."""
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
                f"site {name!r}: expected a unique site name, got a {kind} and a {msg['type']} "
                "site of this name. Rename one of them."
            )
        return name

    def _sample(self, msg: Message) -> Any:
        """The value of a sample site; `frames[-1]` is the innermost body that is being run."""
        if msg["type"] != "sample":
            return None
        frame = self.frames[-1]
        name = frame._name(msg)
        observed = name.removesuffix("_unobserved") + "_observed"
        if name.endswith("_unobserved") and observed in self.kinds:
            msg["fn"] = _without_obs_mask(msg["fn"])
        msg["fn"] = with_defined_gradient(msg["fn"])
        self._scale(msg)
        msg["_loops"] = tuple(step.loop for step in frame.steps)
        value = self.sources.sample(name, msg, frame.steps)
        known = msg["value"] if value is None else value
        if frame.is_body and known is not None:
            self._record(msg, known)
        return value

    def _record(self, msg: Message, value: Any) -> None:
        """Records what NumPyro does not keep of a site in a control flow body."""
        record = msg["intermediates"] or Record()
        if not isinstance(record, Record):
            return
        if self.sources.with_log_density and record.log_prob is None:
            with full_precision():
                record = record._replace(log_prob=msg["fn"].log_prob(value))
            msg["_num_masks"] = count_masks(msg["fn"])
        if self.sources.arguments is not None:
            record = record._replace(arguments=self.sources.arguments(msg["fn"]))
        msg["intermediates"] = record

    def _scale(self, msg: Message) -> None:
        """Scales a site for the rows that the data of the model were subsampled from."""
        for name in {frame.name for frame in msg["cond_indep_stack"]} & self.sources.scales.keys():
            scale = 1.0 if msg["scale"] is None else msg["scale"]
            msg["scale"] = scale * self.sources.scales[name]

    def _param(self, name: str, msg: Message) -> PyTree | None:
        msg["_num_scans"] = len(self.steps)  # NumPyro stacks its value over that many scans
        return self.sources.param(name, msg)

    def _mutable(self, name: str, msg: Message) -> PyTree | None:
        if self.is_body:
            raise ModelError(
                f"mutable site {name!r}: expected it outside control flow, got it inside the body "
                "of a scan or cond, where its new value would be lost. Read it before the loop, "
                "and put what changes into the carry of the scan."
            )
        if name not in self.sources.mutable:
            return None
        return copy_containers(self.sources.mutable[name])

    def _deterministic(self, name: str, msg: Message) -> Any:
        source = self.sources.deterministic
        return None if source is None else source(name, msg, self.steps)

    def _plate(self, name: str, msg: Message) -> Array | None:
        size, used = msg["args"]
        rows = self.sources.index.get(name)
        if rows is not None:
            used = len(rows)
            full_size = self.sources.full_sizes.get(name, size)
            if size != full_size:
                if size != used:
                    raise ModelError(
                        f"plate {name!r}: expected {full_size} rows, or the {used} of a minibatch, "
                        f"got {size}. Set its size to the length of an array along the plate."
                    )
                self.sources.scales[name] = full_size / used  # NumPyro sees a complete plate
            size = full_size
            msg["args"] = (size, used)  # else NumPyro warns that the sizes differ
        self.sources.plates[name] = (size, used or size)
        return None if rows is None else jnp.asarray(rows)


def copy_containers(tree: PyTree) -> PyTree:
    """A pytree with the same leaves in new containers: modules modify them during a run."""
    return jax.tree.map(lambda leaf: leaf, tree)


def _without_obs_mask(fn: Distribution) -> Distribution:
    """The latent part of `sample(..., obs_mask=m)` without the mask `m`.

    NumPyro adds a latent variable for every entry and masks those that were observed. With their
    prior instead of a mask the observed entries, which are not used, leave the posterior unchanged
    and the density proper. The mask `m` is the innermost one.
    """
    if count_masks(fn) == 0:
        return fn
    inner = fn.base_dist
    if isinstance(fn, ExpandedDistribution):
        return _without_obs_mask(inner).expand(fn.batch_shape)
    return _without_obs_mask(inner).mask(fn._mask) if count_masks(inner) else inner


def without_masks(fn: Distribution) -> Distribution:
    """A distribution without its masks."""
    return fn if count_masks(fn) == 0 else without_masks(fn.base_dist).expand(fn.batch_shape)


def combined_mask(fn: Distribution) -> Array | None:
    """The product of a distribution's masks, `None` without any."""
    found: Array | None = None
    while isinstance(fn, (ExpandedDistribution, MaskedDistribution)):
        if isinstance(fn, MaskedDistribution):
            mask = jnp.asarray(fn._mask, bool)
            found = mask if found is None else found & mask
        fn = fn.base_dist
    return found


def count_masks(fn: Distribution) -> int:
    """Number of masks of a distribution."""
    number = 0
    while isinstance(fn, (ExpandedDistribution, MaskedDistribution)):
        number += isinstance(fn, MaskedDistribution)
        fn = fn.base_dist
    return number

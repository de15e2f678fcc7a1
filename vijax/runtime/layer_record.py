"""What the linear layers of networks compute in one run of a model: inputs, and where outputs are.

Curvature by layers needs the inputs of every linear layer and the gradient with respect to its
outputs. A network hands every call of such a layer to the current record, which notes the inputs
and adds an offset to the outputs: the gradient with respect to offsets of zero is that gradient.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple


class LayerShape(NamedTuple):
    """A layer that is linear in its kernel.

    Attributes:
        inputs: number of inputs of each output.
        outputs: number of outputs.
    """

    inputs: int
    outputs: int


class LayerRecord:
    """The calls of linear layers in one run of a model.

    Args:
        offsets: by layer, what is added to the outputs of each of its calls; `None` for nothing.

    Attributes:
        layers: the layers, by place: the name of the network and the path in it.
        inputs: by place, the inputs of each call as the kernel meets them, `(..., inputs)`.
        outputs: by place, the outputs of each call, `(..., outputs)`.
        merged: places of layers whose first axis is not that of the network's rows.
        hidden: places of layers that are called inside a loop or another transformation, whose
            calls cannot be recorded.
    """

    def __init__(self, offsets: Mapping[str, Sequence[Any]] | None = None) -> None:
        self.offsets = offsets
        self.layers: dict[str, LayerShape] = {}
        self.inputs: dict[str, list[Any]] = {}
        self.outputs: dict[str, list[Any]] = {}
        self.merged: set[str] = set()
        self.hidden: set[str] = set()

    def offset(self, place: str) -> Any:
        """What is added to the outputs of the next call of a layer; `None` for nothing."""
        if self.offsets is None or place not in self.offsets:
            return None
        return self.offsets[place][len(self.outputs.get(place, ()))]

    def add(self, place: str, layer: LayerShape, inputs: Any, outputs: Any) -> None:
        """Notes a call."""
        self.layers[place] = layer
        self.inputs.setdefault(place, []).append(inputs)
        self.outputs.setdefault(place, []).append(outputs)


_record: contextvars.ContextVar[LayerRecord | None] = contextvars.ContextVar(
    "layer_record", default=None
)


def current_record() -> LayerRecord | None:
    """The record of the calls of layers, `None` if they are not recorded."""
    return _record.get()


@contextlib.contextmanager
def recording(record: LayerRecord) -> Iterator[None]:
    """Layers that are called inside are recorded."""
    token = _record.set(record)
    try:
        yield
    finally:
        _record.reset(token)

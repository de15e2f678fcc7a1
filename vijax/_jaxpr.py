"""What the outputs of a traced program depend on."""

from __future__ import annotations

from typing import Any

from jax.interpreters import partial_eval


def needed_inputs(jaxpr: Any, wanted: list[bool]) -> list[bool]:
    """Which inputs the wanted outputs depend on; looks into loops and inner programs as well."""
    return partial_eval.dce_jaxpr(jaxpr, wanted)[1]

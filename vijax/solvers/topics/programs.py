"""The compiled programs of topics, in float32, and visits of many groups by two threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vijax.runtime.program import Program
from vijax.solvers.topics import kernel
from vijax.solvers.topics.corpus import Group, by_document

_THREADS = 2  # that visit groups at the same time: a program of blocks runs on one core

_visit = {
    collapsed: Program(partial(kernel.visit, collapsed=collapsed), donate_argnums=(1, 3))
    for collapsed in (False, True)
}
_word_weights = {
    collapsed: Program(partial(kernel.word_weights, collapsed=collapsed))
    for collapsed in (False, True)
}


class Weights(NamedTuple):
    """Of words for topics.

    Attributes:
        rows: `(V, K)`, scaled to a largest value of one in every row.
        log_scales: logarithms of what they were divided by, `(V,)`, float64.
        collapsed: whether they are expected topics, else `exp(E log beta)`.
    """

    rows: Any
    log_scales: np.ndarray
    collapsed: bool


def weights_of(parameters: np.ndarray, collapsed: bool) -> Weights:
    """Of the parameters of the topics' Dirichlet distributions, `(V, K)`."""
    with jax.enable_x64(False):
        rows, log_scales = _word_weights[collapsed](np.asarray(parameters, np.float32))
        return Weights(rows, np.asarray(log_scales, np.float64), collapsed)


class Visited(NamedTuple):
    """What a visit of documents found.

    Attributes:
        sums: expected counts of words by topics, `(V, K)`, float32.
        log_probs: `sum_w c_w log sum_k t_k b_wk` at the start of the visit, `(D,)`, float64.
    """

    sums: np.ndarray
    log_probs: np.ndarray


def visit(
    weights: Weights,
    groups: Sequence[Group],
    gamma: np.ndarray,
    alpha: np.ndarray,
    num_steps: int,
    excluded: float = 1.0,
) -> Visited:
    """A few updates of all documents, which change `gamma`, `(D, K)`, in place.

    Args:
        weights: of the words.
        groups: that have the documents.
        gamma: parameters of the documents' topics, float32.
        alpha: `(K,)`.
        num_steps: updates of a document.
        excluded: see `kernel.visit`.
    """
    log_probs = np.zeros(len(gamma))
    program, alpha = _visit[weights.collapsed], np.asarray(alpha, np.float32)
    numbers = np.int32(num_steps), np.float32(excluded)

    def work(part: Sequence[Group]) -> np.ndarray:
        with jax.enable_x64(False):
            sums: Any = jnp.zeros_like(weights.rows)
            for group in part:
                own = group.documents >= 0
                documents = group.documents[own]
                arrays = group._replace(documents=None, num_blocks=np.int32(group.num_blocks))
                found = program(weights.rows, sums, arrays, gamma[group.documents], alpha, *numbers)
                sums = found.sums
                gamma[documents] = np.asarray(found.gamma)[own]
                scales = np.sum(group.counts * weights.log_scales[group.words], axis=-1)
                logs = np.asarray(found.log_probs, np.float64) + by_document(group, scales)
                log_probs[documents] = logs[own]
            return np.asarray(sums * weights.rows)

    parts = [groups[i::_THREADS] for i in range(min(_THREADS, len(groups)))]
    if len(parts) == 1:
        return Visited(work(parts[0]), log_probs)
    with ThreadPoolExecutor(_THREADS) as pool:
        first, second = pool.map(work, parts)
        return Visited(first + second, log_probs)

"""The most probable words of topics."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from vijax import VijaxError
from vijax.plot.style import POSTERIOR, styled

_COLUMNS = 4


def topics(top_words: Sequence[Sequence[tuple[str, float]]]) -> Figure:
    """Plots the probabilities of the most probable words, one panel for each topic.

    Args:
        top_words: words with their probabilities by topic, from `top_words` of
            `vijax.estimators.LatentDirichletAllocation`, or a part of that list.

    Raises:
        VijaxError: there are no topics.
    """
    if not len(top_words):
        raise VijaxError("top_words: expected at least one topic, got none.")
    columns = min(_COLUMNS, len(top_words))
    rows = -(-len(top_words) // columns)
    with styled():
        figure, panels = plt.subplots(
            rows, columns, figsize=(2.1 * columns, 2.2 * rows), squeeze=False, layout="constrained"
        )
        for number, axes in enumerate(panels.ravel()):
            if number >= len(top_words):
                axes.set_visible(False)
                continue
            words, probabilities = zip(*top_words[number], strict=True)
            axes.barh(range(len(words)), probabilities, color=POSTERIOR)
            axes.set_yticks(range(len(words)), words)
            axes.invert_yaxis()
            axes.set_title(f"topic {number}")
        figure.supxlabel("probability", fontsize="medium")
    return figure

"""Gaussians along a model's plates, on the host: everything linear in the number of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vijax.contracts import Space
from vijax.contracts.kernel import Floats
from vijax.guides.structured.plate_levels import Level, coordinate_indices, levels, parent_rows
from vijax.solvers.gaussians.structure import Structure, pivots


class LevelBlocks(NamedTuple):
    """The part of a precision that a level of rows brings.

    Attributes:
        diagonal: of each row, `(rows, width, width)`.
        cross: between each row and the rows above it, `(rows, width, above)`.
    """

    diagonal: Floats
    cross: Floats


class LevelConditionals(NamedTuple):
    """`x_r = gain_r x_above(r) + noise` for the rows of a level, for a mean of zero.

    Attributes:
        covariance: of the noise, `(rows, width, width)`.
        gain: `(rows, width, above)`.
    """

    covariance: Floats
    gain: Floats


class Link(NamedTuple):
    """How a level hangs together with those above and below it.

    Attributes:
        where: positions of the coordinates of each row, `(rows, width)`.
        parent: number of the level above, `None` for none.
        above: number of coordinates in the rows above a row.
        rows: the row above each row, `(rows,)`; `None` where all have the same or none.
        parents: number of rows of the level above.
        below: number of every level below, and the row of this one that each of its rows is
            below, `None` where this one has a single row.
    """

    where: np.ndarray
    parent: int | None
    above: int
    rows: np.ndarray | None
    parents: int
    below: tuple[tuple[int, np.ndarray | None], ...]

    def down(self, values: Floats, axis: int = 0) -> Floats:
        """What the rows above hold, for each row; one for all stays one, to be broadcast."""
        return values if self.rows is None else np.take(values, self.rows, axis)

    def up(self, values: Floats) -> Floats:
        """Sums of what rows hold `(rows, ...)` over those below the same, `(parents, ...)`."""
        if self.rows is None:
            return values.sum(axis=0, keepdims=True)
        out = np.zeros((self.parents, *values.shape[1:]))
        np.add.at(out, self.rows, values)
        return out

    def up_product(self, left: Floats, right: Floats) -> Floats:
        """`up` of `left' right`, both `(rows, width, ...)`, one product where that will do."""
        if self.rows is None:
            return (left.reshape(-1, left.shape[2]).T @ right.reshape(-1, right.shape[2]))[None]
        return self.up(np.swapaxes(left, 1, 2) @ right)


class Tree(Structure):
    """The levels of a space: rows conditioned on the rows above them, see `vijax.guides.structured.plate_levels`.

    The path of a row are the coordinates of the rows above it, first level first, and its own.

    Args:
        space: whose sites' plates say which.
    """

    def __init__(self, space: Space) -> None:
        self.dim = space.dim
        found = levels(space)
        self.links = [_link(found, k, where) for k, where in enumerate(coordinate_indices(space))]

    def diagonal(self, values: Floats) -> list[LevelBlocks]:
        return [
            LevelBlocks(
                values[link.where][:, :, None] * np.eye(link.where.shape[1]),
                np.zeros((*link.where.shape, link.above)),
            )
            for link in self.links
        ]

    def measure(
        self,
        apply: Callable[[Floats], Floats],
        num: int,
        rng: np.random.Generator,
        at: list[LevelConditionals],
    ) -> list[LevelBlocks]:
        """Measured where rows move along with those above them, as the conditionals `at` say.

        In the coordinates of the conditionals' own noise the optimum is where all blocks between
        rows vanish. There, what couples rows that the structure takes for independent counts in
        full, by way of the rows that they share above them.
        """
        blocks = self.diagonal(np.zeros(self.dim))
        for k, (link, own) in enumerate(zip(self.links, blocks, strict=True)):
            signs = rng.choice([-1.0, 1.0], (num, len(link.where)))
            for j in range(link.where.shape[1]):
                shocks = [np.zeros((num, *other.where.shape)) for other in self.links]
                shocks[k][:, :, j] = signs
                images = self._gather(at, apply(self._follow(at, shocks)))
                own.diagonal[:, :, j] = np.mean(signs[:, :, None] * images[k], axis=0)
                for lower, rows in link.below:
                    seen = signs if rows is None else signs[:, rows]
                    column = np.mean(seen[:, :, None] * images[lower], axis=0)
                    blocks[lower].cross[:, :, link.above + j] = column
        symmetric = [
            block._replace(diagonal=0.5 * (block.diagonal + np.swapaxes(block.diagonal, 1, 2)))
            for block in blocks
        ]
        return self._expressed(symmetric, at)

    def eliminate(
        self, blocks: list[LevelBlocks], before: list[LevelConditionals] | None
    ) -> tuple[list[LevelBlocks], list[LevelConditionals]]:
        """Rows eliminated from the last level up: `S = P - sum B' S_below^-1 B`."""
        kept, found = [], []
        fill = self._nothing()  # what rows that are gone leave behind, over the path of each row
        for k in reversed(range(len(blocks))):
            link, (diagonal, cross), left = self.links[k], blocks[k], fill[k]
            above = link.above
            old = None if before is None else before[k].covariance
            own = left[:, above:, above:]
            pivot, covariance = pivots(diagonal + own, old)
            joined = cross + left[:, above:, :above]
            gain = -covariance @ joined
            kept.append(LevelBlocks(pivot - own, cross))
            found.append(LevelConditionals(covariance, gain))
            if link.parent is not None:
                rest = link.up(left[:, :above, :above]) + link.up_product(joined, gain)
                fill[link.parent] = fill[link.parent] + rest
        return kept[::-1], found[::-1]

    def solve(self, conditionals: list[LevelConditionals], right: Floats) -> Floats:
        reduced = self._gather(conditionals, right[None])
        means = [
            np.einsum("rij,nrj->nri", one.covariance, own)
            for one, own in zip(conditionals, reduced, strict=True)
        ]
        return self._follow(conditionals, means)[0]

    def draws(self, conditionals: list[LevelConditionals], noise: Floats) -> Floats:
        shocks = []
        for link, one in zip(self.links, conditionals, strict=True):
            root = np.linalg.cholesky(one.covariance)
            shocks.append(np.einsum("rij,nrj->nri", root, noise[:, link.where]))
        return self._follow(conditionals, shocks)

    def log_det(self, conditionals: list[LevelConditionals]) -> float:
        return float(sum(0.5 * np.linalg.slogdet(one.covariance)[1].sum() for one in conditionals))

    def sds(self, conditionals: list[LevelConditionals]) -> Floats:
        out = np.zeros(self.dim)
        paths: list[Floats] = []  # covariances along the path of each row
        for link, (covariance, gain) in zip(self.links, conditionals, strict=True):
            over = np.zeros((1, 0, 0)) if link.parent is None else link.down(paths[link.parent])
            between = gain @ over
            variance = np.einsum("rii->ri", covariance) + np.sum(between * gain, axis=2)
            out[link.where] = np.sqrt(variance)
            joint = np.zeros((0, 0, 0))
            if link.below:
                over = np.broadcast_to(over, (len(gain), *over.shape[1:]))
                own = covariance + between @ np.swapaxes(gain, 1, 2)
                upper = np.concatenate([over, np.swapaxes(between, 1, 2)], axis=2)
                joint = np.concatenate([upper, np.concatenate([between, own], axis=2)], axis=1)
            paths.append(joint)
        return out

    def blocks(self, conditionals: list[LevelConditionals]) -> list[LevelBlocks]:
        inner = [
            LevelBlocks(np.linalg.inv(one.covariance), np.zeros_like(one.gain))
            for one in conditionals
        ]
        return self._expressed(inner, conditionals)

    def _expressed(
        self, inner: list[LevelBlocks], conditionals: list[LevelConditionals]
    ) -> list[LevelBlocks]:
        """A quadratic form in the noise `x_r - gain_r x_above(r)`, as one in `x`."""
        noises: list[Floats] = []  # from the path of a row to the noise of its rows
        for link, (_, gain) in zip(self.links, conditionals, strict=True):
            above, width = link.above, link.where.shape[1]
            out = np.zeros((len(gain) if link.below else 0, above + width, above + width))
            if link.below:
                out[:, :above, :above] = (
                    0 if link.parent is None else link.down(noises[link.parent])
                )
                out[:, above:, :above], out[:, above:, above:] = -gain, np.eye(width)
            noises.append(out)
        found, over = [], self._nothing()
        for k in reversed(range(len(self.links))):
            link, (own, between), (_, gain) = self.links[k], inner[k], conditionals[k]
            above, left = link.above, over[k]
            if link.parent is not None:
                between = between @ link.down(noises[link.parent])
            cross = between - own @ gain
            found.append(
                LevelBlocks(own + left[:, above:, above:], cross + left[:, above:, :above])
            )
            if link.parent is not None:
                rest = link.up_product(gain, cross) + link.up_product(between, gain)
                rest = link.up(left[:, :above, :above]) - rest
                over[link.parent] = over[link.parent] + rest
        return found[::-1]

    def diagonal_of(self, blocks: list[LevelBlocks]) -> Floats:
        out = np.empty(self.dim)
        for link, block in zip(self.links, blocks, strict=True):
            out[link.where] = np.einsum("rii->ri", block.diagonal)
        return out

    def _nothing(self) -> list[Floats]:
        """Zeros over the path of each row, one for all rows, to add to."""
        sizes = [link.above + link.where.shape[1] for link in self.links]
        return [np.zeros((1, size, size)) for size in sizes]

    def _follow(self, conditionals: list[LevelConditionals], shocks: list[Floats]) -> Floats:
        """Vectors `(..., dim)` whose rows are `gain x_above + shock`, `(..., rows, width)`."""
        out = np.empty((*shocks[0].shape[:-2], self.dim))
        paths: list[Floats] = []
        for link, one, shock in zip(self.links, conditionals, shocks, strict=True):
            path = shock
            if link.parent is not None:
                over = link.down(paths[link.parent], axis=-2)
                shock = shock + _along(one.gain, over)
                path = shock
                if link.below:
                    over = np.broadcast_to(over, (*shock.shape[:-1], link.above))
                    path = np.concatenate([over, shock], axis=-1)
            out[..., link.where] = shock
            paths.append(path)
        return out

    def _gather(self, conditionals: list[LevelConditionals], right: Floats) -> list[Floats]:
        """The transpose of `_follow`: vectors `(num, dim)` to `(num, rows, width)` by level."""
        sizes = [link.above + link.where.shape[1] for link in self.links]
        carried = [np.zeros((1, len(right), size)) for size in sizes]  # rows come first here
        found = []
        for k in reversed(range(len(self.links))):
            link, gain = self.links[k], conditionals[k].gain
            own = np.moveaxis(right[:, link.where], 1, 0) + carried[k][:, :, link.above :]
            found.append(np.moveaxis(own, 0, 1))
            if link.parent is not None:
                rest = link.up_product(np.swapaxes(own, 1, 2), gain)
                rest = rest + link.up(carried[k][:, :, : link.above])
                carried[link.parent] = carried[link.parent] + rest
        return found[::-1]


def _link(found: tuple[Level, ...], k: int, where: np.ndarray) -> Link:
    level = found[k]

    def rows(lower: Level, upper: Level) -> np.ndarray | None:
        return parent_rows(lower, upper) if upper.rows > 1 else None

    below = []
    for i, lower in enumerate(found):
        higher = lower.parent
        while higher is not None and higher != k:
            higher = found[higher].parent
        if higher == k:
            below.append((i, rows(lower, level)))
    if level.parent is None:
        return Link(where, None, 0, None, 1, tuple(below))
    upper = found[level.parent]
    return Link(
        where,
        level.parent,
        sum(level.ancestor_widths),
        rows(level, upper),
        upper.rows,
        tuple(below),
    )


def _along(gain: Floats, above: Floats) -> Floats:
    """`gain x`, `(..., rows, width)`, for `x` `(..., rows, above)`, or `(..., 1, above)`."""
    rows, width, size = gain.shape
    if above.shape[-2] == 1:
        flat = above[..., 0, :] @ gain.reshape(-1, size).T
        return flat.reshape(*above.shape[:-2], rows, width)
    return np.einsum("rwa,...ra->...rw", gain, above)

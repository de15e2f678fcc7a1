"""Gaussians structured by a model's plates, on the host: linear in the number of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vijax.contracts import Space
from vijax.contracts.kernel import Floats
from vijax.guides.structured.plate_levels import Level, coordinate_indices, levels, parent_rows
from vijax.solvers.gaussians.structure import Structure, pivots


class LevelBlocks(NamedTuple):
    """The blocks of a precision that belong to the rows of one level.

    Attributes:
        diagonal: diagonal block of each row, `(rows, width, width)`.
        cross: blocks between each row and its ancestors, `(rows, width, ancestor_dim)`.
    """

    diagonal: Floats
    cross: Floats


class LevelConditionals(NamedTuple):
    """`x_r = gain_r x_ancestors(r) + noise` for the rows of a level, for zero mean.

    Attributes:
        covariance: noise covariances, `(rows, width, width)`.
        gain: `(rows, width, ancestor_dim)`.
    """

    covariance: Floats
    gain: Floats


class LevelNode(NamedTuple):
    """The position of a level in the tree of levels.

    Attributes:
        coords: indices of the coordinates of each row, `(rows, width)`.
        parent: index of the parent level, `None` for the root.
        ancestor_dim: number of coordinates in the ancestors of a row.
        parent_rows: index of each row's parent row, `(rows,)`; `None` if all rows share one parent,
            or have none.
        num_parent_rows: number of rows of the parent level.
        descendants: index of every descendant level, with the index of the ancestor row in this
            level for each of its rows; `None` if this level has a single row.
    """

    coords: np.ndarray
    parent: int | None
    ancestor_dim: int
    parent_rows: np.ndarray | None
    num_parent_rows: int
    descendants: tuple[tuple[int, np.ndarray | None], ...]

    def take_parent(self, values: Floats, axis: int = 0) -> Floats:
        """Values of the parent of each row; a single parent row is kept for broadcasting."""
        return values if self.parent_rows is None else np.take(values, self.parent_rows, axis)

    def sum_children(self, values: Floats) -> Floats:
        """Sums of row values `(rows, ...)` over the children of each parent, `(parents, ...)`."""
        if self.parent_rows is None:
            return values.sum(axis=0, keepdims=True)
        out = np.zeros((self.num_parent_rows, *values.shape[1:]))
        np.add.at(out, self.parent_rows, values)
        return out

    def sum_children_product(self, left: Floats, rhs: Floats) -> Floats:
        """`sum_children` of `left' rhs`, both `(rows, width, ...)`, as one product if possible."""
        if self.parent_rows is None:
            return (left.reshape(-1, left.shape[2]).T @ rhs.reshape(-1, rhs.shape[2]))[None]
        return self.sum_children(np.swapaxes(left, 1, 2) @ rhs)


class Tree(Structure):
    """The tree structure of a space's plates, see `vijax.guides.structured.levels`.

    Rows are conditionally independent given their ancestors. The path of a row consists of the
    coordinates of its ancestors, from the root, and those of the row.

    Args:
        space: its sites' plates define the levels.
    """

    def __init__(self, space: Space) -> None:
        self.dim = space.dim
        found = levels(space)
        self.nodes = [_node(found, k, coords) for k, coords in enumerate(coordinate_indices(space))]

    def diagonal(self, values: Floats) -> list[LevelBlocks]:
        return [
            LevelBlocks(
                values[node.coords][:, :, None] * np.eye(node.coords.shape[1]),
                np.zeros((*node.coords.shape, node.ancestor_dim)),
            )
            for node in self.nodes
        ]

    def estimate_blocks(
        self,
        products: Callable[[Floats], Floats],
        num: int,
        rng: np.random.Generator,
        conditionals: list[LevelConditionals],
    ) -> list[LevelBlocks]:
        """Estimates blocks with products along the regressions given by `conditionals`.

        In the coordinates of the conditionals' noise all blocks between rows vanish at the optimum.
        There, couplings between rows that the structure treats as independent contribute fully to
        the blocks of their common ancestors.
        """
        blocks = self.diagonal(np.zeros(self.dim))
        for k, (node, current) in enumerate(zip(self.nodes, blocks, strict=True)):
            signs = rng.choice([-1.0, 1.0], (num, len(node.coords)))
            for j in range(node.coords.shape[1]):
                innovations = [np.zeros((num, *other.coords.shape)) for other in self.nodes]
                innovations[k][:, :, j] = signs
                images = self._from_noise_transpose(
                    conditionals, products(self._from_noise(conditionals, innovations))
                )
                current.diagonal[:, :, j] = np.mean(signs[:, :, None] * images[k], axis=0)
                for lower, rows in node.descendants:
                    row_signs = signs if rows is None else signs[:, rows]
                    column = np.mean(row_signs[:, :, None] * images[lower], axis=0)
                    blocks[lower].cross[:, :, node.ancestor_dim + j] = column
        symmetric = [
            block._replace(diagonal=0.5 * (block.diagonal + np.swapaxes(block.diagonal, 1, 2)))
            for block in blocks
        ]
        return self._in_coordinates(symmetric, conditionals)

    def eliminate(
        self, blocks: list[LevelBlocks], previous: list[LevelConditionals] | None
    ) -> tuple[list[LevelBlocks], list[LevelConditionals]]:
        """Block elimination from the last level to the root: `S = P - sum B' S_child^-1 B`."""
        bounded, found = [], []
        fill_in = self._zeros()  # fill-in of eliminated rows, on the path of each row
        for k in reversed(range(len(blocks))):
            node, (diagonal, cross), left = self.nodes[k], blocks[k], fill_in[k]
            ancestor_dim = node.ancestor_dim
            old = None if previous is None else previous[k].covariance
            current = left[:, ancestor_dim:, ancestor_dim:]
            pivot, covariance = pivots(diagonal + current, old)
            joined = cross + left[:, ancestor_dim:, :ancestor_dim]
            gain = -covariance @ joined
            bounded.append(LevelBlocks(pivot - current, cross))
            found.append(LevelConditionals(covariance, gain))
            if node.parent is not None:
                update = node.sum_children(
                    left[:, :ancestor_dim, :ancestor_dim]
                ) + node.sum_children_product(joined, gain)
                fill_in[node.parent] = fill_in[node.parent] + update
        return bounded[::-1], found[::-1]

    def solve(self, conditionals: list[LevelConditionals], rhs: Floats) -> Floats:
        reduced = self._from_noise_transpose(conditionals, rhs[None])
        means = [
            np.einsum("rij,nrj->nri", one.covariance, current)
            for one, current in zip(conditionals, reduced, strict=True)
        ]
        return self._from_noise(conditionals, means)[0]

    def draws(self, conditionals: list[LevelConditionals], noise: Floats) -> Floats:
        innovations = []
        for node, one in zip(self.nodes, conditionals, strict=True):
            root = np.linalg.cholesky(one.covariance)
            innovations.append(np.einsum("rij,nrj->nri", root, noise[:, node.coords]))
        return self._from_noise(conditionals, innovations)

    def log_det(self, conditionals: list[LevelConditionals]) -> float:
        return float(sum(0.5 * np.linalg.slogdet(one.covariance)[1].sum() for one in conditionals))

    def sds(self, conditionals: list[LevelConditionals]) -> Floats:
        out = np.zeros(self.dim)
        paths: list[Floats] = []  # covariances on the path of each row
        for node, (covariance, gain) in zip(self.nodes, conditionals, strict=True):
            ancestors = (
                np.zeros((1, 0, 0)) if node.parent is None else node.take_parent(paths[node.parent])
            )
            between = gain @ ancestors
            variance = np.einsum("rii->ri", covariance) + np.sum(between * gain, axis=2)
            out[node.coords] = np.sqrt(variance)
            joint = np.zeros((0, 0, 0))
            if node.descendants:
                ancestors = np.broadcast_to(ancestors, (len(gain), *ancestors.shape[1:]))
                current = covariance + between @ np.swapaxes(gain, 1, 2)
                upper = np.concatenate([ancestors, np.swapaxes(between, 1, 2)], axis=2)
                joint = np.concatenate([upper, np.concatenate([between, current], axis=2)], axis=1)
            paths.append(joint)
        return out

    def blocks(self, conditionals: list[LevelConditionals]) -> list[LevelBlocks]:
        noise_blocks = [
            LevelBlocks(np.linalg.inv(one.covariance), np.zeros_like(one.gain))
            for one in conditionals
        ]
        return self._in_coordinates(noise_blocks, conditionals)

    def _in_coordinates(
        self, noise_blocks: list[LevelBlocks], conditionals: list[LevelConditionals]
    ) -> list[LevelBlocks]:
        """A quadratic form in the noise `x_r - gain_r x_ancestors(r)`, as one in `x`."""
        noise_maps: list[Floats] = []  # from values on the path of a row to the noise on it
        for node, (_, gain) in zip(self.nodes, conditionals, strict=True):
            ancestor_dim, width = node.ancestor_dim, node.coords.shape[1]
            out = np.zeros(
                (len(gain) if node.descendants else 0, ancestor_dim + width, ancestor_dim + width)
            )
            if node.descendants:
                out[:, :ancestor_dim, :ancestor_dim] = (
                    0 if node.parent is None else node.take_parent(noise_maps[node.parent])
                )
                out[:, ancestor_dim:, :ancestor_dim], out[:, ancestor_dim:, ancestor_dim:] = (
                    -gain,
                    np.eye(width),
                )
            noise_maps.append(out)
        found, fill_in = [], self._zeros()
        for k in reversed(range(len(self.nodes))):
            node, (current, between), (_, gain) = self.nodes[k], noise_blocks[k], conditionals[k]
            ancestor_dim, left = node.ancestor_dim, fill_in[k]
            if node.parent is not None:
                between = between @ node.take_parent(noise_maps[node.parent])
            cross = between - current @ gain
            found.append(
                LevelBlocks(
                    current + left[:, ancestor_dim:, ancestor_dim:],
                    cross + left[:, ancestor_dim:, :ancestor_dim],
                )
            )
            if node.parent is not None:
                update = node.sum_children_product(gain, cross) + node.sum_children_product(
                    between, gain
                )
                update = node.sum_children(left[:, :ancestor_dim, :ancestor_dim]) - update
                fill_in[node.parent] = fill_in[node.parent] + update
        return found[::-1]

    def diagonal_of(self, blocks: list[LevelBlocks]) -> Floats:
        out = np.empty(self.dim)
        for node, block in zip(self.nodes, blocks, strict=True):
            out[node.coords] = np.einsum("rii->ri", block.diagonal)
        return out

    def _zeros(self) -> list[Floats]:
        """Zero matrices on the path of a row for each level, broadcast over rows."""
        sizes = [node.ancestor_dim + node.coords.shape[1] for node in self.nodes]
        return [np.zeros((1, size, size)) for size in sizes]

    def _from_noise(
        self, conditionals: list[LevelConditionals], innovations: list[Floats]
    ) -> Floats:
        """Vectors `(..., dim)` with rows `gain x_ancestors + innovation`, `(..., rows, width)`."""
        out = np.empty((*innovations[0].shape[:-2], self.dim))
        paths: list[Floats] = []
        for node, one, innovation in zip(self.nodes, conditionals, innovations, strict=True):
            path = innovation
            if node.parent is not None:
                ancestors = node.take_parent(paths[node.parent], axis=-2)
                innovation = innovation + _apply_gain(one.gain, ancestors)
                path = innovation
                if node.descendants:
                    ancestors = np.broadcast_to(
                        ancestors, (*innovation.shape[:-1], node.ancestor_dim)
                    )
                    path = np.concatenate([ancestors, innovation], axis=-1)
            out[..., node.coords] = innovation
            paths.append(path)
        return out

    def _from_noise_transpose(
        self, conditionals: list[LevelConditionals], rhs: Floats
    ) -> list[Floats]:
        """Transpose of `_from_noise`: `(num, dim)` to `(num, rows, width)` per level."""
        sizes = [node.ancestor_dim + node.coords.shape[1] for node in self.nodes]
        accumulated = [np.zeros((1, len(rhs), size)) for size in sizes]  # leading axis: rows
        found = []
        for k in reversed(range(len(self.nodes))):
            node, gain = self.nodes[k], conditionals[k].gain
            current = (
                np.moveaxis(rhs[:, node.coords], 1, 0) + accumulated[k][:, :, node.ancestor_dim :]
            )
            found.append(np.moveaxis(current, 0, 1))
            if node.parent is not None:
                update = node.sum_children_product(np.swapaxes(current, 1, 2), gain)
                update = update + node.sum_children(accumulated[k][:, :, : node.ancestor_dim])
                accumulated[node.parent] = accumulated[node.parent] + update
        return found[::-1]


def _node(found: tuple[Level, ...], k: int, coords: np.ndarray) -> LevelNode:
    level = found[k]

    def rows(lower: Level, upper: Level) -> np.ndarray | None:
        return parent_rows(lower, upper) if upper.rows > 1 else None

    descendants = []
    for i, lower in enumerate(found):
        higher = lower.parent
        while higher is not None and higher != k:
            higher = found[higher].parent
        if higher == k:
            descendants.append((i, rows(lower, level)))
    if level.parent is None:
        return LevelNode(coords, None, 0, None, 1, tuple(descendants))
    upper = found[level.parent]
    return LevelNode(
        coords,
        level.parent,
        sum(level.ancestor_widths),
        rows(level, upper),
        upper.rows,
        tuple(descendants),
    )


def _apply_gain(gain: Floats, ancestors: Floats) -> Floats:
    """`gain x`, `(..., rows, width)`, for `x` `(..., rows, ancestor_dim)` or with one row."""
    rows, width, size = gain.shape
    if ancestors.shape[-2] == 1:
        flat = ancestors[..., 0, :] @ gain.reshape(-1, size).T
        return flat.reshape(*ancestors.shape[:-2], rows, width)
    return np.einsum("rwa,...ra->...rw", gain, ancestors)

"""Labels of the elements of sites, from the coordinates of the dimensions that they are in.

A dimension is named after its plate; outside of plates `site_dim_0`, `site_dim_1`, ... as in ArviZ.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from vijax.contracts import Batch, Position, PyTree, Target
from vijax.model import Arguments
from vijax.model.data_dependence import abstract_position, with_placeholders
from vijax.posterior.model_state import ModelState
from vijax.posterior.result import FitResult
from vijax.runtime.encoding import column_name
from vijax.runtime.errors import ModelError, mismatch

Coords = dict[str, np.ndarray]  # labels by dimension
Shape = tuple[int, ...]


def element_labels(result: ModelState, site: str, shape: Shape) -> list[str]:
    """A label for every element of a site, in C order: `mu`, `theta[Choate]`, `beta[age,2]`.

    An element without coordinates has its index.

    Args:
        result: the model, fitted or not.
        site: a site or deterministic.
        shape: of its value.
    """
    if not shape:
        return [site]
    coords, axes = result.arguments.coords, []
    for name, size in zip(dim_names(result.target, site, shape), shape, strict=True):
        labelled = name in coords and len(coords[name]) == size
        axes.append(coords[name] if labelled else range(size))
    return [f"{site}[{','.join(map(str, index))}]" for index in itertools.product(*axes)]


def coordinate_labels(result: FitResult) -> list[str]:
    """A label for every unconstrained coordinate, in the order of the space."""
    sites = result.target.space.sites
    return [label for site in sites for label in element_labels(result, site.name, site.z_shape)]


def dim_names(target: Target, site: str, shape: Shape) -> list[str]:
    """The names of a site's dimensions; those of a part of a plate are numbered, too."""
    plates = target.structure.dims.get(site, ())
    if len(plates) != len(shape):
        plates = (None,) * len(shape)
    names: list[str] = []
    unnamed = itertools.count()
    for plate, size in zip(plates, shape, strict=True):
        known = target.subsampling.plates.get(plate) if plate is not None else None
        whole = known is not None and known.size == size and known.name not in names
        names.append(known.name if known and whole else f"{site}_dim_{next(unnamed)}")
    return names


def checked_coords(coords: Any, target: Target, arguments: Arguments, batch: Batch) -> Coords:
    """The labels of dimensions: the option `coords`, and those of categorical columns.

    Args:
        coords: labels by dimension, one for each element; `None` for none.
        target: the model.
        arguments: its static arguments.
        batch: its data in memory.

    Raises:
        TypeError: it is not a mapping.
        ModelError: a dimension is unknown, or its labels are too few, too many, or not distinct.
    """
    found = level_coords(target, arguments, batch)
    if coords is None:
        return found
    if not isinstance(coords, Mapping):
        expected = "a mapping from a plate (or site_dim_0, ...) to its labels"
        raise TypeError(mismatch("coords", expected, type(coords).__name__))
    sizes = _dimensions(target, {site.name: site.shape for site in target.space.sites})
    if not coords.keys() <= sizes.keys() and target.subsampling.whole:
        batch = with_placeholders(batch, arguments, arguments.sources)
        sizes = _dimensions(target, _shapes(target, batch))
    for name, values in coords.items():
        if name not in sizes:
            known = ", ".join(f"{dim!r} ({size})" for dim, size in sizes.items()) or "none"
            raise ModelError(mismatch("coords", f"dimensions of the model: {known}", repr(name)))
        labels = as_labels(values) if hasattr(values, "__len__") else np.asarray(values)
        what = f"coords[{name!r}]"
        if labels.shape != (sizes[name],):
            got = f"{len(labels)} labels" if labels.ndim == 1 else f"shape {labels.shape}"
            raise ModelError(mismatch(what, f"{sizes[name]} labels, one for each element", got))
        values, counts = np.unique(labels, return_counts=True)
        if counts.size and counts.max() > 1:
            repeated = values[counts.argmax()]
            raise ModelError(mismatch(what, "distinct labels", f"{str(repeated)!r} twice"))
        found[name] = labels
    return found


def as_labels(values: Iterable[Any]) -> np.ndarray:
    """Labels as an array of numbers, dates or strings; any other label as a string."""
    array = np.asarray(values if hasattr(values, "__array__") else list(values))
    if array.dtype.kind in "biufUM":
        return array
    return np.array([str(value) for value in array.ravel()], str).reshape(array.shape)


def level_coords(target: Target, arguments: Arguments, batch: Batch) -> Coords:
    """Labels of plates from the categorical columns of the data.

    A plate has the labels of the column of its name, or else of the only column with as many
    labels; unless this one belongs to other plates, by their name or because it selects from their
    sites. With as many rows as labels it may be a plate of the rows: then the labels must be in
    their order.

    Args:
        target: the model.
        arguments: its static arguments.
        batch: its data in memory.
    """
    rows = {shape[0] for shape, _ in arguments.avals.values() if shape}
    known = batch.data | arguments.static()
    columns = {
        name: _Column(np.asarray(known[name]), as_labels(labels))
        for name, labels in arguments.levels.items()
        if name in known
    }
    short, found = short_names(columns), {}
    plates, selects = target.subsampling.plates, _selects(target)
    for plate, size in ((name, one.size) for name, one in plates.items()):
        suiting = [name for name, column in columns.items() if column.labels_plate(size)]
        named = [name for name in suiting if short[name] == plate]
        others = [name for name in suiting if size not in rows or columns[name].in_order]
        others = [
            name
            for name in others
            if plate in selects[name] or not (selects[name] or short[name] in plates)
        ]
        chosen = named or others
        if len(chosen) == 1:
            found[plate] = columns[chosen[0]].labels
    return found


def _selects(target: Target) -> Mapping[str, set[str]]:
    """The plates of the sites that an array selects from, by its name; as far as it is known."""
    found: dict[str, set[str]] = collections.defaultdict(set)
    for gather in target.structure.gathers:
        plates = target.structure.dims.get(gather.array, ())
        plate = plates[gather.axis] if len(plates) == len(gather.shape) else None
        if plate is None:
            continue
        for name in gather.indices.inputs:
            found[name].add(plate)
    return found


class _Column(NamedTuple):
    """A categorical column: codes `(rows,)`, and labels by code."""

    codes: np.ndarray
    labels: np.ndarray

    @property
    def in_order(self) -> bool:
        """Whether each row has a label of its own, in the order of the rows."""
        return np.array_equal(self.codes, np.arange(len(self.labels)))

    def labels_plate(self, size: int) -> bool:
        """Whether a plate of this size can have its labels, also if it is one of the rows."""
        distinct = len(self.labels) == size == len(np.unique(self.labels))
        return distinct and (len(self.codes) != size or self.in_order)


def short_names(names: Iterable[str]) -> dict[str, str]:
    """The names of columns without that of the data frame, where that is unambiguous."""
    last = {name: column_name(name) for name in names}
    counts = collections.Counter(last.values())
    return {name: one if counts[one] == 1 else name for name, one in last.items()}


def kept_coords(result: FitResult) -> Coords:
    """The labels of a fit that apply at other rows of data, too: not those of the rows."""
    target = result.target
    rows = {plate for site in target.structure.observed for plate in target.structure.dims[site]}
    kept = _dimensions(target, {site.name: site.shape for site in target.space.sites})
    return {
        name: labels
        for name, labels in result.arguments.coords.items()
        if name in kept and name not in rows
    }


def coords_of(result: FitResult, sites: Collection[str]) -> Coords:
    """The labels along the dimensions of some latent sites."""
    of_sites = [site for site in result.target.space.sites if site.name in sites]
    names = {n for site in of_sites for n in dim_names(result.target, site.name, site.shape)}
    return {name: labels for name, labels in result.arguments.coords.items() if name in names}


def _dimensions(target: Target, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """The size of every dimension by name."""
    sizes = {name: plate.size for name, plate in target.subsampling.plates.items()}
    for site, shape in shapes.items():
        for name, size in zip(dim_names(target, site, shape), shape, strict=True):
            sizes.setdefault(name, size)
    return sizes


def _shapes(target: Target, batch: Batch) -> dict[str, Shape]:
    """The shapes of all latent sites, deterministics and observed sites; nothing is computed."""

    def values(key: Any, z: Position, batch: Batch) -> tuple[PyTree, PyTree]:
        model, mutable = target.initialize(key, batch)
        found = target.constrain(z, batch, model, mutable)
        return found, target.observations(batch, model, mutable)

    latent, observed = jax.eval_shape(
        values, jax.random.key(0), abstract_position(target.space), batch
    )
    return {name: value.shape for name, value in (latent | observed).items()}

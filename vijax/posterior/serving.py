"""Predictors for rows, and their export to files that need neither the model nor the library."""

from __future__ import annotations

import inspect
import io
import json
import os
import secrets
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from vijax._version import __version__
from vijax.model import (
    RowModel,
    SharedState,
    Statistic,
    check_rows,
    check_statistic,
    index_limits,
    out_axes,
    predict_rows,
    row_model,
)
from vijax.posterior import draws
from vijax.posterior.missing_inputs import may_be_missing
from vijax.posterior.requirements import require_data
from vijax.posterior.result import FitResult
from vijax.posterior.sampling import unconstrained
from vijax.runtime import predictor
from vijax.runtime.checks import check_count
from vijax.runtime.compilation_cache import OnDisk
from vijax.runtime.errors import VijaxError, mismatch
from vijax.runtime.keys import fold_in

_PLAIN = (bool, int, float, str)


class Options(NamedTuple):
    """What a predictor computes, see `Posterior.predictor`."""

    returns: Statistic
    ci_prob: float
    num_draws: int
    max_rows: int


class Predictor(predictor.Predictor):
    """A compiled posterior predictive for any number of rows, see `Posterior.predictor`.

    It is called as the model. Rows are padded to one of a few sizes, and more than the largest are
    taken in blocks: once these are compiled, no number of rows compiles anything. Results do not
    depend on the padding, and those of a row not on the other rows. Several threads may call it.

    Attributes:
        rows: names of the arguments that have an axis of rows.
        sizes: the numbers of rows that programs are compiled for.
    """

    def export(
        self, path: str | os.PathLike[str], platforms: Collection[str] = ("cpu", "cuda", "tpu")
    ) -> None:
        """Writes the program and the posterior draws to one file, see `vijax.load_predictor`.

        The file needs neither the model nor NumPyro nor this library. It has a program for any
        number of rows (StableHLO), arrays, and a Python module that loads them; no rows of data.

        Args:
            path: the file; an existing one is replaced once the new one is complete.
            platforms: that the program is for: `"cpu"`, `"cuda"`, `"rocm"`, `"tpu"`.

        Raises:
            VijaxError: the program has an operation that a platform lacks, or flatbuffers, which
                JAX needs to write programs, is not installed.
        """
        export(self, path, tuple(platforms))


def load_predictor(path: str | os.PathLike[str]) -> predictor.Predictor:
    """Loads what `Predictor.export` wrote, without the model; no Python code of it is run.

    Args:
        path: the file.

    Returns:
        A predictor that is called as the exported one, with keywords of the same names.

    Raises:
        VijaxError: it is not such a file, or of a newer version.
    """
    try:
        found = predictor.load(path)
    except ValueError as error:
        raise VijaxError(str(error)) from None
    program = found._program

    def kept(*arrays: Any) -> Any:
        with OnDisk():  # the module that is written to files cannot, it stands alone
            return program(*arrays)

    found._program = kept
    return found


def make_predictor(
    result: FitResult,
    key: Array,
    example: tuple[tuple[Any, ...], dict[str, Any]],
    options: Options,
    from_prior: frozenset[str],
    batch_axes: Mapping[str, int | None],
) -> Predictor:
    """See `Posterior.predictor`."""
    returns, ci_prob, num_draws, max_rows = options
    check_statistic(returns, ci_prob)
    max_rows = check_count("max_rows", max_rows)
    (args, kwargs), positions = example, _positions(result.model, len(example[0]))
    if not args and not kwargs:
        require_data(result, "predictor without an example")
        args, kwargs = result.arguments.join(result.batch.data)
    target, variables = result.target, result.variables
    z = unconstrained(result, fold_in(key, 0), check_count("num_draws", num_draws))
    # those of `predict` with the same key
    values = draws.constrain(result, draws.with_discrete(result, z, fold_in(fold_in(key, 1), 2)))
    latent = {*target.space.names, *target.marginalized.sizes} - from_prior
    shared = jax.device_put({name: x for name, x in values.items() if name in latent})
    state = SharedState(shared, variables.model, result.mutable, result.batch.linearized)
    fitted = result.arguments
    found = row_model(result.model, args, kwargs, target, fitted, batch_axes, state)
    check_rows(target, found)
    program = target.program(predict_rows, found.call, returns, ci_prob)
    arrays = jax.device_put(tuple(found.state))
    config = _config(found, positions) | {"max_rows": max_rows}
    for name, limits in index_limits(found).items():
        config["rows"][name]["limits"] = limits
    for name, spec in config["rows"].items():
        spec["missing"] = may_be_missing(result, name)
    fixed = {name: x for name, x in found.data.items() if name not in dict(found.call.axes)}
    shapes = jax.eval_shape(program, *_abstract(config, 1), fixed, *arrays)
    config["output_axes"] = jax.tree.leaves(out_axes(found.call, returns, shapes))
    return Predictor(program, fixed, arrays, config)


def export(one: Predictor, path: str | os.PathLike[str], platforms: tuple[str, ...]) -> None:
    """See `Predictor.export`."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no directory {path.parent}. Create it first.")
    leaves, structure = jax.tree.flatten(one._state)

    def program(seed: Array, rows: Any, fixed: Any, leaves: list[Array]) -> Any:
        return one._program(seed, rows, fixed, *jax.tree.unflatten(structure, leaves))

    (num_rows,) = jax.export.symbolic_shape("rows")
    arguments = (*_abstract(one._config, num_rows), one._fixed, leaves)
    try:
        exported = jax.export.export(jax.jit(program), platforms=platforms)(*arguments)
    except (NotImplementedError, ValueError) as error:
        raise VijaxError(
            f"export: expected a program for the platforms {', '.join(platforms)}, got: {error} "
            "Name those that will be used: platforms=('cpu',)."
        ) from error
    try:
        serialized = bytes(exported.serialize())
    except ImportError as error:
        expected = "the package flatbuffers, with which JAX writes programs"
        message = mismatch("export", expected, "none", "Install it: pip install flatbuffers.")
        raise VijaxError(message) from error
    arrays = {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)}
    arrays |= {name: np.asarray(x) for name, x in one._fixed.items()}
    plain = {n: x for n, x in one._config["plain"].items() if x is None or isinstance(x, _PLAIN)}
    config = one._config | {
        "format": predictor.FORMAT,
        "versions": {"vijax": __version__, "jax": jax.__version__},
        "platforms": platforms,
        "plain": plain,
        "num_leaves": len(leaves),
        "dtypes": {name: str(x.dtype) for name, x in arrays.items() if x.dtype.kind == "V"},
    }
    stored = io.BytesIO()
    np.savez(stored, **arrays)  # type: ignore[arg-type]
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with zipfile.ZipFile(temporary, "x", zipfile.ZIP_DEFLATED) as file:
            file.writestr("predictor.json", json.dumps(config, indent=1))
            file.writestr("program.bin", serialized)
            file.writestr("arrays.npz", stored.getvalue())
            file.writestr(f"{predictor.MODULE}.py", inspect.getsource(predictor))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _config(found: RowModel, positions: list[str]) -> dict[str, Any]:
    """The description of the arguments, see `vijax.runtime.predictor.Predictor`."""
    axes, arguments, rows = dict(found.call.axes), found.call.call.arguments, {}
    for name in found.used:
        (shape, dtype), axis = arguments.avals[name], axes[name]
        rows[name] = {"axis": axis, "shape": shape[:axis] + shape[axis + 1 :], "dtype": str(dtype)}
        if name in arguments.levels:
            rows[name]["labels"] = list(arguments.levels[name])
    return {
        "positions": positions,
        "rows": rows,
        "ignored": [name for name in axes if name not in rows],
        "plain": arguments.static(),
        "x64": bool(jax.config.jax_enable_x64),  # type: ignore[attr-defined]
    }


def _positions(model: Callable[..., Any], num_args: int) -> list[str]:
    """The names of positional arguments, as `vijax.model.split` gives them."""
    names: list[str] = []
    try:
        parameters = [*inspect.signature(model).parameters.values()]
    except (TypeError, ValueError):  # a callable without a signature
        parameters = []
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            break
        names.append(parameter.name)
    return names + [f"args[{i}]" for i in range(len(names), num_args)]


def _abstract(config: dict[str, Any], num_rows: Any) -> tuple[Any, dict[str, Any]]:
    """The shapes of a seed and of so many rows."""
    rows = {}
    for name, spec in config["rows"].items():
        axis, shape = spec["axis"], tuple(spec["shape"])
        full = (*shape[:axis], num_rows, *shape[axis:])
        rows[name] = jax.ShapeDtypeStruct(full, np.dtype(spec["dtype"]))
    return jax.ShapeDtypeStruct((3,), np.uint32), rows

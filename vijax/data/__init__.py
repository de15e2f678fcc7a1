"""Data that do not fit into memory: sources of rows that `fit` reads in minibatches.

Pass a source, or a memory map, where the model expects an array. Data frames are passed to `fit` as
they are; `columns` is what a model gets of one.
"""

from vijax.contracts import RowSource
from vijax.data.files import npy, save_npy, table
from vijax.data.frames import Columns, columns
from vijax.data.records import records
from vijax.data.stream import stream

__all__ = ["Columns", "RowSource", "columns", "npy", "records", "save_npy", "stream", "table"]

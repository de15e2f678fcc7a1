"""Data that do not fit into memory: sources of rows that `fit` reads in minibatches.

Pass a source, or a memory map, where the model expects an array.
"""

from vijax.contracts import RowSource
from vijax.data.files import npy, save_npy, table
from vijax.data.records import records
from vijax.data.stream import stream

__all__ = ["RowSource", "npy", "records", "save_npy", "stream", "table"]

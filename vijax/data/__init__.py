"""Data that do not fit into memory: rows that `fit` reads batch by batch.

Pass what these functions return, or a memory map, where the model expects an array.
"""

from vijax.contracts import RowSource
from vijax.data.files import npy, save_npy, table
from vijax.data.records import records
from vijax.data.stream import stream

__all__ = ["RowSource", "npy", "records", "save_npy", "stream", "table"]

"""Arrays as `.npy` files of their full size, filled by rows: written and not mapped, so that none stays in memory."""

from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt


def make(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> None:
    """A file of zeros that takes no room yet; its bytes are those of `np.save`."""
    if 0 in shape:  # nothing to map
        np.save(path, np.empty(shape, dtype))
    else:
        np.lib.format.open_memmap(path, "w+", dtype, shape)


def put(path: Path, at: int, rows: npt.ArrayLike) -> None:
    """Writes rows from row `at` on, in the file's type."""
    with path.open("r+b") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        file.seek(at * dtype.itemsize * prod(shape[1:]), 1)
        file.write(np.ascontiguousarray(rows, dtype).data)

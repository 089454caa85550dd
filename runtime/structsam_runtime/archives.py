"""Arrays of .npz files, read with limits and without pickle."""

import io
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_array(archive: zipfile.ZipFile, name: str, most: int) -> NDArray[Any]:
    """One array of an open .npz file.

    Args:
        archive: the file.
        name: of the array.
        most: bytes that are read; what the archive says of its size is checked before memory is taken for it.

    Raises:
        ValueError: it has more bytes, or holds Python objects. A damaged file raises in a dozen ways, from
            KeyError to those of zlib.
    """
    size = archive.getinfo(f"{name}.npy").file_size
    if size > most:
        raise ValueError(f"its {name} have {size} bytes, expected {most} at most")
    array: NDArray[Any] = np.load(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
    return array

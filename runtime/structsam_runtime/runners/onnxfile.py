"""What all runners of ONNX files check and tell, and what a file says of itself."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, printable
from .protobuf import field, fields, text

EXPORT = "structsam.export"
"""Key of the export's id in the metadata of its graphs."""
MOST_THREADS = 1024
"""More than the cores of any machine; every thread takes memory at once."""


def check_threads(threads: int | None) -> None:
    """Check a number of CPU threads; None is the library's own choice.

    Raises:
        UserError: it is not 1 to MOST_THREADS.
    """
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise UserError(f"threads is {threads}, expected 1 to {MOST_THREADS}")


def check_file(path: Path) -> None:
    """Check that a file is there, under a path that libraries in C++ can open.

    Raises:
        UserError: it is not.
    """
    if not path.is_file():
        raise UserError(f"no file {path}; expected an ONNX model")
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the path {printable(str(path))} is not UTF-8; rename its folder or file") from error


def check_export(path: Path, said: str | None, export: str | None) -> None:
    """Check that a file belongs to an export; one that does not say so may.

    Args:
        path: the file.
        said: the id in its metadata.
        export: the id in the manifest; None accepts any.

    Raises:
        UserError: it says another one.
    """
    if export and said and said != export:
        raise UserError(f"{path} is of another export than its manifest; copy them again together")


def weights(path: Path) -> int:
    """Bytes of a file and of the second one that may hold its weights, as that of OpenVINO's .xml does."""
    files = (path, path.with_name(f"{path.name}.data"), path.with_suffix(".bin"))
    return sum(file.stat().st_size for file in files if file.is_file())


# Numbers of fields in onnx.proto.
_GRAPH, _METADATA = 7, 14  # of a model
_INPUT, _OUTPUT = 11, 12  # of a graph
_KEY, _VALUE = 1, 2  # of an entry of the metadata
_NAME, _TYPE = 1, 2  # of an input or output
_TENSOR = 1  # of a type
_SHAPE = 2  # of a tensor
_AXIS = 1  # of a shape
_LENGTH, _PARAMETER = 1, 2  # of an axis

Axes = dict[str, tuple[int | str, ...]]


@dataclass(frozen=True)
class OnnxFile:
    """Shapes and metadata of an ONNX file.

    Attributes:
        inputs, outputs: shapes by name; a text is the name of a dynamic axis, and unique where it has none.
        metadata: texts by key.
    """

    inputs: Axes
    outputs: Axes
    metadata: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "OnnxFile":
        """From a file that a library could load."""
        model = fields(np.memmap(path, np.uint8, "r").data)
        graph = fields(model[_GRAPH][0])
        return cls(
            inputs=dict(map(_axes, graph[_INPUT])),
            outputs=dict(map(_axes, graph[_OUTPUT])),
            metadata={text(one, _KEY): text(one, _VALUE) for one in model[_METADATA]},
        )


def _axes(value: memoryview) -> tuple[str, tuple[int | str, ...]]:
    """Name and shape of an input or output, a tensor; none of a type without a shape."""
    name = text(value, _NAME)
    shapes = (
        shape
        for told in fields(value)[_TYPE]
        for one in fields(told)[_TENSOR]
        for shape in fields(one)[_SHAPE]
    )
    axes = [axis for shape in shapes for axis in fields(shape)[_AXIS]]
    return name, tuple(_axis(axis, f"{name}.{place}") for place, axis in enumerate(axes))


def _axis(axis: memoryview, unnamed: str) -> int | str:
    told: dict[int, list[Any]] = fields(axis)
    return int(told[_LENGTH][0]) if told[_LENGTH] else text(axis, _PARAMETER) or unnamed


def with_outputs(path: Path, tensors: Iterable[str]) -> bytes:
    """An ONNX file with inner tensors of its graph as further outputs, by their names.

    Libraries infer the types of outputs that have a name alone.
    """
    outputs = (field(_OUTPUT, field(_NAME, name.encode())) for name in tensors)
    return path.read_bytes() + field(_GRAPH, b"".join(outputs))

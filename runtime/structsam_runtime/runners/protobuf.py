"""Fields of messages in the encoding of ONNX files, which the runtime has no package to read.

Protocol Buffers: https://protobuf.dev/programming-guides/encoding.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any


def text(message: memoryview, number: int) -> str:
    """The text of a field; empty where the message has none."""
    return next(texts(message, number), "")


def texts(message: memoryview, number: int) -> Iterator[str]:
    """The texts of a field that may be repeated."""
    return (bytes(one).decode() for one in fields(message)[number])


def fields(message: memoryview) -> dict[int, list[Any]]:
    """The values of each field of a message: integers, and the bytes of texts and of messages within."""
    found: dict[int, list[Any]] = defaultdict(list)
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = divmod(key, 8)
        if kind == 0:
            value, at = _varint(message, at)
            found[number].append(value)
            continue
        size, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        found[number].append(message[at : at + size])
        at += size
    return found


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """An integer in bytes of seven bits, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at

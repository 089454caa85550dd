"""Masks of one picture as a file of COCO annotations."""

from collections.abc import Mapping, Sequence
from typing import Any


def annotated(found: Sequence[Mapping[str, Any]], name: str, height: int, width: int) -> dict[str, Any]:
    """The content of the file: one picture, and every mask an object without a class.

    Args:
        found: masks of `AutomaticMaskGenerator`, as run lengths.
        name: of the picture's file.
        height, width: of the picture, pixels.
    """
    return {
        "images": [{"id": 1, "file_name": name, "height": height, "width": width}],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, **one}
            for number, one in enumerate(found, start=1)
        ],
    }

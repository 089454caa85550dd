"""Finding and reading the files of a dataset, with one line for whatever is wrong with them."""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import UserError
from ...pictures import list_pictures, opened
from ...pictures.levels import narrow
from ...pictures.reading import orientation, oriented, size_of
from ...pictures.tiff import lay_out

FOREGROUND = 128  # a grey mask is foreground above this value (paper, appendix B)
LISTED = 8


def locate(root: Path, layouts: Sequence[tuple[str, ...]], parents: Sequence[str] = ()) -> tuple[Path, ...]:
    """The first layout that is there as a whole.

    Args:
        root: the folder that a person named.
        layouts: paths that belong together, the usual ones first.
        parents: folders under ``root`` that they may lie in instead.

    Raises:
        UserError: none is there; the message says what was looked for, and what lies there instead.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}; expected the folder of the dataset")
    places = [
        tuple(folder / path for path in layout)
        for folder in (root, *map(root.joinpath, parents))
        for layout in layouts
    ]
    for place in places:
        if all(path.exists() for path in place):
            return place
    lost = [path for place in places for path in place if not path.exists()]
    nearest = max(map(_existing, lost), key=lambda path: len(path.parts))
    wanted = ", or ".join(" + ".join(layout) for layout in layouts)
    where = " or its ".join([str(root), *parents])
    raise UserError(f"looked in {where} for {wanted}; found in {nearest}: {_listing(nearest)}")


def _existing(path: Path) -> Path:
    """The innermost folder around ``path`` that is there."""
    return next(parent for parent in path.parents if parent.is_dir())


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return (", ".join(names[:LISTED]) or "nothing") + more


def pictures_in(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by their stem, sorted. What is none is said on stderr.

    Raises:
        UserError: there are none, or two have the same stem.
    """
    found: dict[str, Path] = {}
    listing = list_pictures(folder, deep=False)
    for path in map(folder.joinpath, listing.pictures):
        if path.stem in found:
            raise UserError(f"{folder} has {found[path.stem].name} and {path.name}; expected one of a name")
        found[path.stem] = path
    if not found:
        raise UserError(f"no pictures in {folder}; found {_listing(folder)}")
    listing.say()
    return found


def pairs(images: Path, masks: Path, names: Path | None = None) -> dict[str, tuple[Path, Path]]:
    """Pictures of one folder with the masks of the same stem in another, sorted by stem.

    Args:
        images: folder of the pictures.
        masks: folder of the masks; those without a picture are passed over.
        names: text file with the name of a picture on each line; without it, all pictures.

    Returns:
        stem -> picture, mask.

    Raises:
        UserError: a name has no picture or a picture has no mask, a folder has no pictures, two files of a
            folder have one stem.
    """
    pictures, drawn = pictures_in(images), pictures_in(masks)
    stems = _stems(names) if names else list(pictures)
    for folder, there in ((images, pictures), (masks, drawn)):
        lacking = [stem for stem in stems if stem not in there]
        if lacking:
            raise UserError(
                f"{len(lacking)} of {len(stems)} names are not in {folder}, such as {lacking[0]};"
                f" found {_listing(folder)}"
            )
    return {stem: (pictures[stem], drawn[stem]) for stem in stems}


def _stems(names: Path) -> list[str]:
    try:
        lines = _regular(names).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{names} cannot be read as a list of names: {error}") from error
    return sorted({Path(line.strip()).stem for line in lines if line.strip()})


def read_mask(path: Path) -> NDArray[np.bool_]:
    """A binary mask: foreground is where the grey value is above 128 of 255 (paper, appendix B).

    Colours and palettes count by their luminance, 16 bits are scaled to 8, alpha is ignored.

    Returns:
        bool [H, W].

    Raises:
        UserError: the file is missing or broken; or it is not empty and yet nothing in it is above 128, as in
            a mask of zeros and ones.
    """
    with opened(path) as image:
        lay_out(image)
        image.load()
        wide = image.mode.startswith(("I", "F"))
        grey = oriented(_eight_bits(image, path) if wide else np.asarray(_grey(image)), orientation(image))
    brightest = int(grey.max())
    if 0 < brightest <= FOREGROUND:
        raise UserError(
            f"the mask {path} is nowhere brighter than {brightest} of 255; expected the object above"
            f" {FOREGROUND}; write it in black and white"
        )
    return np.asarray(grey > FOREGROUND)


def _eight_bits(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    """16 bits to 8 by their range: stretched like a photograph, a mask of zeros and ones would look well."""
    grey = np.asarray(image)  # [H, W]; some versions of Pillow open 16-bit files with 32-bit pixels
    if grey.dtype.kind == "f" or grey.min() < 0 or grey.max() > 0xFFFF:
        raise UserError(f"{path} has {grey.dtype} pixels beyond 16 bits; write the mask in black and white")
    return narrow(grey)


def _grey(image: Image.Image) -> Image.Image:
    # Straight to grey, a transparent palette would warn.
    return (image.convert("RGBA") if image.mode in ("P", "PA") else image).convert("L")


def read_ids(path: Path) -> NDArray[np.uint16]:
    """A picture whose values are numbers of classes or instances, not colours.

    Returns:
        uint16 [H, W]; of a palette picture, the indices.

    Raises:
        UserError: the file is missing or broken, or has several channels or values beyond 16 bits.
    """
    with opened(path) as image:
        if image.mode not in ("L", "P") and not image.mode.startswith("I"):
            raise UserError(f"{path} has the mode {image.mode}, expected one channel of 8 or 16 bits, ids")
        ids = np.asarray(image)
    if ids.min() < 0 or ids.max() > 0xFFFF:  # some versions of Pillow open 16-bit files with 32-bit pixels
        raise UserError(f"{path} has values from {ids.min()} to {ids.max()}, expected ids of 16 bits")
    return ids.astype(np.uint16)


def read_rgb_ids(path: Path) -> NDArray[np.uint32]:
    """COCO's panoptic pictures: the id of a segment is R + 256 G + 65536 B.

    Returns:
        uint32 [H, W].

    Raises:
        UserError: the file is missing, broken or not RGB.
    """
    with opened(path) as image:
        if image.mode != "RGB":
            raise UserError(f"{path} has the mode {image.mode}, expected RGB with the ids of segments")
        rgb = np.asarray(image).astype(np.uint32)  # [H, W, 3]
    ids: NDArray[np.uint32] = rgb @ np.array([1, 256, 65536], np.uint32)
    return ids


def check_size(picture: Path, annotation: object, shape: tuple[int, ...]) -> None:
    """Refuse an annotation that does not lie on its picture pixel by pixel.

    Args:
        picture: its file.
        annotation: what it is compared with, for the message: a file, usually.
        shape: height and width of the annotation.

    Raises:
        UserError: the sizes differ, or the picture is missing or broken.
    """
    height, width = size_of(picture)
    if shape != (height, width):
        raise UserError(
            f"{picture} has {width} x {height} pixels and {annotation} has {shape[1]} x {shape[0]};"
            " expected the same"
        )


def read_json(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """A JSON object that has at least these keys.

    Raises:
        UserError: the file is missing or not JSON, or lacks a key.
    """
    try:
        content = json.loads(_regular(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    lacking = [key for key in keys if not isinstance(content, dict) or key not in content]
    if lacking:
        raise UserError(f"{path} has no {', '.join(lacking)}; expected annotations in COCO's format")
    return dict(content)


def _regular(path: Path) -> Path:
    """The same path. A pipe would be waited for, for ever."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a regular file")
    return path


def optional(module: str) -> Any:
    """A module that only evaluation needs.

    Raises:
        UserError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f'this dataset needs {error.name}; pip install "structsam[evaluate]"') from error

"""One object in each picture: a folder of pictures and a folder of black and white masks.

DIS5K, splits DIS-VD, DIS-TE1 to DIS-TE4 and DIS-TR::

    DIS5K/
        DIS-VD/
            im/*.jpg
            gt/*.png

ThinObject-5K, splits test, val and train, as its authors and as HQ-SAM distribute it::

    ThinObject5K/                           thin_object_detection/ThinObject5K/
        images/*.jpg                            images_test/*.jpg
        masks/*.png                             masks_test/*.png
        list/test.txt  train.txt  val.txt       images_train/  masks_train/

COIFT and HRSOD, as HQ-SAM distributes them::

    thin_object_detection/
        COIFT/                              HRSOD/
            images/*.jpg                        images/*.jpg
            masks/*.png                         masks_max255/*.png

``folder``, for pictures of one's own, of any kind that Pillow reads::

    FOLDER/
        images/NAME.jpg
        masks/NAME.png

The root may be the folder that the tree starts with or the one around it.
"""

from dataclasses import dataclass
from pathlib import Path

from .base import Annotated, Object
from .files import check_size, locate, pairs, read_mask

DIS5K = (("{split}/im", "{split}/gt"),)
THINOBJECT5K = (("images", "masks", "list/{split}.txt"), ("images_{split}", "masks_{split}"))
COIFT = FOLDER = (("images", "masks"),)
HRSOD = (("images", "masks_max255"),)


@dataclass(frozen=True, kw_only=True)
class Pair(Annotated):
    """A picture with one mask in a file of its own."""

    mask: Path

    def _decode(self) -> list[Object]:
        mask = read_mask(self.mask)
        check_size(self.picture, self.mask, mask.shape)
        return [Object(mask)]


def read_pairs(
    root: Path, split: str, *, layouts: tuple[tuple[str, ...], ...], parents: tuple[str, ...] = ()
) -> list[Annotated]:
    """The pictures of one split, sorted by name.

    Args:
        root: the folder that a person named.
        split: takes the place of ``{split}`` in the layouts.
        layouts: folder of the pictures, folder of the masks and, where they hold several splits, the text
            file that names the pictures of one.
        parents: folders under ``root`` that the layouts may lie in instead.

    Raises:
        UserError: no layout is there, or a picture has no mask.
    """
    places = [tuple(path.format(split=split) for path in layout) for layout in layouts]
    found = pairs(*locate(root, places, parents))
    return [Pair(name=name, picture=picture, mask=mask) for name, (picture, mask) in found.items()]

"""The pictures that training reads: photographs, and what is marked in them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from structsam_runtime.errors import UserError
from structsam_runtime.predict.image import read_image

HELD_OUT = 20
"""Annotated pictures of a panoptic folder that are kept for validation: the last ones by id."""
PERIOD = 24
"""Of the pictures of another source, by name, the last two of every so many are kept for validation.

Two, because some sources have pairs of pictures of the same thing, one behind the other.
"""
UNKNOWN = 255
"""The label of pixels whose object is not known."""
PANOPTIC = "coco-train"
"""The source, and the folder, in COCO's panoptic layout."""
SHARES = {
    PANOPTIC: 22,
    "coco_minis": 28,
    "coco_persons": 3,
    "duts_tr": 12,
    "clothing_ccp": 5,
    "pennfudan": 3,
    "human_seg": 3,
    "feral_cats": 3,
    "powerlines_pld": 10,
    "retina_vessels": 6,
    "dsb2018_nuclei": 3,
    "em_membrane": 2,
}
"""How often a source is looked at, of 100. Salient objects are most pictures, and easy: they come less often
than their number asks for."""


@dataclass(frozen=True)
class Photo:
    """A picture and its objects.

    Attributes:
        name: of its file; COCO's id.
        image: RGB, W x H.
        labels: L, W x H: 0 is nothing, k is object k, UNKNOWN is not known.
        things: the labels of countable objects; all others are stuff.
        source: a key of SHARES.
        union: whether a label may be several objects at once, so that its connected parts are objects too.
        thin: whether its objects are so thin that they vanish where the picture is made smaller.
    """

    name: str
    image: Image.Image
    labels: Image.Image
    things: tuple[int, ...]
    source: str = PANOPTIC
    union: bool = False
    thin: bool = False


@dataclass(frozen=True)
class Photos:
    """Pictures, divided.

    Attributes:
        train: annotated, to train on.
        held_out: annotated, to validate on.
        plain: without annotations; backgrounds and textures.
    """

    train: tuple[Photo, ...]
    held_out: tuple[Photo, ...]
    plain: tuple[Photo, ...]

    @cached_property
    def textures(self) -> tuple[Image.Image, ...]:
        """Every picture that is not held out."""
        return tuple(photo.image for photo in self.train + self.plain)

    @cached_property
    def sources(self) -> dict[str, tuple[Photo, ...]]:
        """The pictures to train on, by their source."""
        return by_source(self.train)

    @cached_property
    def chances(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """How often to look at each of `sources`; their sum is 1."""
        shares = np.array([SHARES[source] for source in self.sources], np.float64)
        return np.asarray(shares / shares.sum())

    def pick(self, rng: np.random.Generator) -> Photo:
        """A picture to train on: of a source by its share, any of the source's."""
        photos = tuple(self.sources.values())[rng.choice(len(self.chances), p=self.chances)]
        return photos[rng.integers(len(photos))]


def by_source(photos: Iterable[Photo]) -> dict[str, tuple[Photo, ...]]:
    """Pictures by source, in the order in which sources first occur."""
    found: dict[str, list[Photo]] = defaultdict(list)
    for photo in photos:
        found[photo.source].append(photo)
    return {source: tuple(members) for source, members in found.items()}


def read_data(folder: Path) -> Photos:
    """Read `coco-train`, a panoptic folder, and `train`, a folder of label maps.

    Raises:
        UserError: either is missing, or not what is expected.
    """
    panoptic, mapped = read_photos(folder / PANOPTIC), read_maps(folder / "train")
    return Photos(panoptic.train + mapped.train, panoptic.held_out + mapped.held_out, panoptic.plain)


def read_maps(folder: Path) -> Photos:
    """Read pictures with label maps: images/NAME.*, labels/NAME.png and sources.json.

    The name of a picture begins with that of its source. What a source is follows from its `kind`: "1 id"
    says that all objects share a label, and "thin" comes first where they are thin.

    Raises:
        UserError: no such folder, a picture of an unknown source, or one without its pair.
    """
    listing = folder / "sources.json"
    if not listing.is_file():
        raise UserError(f"no {listing}; give --data a folder that holds {PANOPTIC} and train")
    kinds = {source: about["kind"] for source, about in json.loads(listing.read_text()).items()}
    images = {path.stem: path for path in (folder / "images").iterdir()}
    names = sorted(path.stem for path in (folder / "labels").glob("*.png"))
    if unpaired := sorted(images.keys() ^ set(names)):
        raise UserError(f"{folder} has no image, or no label map, of {unpaired[0]}; each needs the other")
    photos = [_mapped(images[name], folder / "labels" / f"{name}.png", kinds) for name in names]
    train: list[Photo] = []
    held_out: list[Photo] = []
    for members in by_source(photos).values():
        period = min(PERIOD, len(members))
        for place, photo in enumerate(members):
            (held_out if place % period >= period - 2 else train).append(photo)
    return Photos(tuple(train), tuple(held_out), ())


def _mapped(image: Path, labels: Path, kinds: dict[str, str]) -> Photo:
    source = next((name for name in kinds if image.stem.startswith(f"{name}_")), None)
    if source is None or source not in SHARES:
        raise UserError(f"{image} is of no source that training knows; expected one of {', '.join(SHARES)}")
    with Image.open(labels) as opened:
        marked = opened.convert("L") if opened.mode == "1" else opened.copy()
    picture = Image.fromarray(read_image(image))
    if marked.mode not in ("L", "P") or marked.size != picture.size:
        raise UserError(f"{labels} is {marked.mode} {marked.size}; expected labels 0..255, {picture.size}")
    found = np.unique(np.asarray(marked)).tolist()
    things = tuple(label for label in found if 0 < label < UNKNOWN)
    kind = kinds[source]
    labelled = Image.fromarray(np.asarray(marked))
    return Photo(
        image.stem, picture, labelled, things, source, union="1 id" in kind, thin=kind.startswith("thin")
    )


def read_photos(folder: Path) -> Photos:
    """Read a folder in COCO's panoptic layout: images/ID.jpg, annotations/panoptic_*.json and its PNGs.

    Raises:
        UserError: no annotations, or too few pictures to hold any out.
    """
    listings = sorted(folder.glob("annotations/panoptic_*.json"))
    if not listings:
        raise UserError(f"no annotations/panoptic_*.json in {folder}; expected a COCO panoptic folder there")
    listing = json.loads(listings[0].read_text())
    countable = {category["id"] for category in listing["categories"] if category["isthing"]}
    masks = listings[0].with_suffix("")
    annotated = [
        _annotated(folder, masks, annotation, countable)
        for annotation in sorted(listing["annotations"], key=lambda item: int(item["image_id"]))
    ]
    if len(annotated) <= HELD_OUT:
        raise UserError(f"{folder} has {len(annotated)} annotated pictures; expected more than {HELD_OUT}")
    known = {photo.name for photo in annotated}
    others = [path for path in sorted(folder.glob("images/*.jpg")) if str(int(path.stem)) not in known]
    plain = [_plain(path) for path in others]
    return Photos(tuple(annotated[:-HELD_OUT]), tuple(annotated[-HELD_OUT:]), tuple(plain))


def _annotated(folder: Path, masks: Path, annotation: dict[str, object], countable: set[int]) -> Photo:
    id = int(str(annotation["image_id"]))
    segments: list[dict[str, int]] = annotation["segments_info"]  # type: ignore[assignment]
    colours = read_image(masks / str(annotation["file_name"])).astype(np.int64)  # [H, W, 3]
    ids = colours @ np.array([1, 256, 65536])
    labels = np.zeros(ids.shape, np.uint8)
    for label, segment in enumerate(segments, start=1):
        if not segment["iscrowd"]:
            labels[ids == segment["id"]] = label
    things = tuple(
        label
        for label, segment in enumerate(segments, start=1)
        if segment["category_id"] in countable and not segment["iscrowd"]
    )
    image = Image.fromarray(read_image(folder / "images" / f"{id:012d}.jpg"))
    return Photo(str(id), image, Image.fromarray(labels), things)


def _plain(path: Path) -> Photo:
    image = Image.fromarray(read_image(path))
    return Photo(str(int(path.stem)), image, Image.new("L", image.size), ())

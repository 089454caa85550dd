"""Samples and prompts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from structsam_export.training.data import (
    SMALL,
    Example,
    Prompts,
    Samples,
    ask,
    cut_out,
    targets,
    thin_set,
    tight_box,
    view,
)
from structsam_export.training.photos import UNKNOWN, Photo, Photos, read_photos

COCO = Path(__file__).parents[4] / "shared" / "data" / "coco-train"


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_sample_is_its_index(photos: Photos) -> None:
    """Wherever a run starts: sample 7 of a run from 0 is sample 2 of one from 5."""
    from_zero, from_five = Samples(photos, 64, 0, 20), Samples(photos, 64, 5, 20)
    assert same(from_zero[7], from_five[2])
    assert not same(from_zero[7], from_zero[8])
    assert not same(from_zero[7], Samples(photos, 64, 0, 20, seed=1)[7])
    assert (len(from_zero), len(from_five)) == (20, 15)
    with pytest.raises(IndexError):
        from_five[15]


def test_shapes_and_types(photos: Photos) -> None:
    sample = Samples(photos, 64, 0, 1, prompts=Prompts(boxes=5, points=2, clicks=3))[0]
    assert {name: (value.dtype, tuple(value.shape)) for name, value in sample.items()} == {
        "image": (torch.uint8, (3, 64, 64)),
        "masks": (torch.uint8, (7, 32, 32)),
        "known": (torch.uint8, (32, 32)),
        "boxes": (torch.float32, (5, 4)),
        "points": (torch.float32, (2, 3, 2)),
        "point_labels": (torch.int64, (2, 3)),
        "chances": (torch.float32, (7,)),
    }


def example() -> Example:
    labels = np.zeros((40, 40), np.uint8)
    labels[4:20, 6:30], labels[25:39, 2:9] = 1, 2
    labels[10:17, 10:20] = 3  # a hole in 1
    return Example(np.zeros((40, 40, 3), np.uint8), labels, (1, 2, 3))


def test_prompts_ask_for_their_masks() -> None:
    made = example()
    asked = ask(made, targets(made), Prompts(boxes=30, points=30), np.random.default_rng(0))
    quarters = {
        label: [
            [np.sum(made.labels[2 * y : 2 * y + 2, 2 * x : 2 * x + 2] == label) for x in range(20)]
            for y in range(20)
        ]
        for label in made.objects
    }
    tight = 0
    for mask, box in zip(asked["masks"][:30], asked["boxes"], strict=True):
        (label,) = (label for label in made.objects if np.array_equal(mask, quarters[label]))
        exact = tight_box(made.labels == label)
        tight += np.array_equal(box, exact)
        assert np.abs(box.numpy() - exact).max() <= 8  # a wide box, three deviations of 5 %
    assert 5 < tight < 25  # half of them
    for mask, points, inside in zip(
        asked["masks"][30:], asked["points"].long(), asked["point_labels"], strict=True
    ):
        (label,) = (label for label in made.objects if np.array_equal(mask, quarters[label]))
        found = [made.labels[y, x] == label for x, y in points.tolist()]
        assert found == inside.bool().tolist()
        assert found[0]


def test_every_object_is_asked_for_before_any_again() -> None:
    made = example()
    for seed in range(10):
        asked = ask(made, targets(made), Prompts(boxes=2, points=1), np.random.default_rng(seed))
        assert len(np.unique(asked["masks"].numpy(), axis=0)) == 3


def test_parts_of_a_union_are_asked_for_beside_it() -> None:
    """Of a label in three pieces, one of them too small; and nothing of one in a single piece."""
    labels = np.zeros((40, 40), np.uint8)
    labels[2:12, 2:12] = labels[20:30, 20:36] = labels[35:38, 2:6] = 1
    labels[12:14, 12:14] = 1  # touches the first at its corner
    labels[2:12, 20:39] = 2
    apart = Example(np.zeros((40, 40, 3), np.uint8), labels, (1, 2), union=True)
    found = {mask.tobytes() for mask in targets(apart)}
    first, second = labels == 1, labels == 1
    first[15:], second[:15], second[31:] = False, False, False
    assert found == {mask.tobytes() for mask in (labels == 1, labels == 2, first, second)}
    assert {mask.tobytes() for mask in targets(replace(apart, union=False))} == {
        mask.tobytes() for mask in (labels == 1, labels == 2)
    }


def test_what_is_not_known_is_told(every: Photos) -> None:
    photo = every.sources["coco_minis"][0]
    shown = view(photo, np.random.default_rng(3), 48)
    assert UNKNOWN not in shown.objects
    made = example()
    made.labels[30:, 20:] = UNKNOWN
    known = ask(made, targets(made), Prompts(), np.random.default_rng(0))["known"]
    assert known.unique().tolist() == [0, 4]
    assert (known == 0).nonzero().amin(0).tolist() == [15, 10]


def test_thin_things_stay_as_thin_as_they_are(every: Photos) -> None:
    """A line of one pixel is never made of dots: each view shows it whole, or a crop of it."""
    labels = np.zeros((256, 512), np.uint8)
    labels[128] = 1
    line = Photo("line", Image.new("RGB", (512, 256)), Image.fromarray(labels), (1,), thin=True)
    shown = [view(line, np.random.default_rng(seed), 64).labels == 1 for seed in range(30)]
    crossed = [mask for mask in shown if mask.any()]
    assert len(crossed) > 10
    for mask in crossed:
        assert mask.any(axis=0).all()


def test_tight_box() -> None:
    mask = np.zeros((10, 12), bool)
    mask[3, 4] = mask[7, 9] = True
    assert tight_box(mask).tolist() == [4, 3, 9, 7]


def test_a_view_keeps_picture_and_labels_together(photos: Photos) -> None:
    """The thing is painted in a colour of its own; recolouring and scaling leave it apart from the rest."""
    photo = photos.train[0]
    labels = np.asarray(photo.labels)
    painted = np.where((labels == 1)[..., None], (250, 250, 250), (5, 5, 5)).astype(np.uint8)
    marked = replace(photo, image=Image.fromarray(painted))
    seen = 0
    for seed in range(20):
        shown = view(marked, np.random.default_rng(seed), 96)
        thing = shown.labels == 1
        if 0 < thing.sum() < thing.size:
            bright, dark = shown.image[thing].mean(), shown.image[~thing].mean()
            assert bright > dark + 60
            seen += 1
    assert seen > 10


def test_an_object_is_cut_out_whole(photos: Photos) -> None:
    layer = cut_out(photos.train[0], np.random.default_rng(0), 64)
    assert layer.image.size == layer.mask.size
    assert np.asarray(layer.mask).mean() > 100


def test_the_thin_set_is_always_the_same_and_of_held_out_pictures(photos: Photos) -> None:
    first, again = thin_set(photos, 96, count=3), thin_set(photos, 96, count=3)
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.labels, other.labels)
    without_training_pictures = Photos((), photos.held_out, ())
    assert np.array_equal(thin_set(without_training_pictures, 96, count=1)[0].image, first[0].image)


@pytest.mark.skipif(not COCO.is_dir(), reason=f"no {COCO}")
def test_on_coco() -> None:
    photos = read_photos(COCO)
    assert (len(photos.train), len(photos.held_out), len(photos.plain)) == (80, 20, 28)
    assert not {photo.name for photo in photos.train} & {photo.name for photo in photos.held_out}
    samples = Samples(photos, 224, 0, 10)
    for index in range(10):
        sample = samples[index]
        assert (sample["masks"].flatten(1).sum(1, dtype=torch.int64) >= SMALL).all()
        assert sample["image"].float().std() > 1

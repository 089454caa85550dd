"""What a check says of runners that compute what PyTorch does, and of those that do not."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from structsam_runtime import Manifest, OnnxRuntimeRunner, Predictor, UserError
from structsam_runtime.check import Measured, check, cosine, error, held, mask_ious, worst
from structsam_runtime.errors import NotFiniteError
from structsam_runtime.predict import decoding
from structsam_runtime.reference import Reference, Rounded
from structsam_runtime.runners.base import Array, DeviceArray, HostArray, Runner
from structsam_runtime.thresholds import FRAGILE, THRESHOLDS, Held, Thresholds

Change = Callable[[dict[str, Array]], dict[str, Array]]


# Measures


@given(st.tuples(arrays.arrays(np.bool_, (2, 3, 4)), arrays.arrays(np.bool_, (2, 3, 4))))
def test_iou_counts_pixels(masks: tuple[NDArray[np.bool_], NDArray[np.bool_]]) -> None:
    for one, other, iou in zip(*masks, mask_ious(*masks), strict=True):
        pairs = list(zip(one.ravel().tolist(), other.ravel().tolist(), strict=True))
        union, shared = sum(a or b for a, b in pairs), sum(a and b for a, b in pairs)
        assert iou == (shared / union if union else 1)


@given(st.integers(0, 2**32), st.floats(0, 1e-2))
def test_rounding_of_the_reference_is_no_error_and_what_is_beyond_it_is(seed: int, off: float) -> None:
    """Whatever PyTorch's own embedding was, its error is none; a value that is off by more counts."""
    noise = np.random.default_rng(seed)
    features = (3 * noise.normal(size=(1, 4, 5, 6))).astype(np.float32)
    own = Rounded.of(features)
    assert error(features, own) <= 1e-6
    place = tuple(noise.integers(0, features.shape))
    features[place] += np.float32(off)
    step = own.scale[place[1]]
    assert off - step - 1e-6 <= error(features, own) <= off + 1e-6


def test_an_embedding_of_nothing_but_zeros_has_no_cosine() -> None:
    assert np.isnan(cosine(np.zeros(3), np.ones(3)))
    assert Held("cosine", cosine(np.zeros(3), np.ones(3)), 0.99, True).missed


def picture(name: str = "a", **values: float) -> Measured:
    """A picture without any difference but those that are given."""
    best = {"error": 0.0, "cosine": 1.0, "mask_iou": 1.0, "mask_iou_min": 1.0}
    return Measured(name=name, **best | {"decoder_iou": 1.0, "predicted_iou": 0.0} | values)


def missed(pictures: Sequence[Measured], limits: Thresholds) -> set[str]:
    """Limits that are not reached."""
    return {name for name, one in held(pictures, limits).items() if one.missed}


ALL = THRESHOLDS["fp32"]


@pytest.mark.parametrize(
    ("pictures", "names"),
    [
        ([picture()], set()),
        # Rounding changed the plans of one picture: the others speak for the arithmetic, masks are a mean.
        ([picture(error=0.2, mask_iou=0.983), picture(), picture()], {"error"}),
        ([picture(error=0.2), picture(error=2e-3), picture(error=0.3)], {"error", "least_error"}),
        ([picture(cosine=0.9), picture(), picture()], {"cosine_end_to_end"}),
        ([picture(), picture(cosine=float("nan"))], {"cosine_end_to_end"}),
        ([picture(mask_iou=0.96), picture(), picture()], {"mask_iou"}),
        ([picture(mask_iou=0.96, mask_iou_min=0.1)] + [picture()] * 4, set()),
        ([picture(), picture(decoder_iou=0.9)], {"decoder_iou"}),
        ([picture(), picture(predicted_iou=1e-3)], {"predicted_iou"}),
    ],
)
def test_each_limit_has_its_own_pictures(pictures: list[Measured], names: set[str]) -> None:
    assert missed(pictures, ALL) == names
    assert missed(pictures[::-1], ALL) == names, "the order says nothing"


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 6), min_size=1, max_size=4))
def test_the_worst_is_no_better_than_any(values: list[tuple[float, ...]]) -> None:
    names = ("error", "cosine", "mask_iou", "mask_iou_min", "decoder_iou", "predicted_iou")
    pictures = [Measured("a", **dict(zip(names, row, strict=True))) for row in values]
    bad = worst(pictures)
    for name, column in zip(names, zip(*values, strict=True), strict=True):
        assert getattr(bad, name) == (max if name in ("error", "predicted_iou") else min)(column)


@pytest.mark.parametrize("limits", [*THRESHOLDS.values(), *FRAGILE.values()])
def test_no_limit_is_of_use_where_nothing_can_miss_it(limits: Thresholds) -> None:
    """Every limit of a check is missed by a runner that gives noise; without limits nothing is."""
    noise = picture(error=5.0, cosine=0.0, mask_iou=0.3, mask_iou_min=0.0, decoder_iou=0.3, predicted_iou=0.5)
    given = {name for name, limit in vars(limits).items() if limit is not None} - {"cosine", "plans"}
    assert missed([noise], limits) == given
    assert missed([noise], Thresholds()) == set()


# Runners


class Changed(Runner):
    """A runner whose outputs somebody changed."""

    def __init__(self, inner: Runner, change: Change) -> None:
        super().__init__("changed")
        self.inner, self.change = inner, change
        self.kept = 0

    def _open(self) -> Any:
        self.inner.__enter__()
        return self.inner.inputs, self.inner.outputs

    def _close(self) -> None:
        self.inner.__exit__(None, None, None)

    def _run(self, feeds: Any) -> dict[str, Array]:
        return self.change(self.inner.infer(feeds))

    def _run_on_device(self, feeds: Any) -> dict[str, DeviceArray]:
        self.kept += 1
        return {name: HostArray(values) for name, values in self._run(feeds).items()}


def same(made: dict[str, Array]) -> dict[str, Array]:
    """Nothing is changed."""
    return made


def noisy(name: str, share: float) -> Change:
    """Adds noise to an output: a share of its deviation."""
    noise = np.random.default_rng(0)

    def change(made: dict[str, Array]) -> dict[str, Array]:
        values = made[name]
        added = share * values.std() * noise.normal(size=values.shape)
        return made | {name: (values + added).astype(np.float32)}

    return change


def with_value(name: str, value: float) -> Change:
    """Puts one value somewhere into an output."""

    def change(made: dict[str, Array]) -> dict[str, Array]:
        values = made[name].copy()
        values.flat[-1] = value
        return made | {name: values}

    return change


def scaled(name: str, factor: float) -> Change:
    """Scales an output."""
    return lambda made: made | {name: made[name] * np.float32(factor)}


def misses(folder: Path, encoder: Change = same, decoder: Change = same) -> set[str]:
    """Limits that runners miss whose outputs are changed."""
    reference = Reference.load(folder, Manifest.read(folder))
    good = Predictor.load(folder, threads=1)
    runners = Changed(good.encoder, encoder), Changed(good.decoder, decoder)
    with Predictor(*runners, good.model) as predictor:
        made = list(check(predictor, reference))
    assert runners[0].kept == 2, "the embedding stays on its device, as in prediction"
    assert [one.name for one in made] == ["coffee", "chelsea"]
    return missed(made, reference.limits)


def test_runners_that_compute_what_pytorch_does_pass(checked_folder: Path) -> None:
    reference = Reference.load(checked_folder, Manifest.read(checked_folder))
    with Predictor.load(checked_folder, threads=1) as predictor:
        made = list(check(predictor, reference))
    assert missed(made, reference.limits) == set()
    bad = worst(made)
    assert bad.error <= 1e-6
    assert bad.cosine == pytest.approx(1, abs=1e-8)
    assert bad.mask_iou == bad.mask_iou_min == bad.decoder_iou == 1
    assert bad.predicted_iou <= 1e-5


EMBEDDING, MASKS, IOU = "image_embedding", "masks", "iou_predictions"


@pytest.mark.parametrize(
    ("encoder", "decoder", "names"),
    [
        (scaled(EMBEDDING, 1.01), same, {"least_error"}),
        (scaled(EMBEDDING, -1), same, {"least_error", "cosine_end_to_end"}),
        (scaled(EMBEDDING, 0), same, {"least_error", "cosine_end_to_end"}),
        (noisy(EMBEDDING, 0.01), same, {"least_error"}),
        (with_value(EMBEDDING, 9.0), same, {"least_error"}),
        (same, scaled(MASKS, -1), {"mask_iou", "decoder_iou"}),
        (same, noisy(MASKS, 0.5), {"mask_iou", "decoder_iou"}),
        (same, scaled(IOU, 1.001), {"predicted_iou"}),
        (same, with_value(IOU, 0.0), {"predicted_iou"}),
    ],
)
def test_runners_that_compute_something_else_miss(
    checked_folder: Path, encoder: Change, decoder: Change, names: set[str]
) -> None:
    assert misses(checked_folder, encoder, decoder) == names


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [EMBEDDING, MASKS, IOU])
def test_what_is_not_finite_is_told(checked_folder: Path, name: str, value: float) -> None:
    change = with_value(name, value)
    given = (change, same) if name == EMBEDDING else (same, change)
    with pytest.raises(NotFiniteError, match=r"^changed returned NaN or infinity.* coffee$"):
        misses(checked_folder, *given)


def test_an_embedding_of_another_size_is_one_line(checked_folder: Path) -> None:
    with pytest.raises(UserError, match=r"an embedding \[1, 128, 64, 64\], the reference has \[1, 256, 64"):
        misses(checked_folder, lambda made: {name: values[:, ::2] for name, values in made.items()})


def test_prompts_are_decoded_in_as_many_runs_as_it_takes(
    checked_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "PROMPTS", 1)
    assert misses(checked_folder) == set()


def test_products_in_tf32_are_no_fp32(
    checked_folder: Path, tmp_path: Path, in_tf32: Callable[[Path], None]
) -> None:
    """The stand-in's encoder is one product; masks and IoU hide what it does to the embedding."""
    encoder = Path(shutil.copy(checked_folder / "encoder.onnx", tmp_path))
    reference = Reference.load(checked_folder, Manifest.read(checked_folder))
    good = Predictor.load(checked_folder, threads=1)
    told = []
    for change in (lambda path: None, in_tf32):
        change(encoder)
        with Predictor(OnnxRuntimeRunner(encoder, threads=1), good.decoder, good.model) as predictor:
            told.append(missed(list(check(predictor, reference)), reference.limits))
    assert told == [set(), {"least_error"}]


class Asked(Runner):
    """An encoder with a prior that keeps what it is fed."""

    def __init__(self, model: Any) -> None:
        super().__init__("asked")
        self.model, self.feeds = model, []

    def _open(self) -> Any:
        from structsam_runtime.contract import encoder_specs

        return encoder_specs(self.model)

    def _close(self) -> None: ...

    def _run(self, feeds: Any) -> dict[str, Array]:
        self.feeds.append(feeds)
        return {EMBEDDING: np.zeros((1, *self.model.embedding), np.float32)}


def test_a_prompt_aware_encoder_is_told_where_prompts_are(checked_folder: Path) -> None:
    good = Predictor.load(checked_folder, threads=1)
    model = replace(good.model, prior=True)
    reference = Reference.load(checked_folder, Manifest.read(checked_folder))
    priors = [np.full((1, 64, 64), share, np.float32) for share in (0.25, 0.75)]
    answers = [replace(one, prior=prior) for one, prior in zip(reference.answers, priors, strict=True)]
    encoder = Asked(model)
    with Predictor(encoder, good.decoder, model) as predictor:
        made = list(check(predictor, replace(reference, answers=answers)))
    assert np.isnan([one.cosine for one in made]).all()
    for feed, answer in zip(encoder.feeds, answers, strict=True):
        np.testing.assert_array_equal(feed["prior"], answer.prior)
        np.testing.assert_array_equal(feed["image"], answer.feed(model)["image"])

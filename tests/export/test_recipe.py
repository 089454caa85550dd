"""What merges where: flags, recipe files, and which block decides for which."""

import json
from pathlib import Path
from typing import Any

import pytest

from structsam_export.config import ExportConfig
from structsam_export.merging import Identity, StructSAM, ToMe
from structsam_export.merging.registry import MethodSpec
from structsam_export.models.architectures import ARCHITECTURES
from structsam_export.recipe import BlockRecipe, Recipe, Uniform
from structsam_runtime.errors import UserError

PROMPTED = {"prompt_windows": 2, "rate_background": 0.75, "rate_window": 0.35, "rate_global": 0.75}
STRUCTSAM = MethodSpec("structsam")
MIXED = {
    "name": "mixed",
    "blocks": [
        {"method": "structsam", "rate": 0.5},
        {"method": "adjacent:reduction=replace", "rate": 0.25, "merge_mlp": True},
        {"rate": 0},
        *[{"method": "tome", "rate": 0.4}] * 9,
    ],
}


@pytest.mark.parametrize(
    ("typed", "fields"),
    [
        ({}, {"rate_window": 0.55, "rate_global": 0.55}),
        ({"rate": 0.3, "rate_global": 0.6}, {"rate_window": 0.3, "rate_global": 0.6}),
        ({"prompt_aware": True}, PROMPTED),
        (
            {"prompt_aware": True, "rate": 0.0, "rate_background": 0.7, "prompt_windows": 4},
            {"rate_window": 0.0, "rate_global": 0.7, "rate_background": 0.7, "prompt_windows": 4},
        ),
        (
            {"prompt_aware": True, "rate_window": 0.1, "rate_global": 0.2},
            PROMPTED | {"rate_window": 0.1, "rate_global": 0.2},
        ),
    ],
)
def test_rates_that_were_not_typed_follow_from_those_that_were(
    typed: dict[str, Any], fields: dict[str, Any]
) -> None:
    assert Uniform.typed(STRUCTSAM, **typed) == Uniform(STRUCTSAM, **fields)
    ExportConfig.of("vit_b", **fields)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A recipe file for ViT-B."""
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps(MIXED))
    return path


def test_a_file_says_block_by_block_what_merges(file: Path) -> None:
    config = ExportConfig("vit_b", merging=Recipe.read(file), seed=4)
    first, second, third, *others = config.methods()
    assert first == StructSAM(0.5, seed=4)
    assert (second.rate, second.reduction, second.seed) == (0.25, "replace", 5)
    assert third == Identity()
    assert others == [ToMe(0.4, heads=12)] * 9
    assert [block.merge_mlp for block in config.recipe.blocks] == [False, True, *[False] * 10]
    assert config.name == "vit_b-mixed-fp32"
    assert config.command() == f"structsam export --arch vit_b --recipe {file} --seed 4"
    again = ExportConfig.from_json(json.loads(json.dumps(config.as_json())))
    assert again == config
    assert again.command() == config.command()


def test_a_manifest_is_a_recipe_file_too(file: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    for config in (ExportConfig("vit_b", merging=Recipe.read(file)), ExportConfig.of("vit_b", rate=0.3)):
        manifest.write_text(json.dumps({"name": "x", "recipe": config.recipe.as_json()}))
        assert Recipe.read(manifest) == config.recipe


TUNED = {
    "agreement": 0.978,
    "low": 0.971,
    "high": 0.985,
    "pictures": 5,
    "prompts": 90,
    "gmac": 250.0,
    "weights": "ab12",
    "image_size": 1024,
}


def test_what_tune_measured_travels_with_its_recipe(file: Path, tmp_path: Path) -> None:
    file.write_text(json.dumps({**MIXED, "tuned": TUNED}))
    recipe = Recipe.read(file)
    assert recipe.as_json()["tuned"] == TUNED
    assert recipe.tuned is not None
    agreement = "tuned: agreement 97.8% (97.1% to 98.5%) with the unmerged masks of 5 pictures"
    assert recipe.tuned.told("ab12", 1024) == agreement
    for weights, size in (("ab12", 512), ("cd34", 1024)):
        assert "tuned with other weights or another --image-size" in recipe.tuned.told(weights, size)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"recipe": recipe.as_json()}))
    assert Recipe.read(manifest).tuned == recipe.tuned
    assert "tuned" not in Recipe.from_json(MIXED, "x").as_json()


@pytest.mark.parametrize(
    ("tuned", "message"),
    [
        ([], "mixed.json has tuned = [], expected dict"),
        (
            {},
            "tuned has no agreement, low, high, pictures, prompts, gmac, weights, image_size; run",
        ),
        ({**TUNED, "mood": 1}, "mixed.json, tuned has unknown keys mood; expected agreement, low, "),
        ({**TUNED, "pictures": "5"}, "mixed.json, tuned has pictures = '5', expected int"),
    ],
)
def test_what_tune_never_wrote_is_one_line(file: Path, tuned: Any, message: str) -> None:
    file.write_text(json.dumps({**MIXED, "tuned": tuned}))
    with pytest.raises(UserError) as refused:
        Recipe.read(file)
    assert message in str(refused.value)


def test_flags_and_the_same_block_by_block_are_one_recipe() -> None:
    architecture = ARCHITECTURES["vit_b"]
    flags = Uniform(STRUCTSAM, 0.3, 0.6, skip_blocks=(1,), merge_mlp=True, plan_every=2).of(architecture)
    window, whole = (BlockRecipe(STRUCTSAM, rate, merge_mlp=True) for rate in (0.3, 0.6))
    blocks = [whole if index in (2, 5, 8, 11) else window for index in range(12)]
    blocks[1] = BlockRecipe(STRUCTSAM, 0.0)
    assert flags == Recipe(tuple(blocks), plan_every=2)
    assert Recipe.from_json(flags.as_json(), "x") == flags


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**MIXED, "blocks": MIXED["blocks"][:3]}, "mixed.json has 3 blocks; expected 12, as many as"),
        (
            {**MIXED, "colour": 1, "shape": 2},
            "mixed.json has unknown keys colour, shape; expected blocks, name",
        ),
        (
            {"blocks": [{"rate": 0.5, "ratio": 1}]},
            "mixed.json, block 0 has unknown keys ratio; expected method",
        ),
        ({"blocks": []}, "mixed.json has no blocks"),
        ({}, "mixed.json has no blocks"),
        ([], "mixed.json is list, expected a JSON object"),
        ({"blocks": [{"method": "tome"}]}, "mixed.json, block 0 has no rate"),
        ({"blocks": [{"rate": "half"}]}, "mixed.json, block 0 has rate = 'half', expected float"),
        ({"blocks": [{"rate": True}]}, "mixed.json, block 0 has rate = True, expected float"),
        ({"blocks": [{"rate": 0.5, "merge_mlp": 1}]}, "has merge_mlp = 1, expected bool"),
        ({"blocks": [{"rate": 0.5, "method": "nose"}]}, "--method nose is unknown"),
        ({"blocks": [{"rate": 0.5, "method": "tome:cell=2"}]}, "--method tome has no option cell"),
        ({"blocks": [{"rate": 0.8}] * 12}, "the rate of window blocks is 0.8; expected 0 to 0.75"),
        ({"blocks": [{"rate": 0.5}] * 12, "plan_every": 0}, "--plan-every 0 is too small"),
        (
            {"blocks": [{"rate": 0.5, "rate_prompt": 0.3}] * 12},
            "block 0 has a rate_prompt, but has no prompt_windows beside it; leave rate_prompt out",
        ),
        (
            {"blocks": [{"rate": 0.5, "rate_prompt": 0.3}] * 12, "prompt_windows": 2},
            "block 2 has a rate_prompt, but is global and has one window; leave rate_prompt out",
        ),
    ],
)
def test_a_file_that_cannot_be_is_one_line(file: Path, content: Any, message: str) -> None:
    file.write_text(json.dumps(content))
    with pytest.raises(UserError) as refused:
        ExportConfig("vit_b", merging=Recipe.read(file))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", [None, "{", "[" * 100_000])
def test_a_file_that_is_no_json_is_one_line(file: Path, text: str | None) -> None:
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(UserError, match=r"no file|cannot be read as JSON"):
        Recipe.read(file)


def test_a_block_decides_for_those_that_cut_the_map_alike_and_do_the_same() -> None:
    one, other, none = BlockRecipe(rate=0.5), BlockRecipe(rate=0.4), BlockRecipe(rate=0.0)
    recipe = Recipe((one, one, one, other, none, one, one), plan_every=2)
    assert recipe.leaders(["w", "g", "w", "w", "w", "w", "g"]) == [None, None, 0, None, None, None, 1]
    assert Recipe((one,) * 5, plan_every=3).leaders("wwwww") == [None, 0, 0, None, 3]
    assert Recipe((one,) * 3).leaders("www") == [None, None, None]
    assert Recipe((none,) * 3, plan_every=3).leaders("www") == [None, None, None]

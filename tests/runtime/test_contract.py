"""Names of what the graphs take and give: told once, and those of an export."""

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from structsam_runtime.contract import (
    DECODER_INPUTS,
    DECODER_OUTPUTS,
    ENCODER_INPUTS,
    ENCODER_OUTPUTS,
    decoder_specs,
    encoder_specs,
)
from structsam_runtime.manifest import Model
from structsam_runtime.runners import create

ROOT = Path(__file__).parents[2]
SOURCES = ("export", "runtime", "plugins", "scripts")


@pytest.mark.parametrize("name", ["image_embedding", "has_mask_input", "iou_predictions"])
def test_one_file_spells_a_name(name: str) -> None:
    spelled = {
        path.relative_to(ROOT).as_posix()
        for source in SOURCES
        for path in (ROOT / source).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value == name
    }
    assert spelled == {"runtime/structsam_runtime/contract.py"}


@pytest.mark.parametrize(("part", "specs"), [("encoder", encoder_specs), ("decoder", decoder_specs)])
def test_specs_are_those_of_an_export(
    part: str, specs: Callable[[Model], object], export_folder: Path, sam: Model
) -> None:
    with create(export_folder, part, "cpu") as runner:
        assert (runner.inputs, runner.outputs) == specs(sam)


def test_specs_have_the_names_in_their_order(sam: Model) -> None:
    taken, given = encoder_specs(replace(sam, prior=True))
    assert (tuple(taken), tuple(given)) == (ENCODER_INPUTS, ENCODER_OUTPUTS)
    assert taken["prior"].shape == (1, 64, 64)
    assert tuple(encoder_specs(sam)[0]) == ("image",)
    taken, given = decoder_specs(sam)
    assert (tuple(taken), tuple(given)) == (DECODER_INPUTS, DECODER_OUTPUTS)

"""Exports whose owner changed a file, as by quantising it, load where that is asked for."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnxruntime.quantization import quantize_dynamic
from PIL import Image

from structsam_runtime import Predictor, UserError
from structsam_runtime.errors import Caution
from structsam_runtime.runners import create

Run = Callable[[str, str], tuple[int | str | None, str, str]]
WORD = r"the files of .* are not checked; if they were changed, what verification measured is void"


@pytest.fixture
def quantised(tmp_path: Path, export_folder: Path) -> Path:
    """An export whose encoder went through ONNX Runtime's own quantiser."""
    folder = Path(shutil.copytree(export_folder, tmp_path / "out"))
    quantize_dynamic(export_folder / "encoder.onnx", folder / "encoder.onnx")
    return folder


@pytest.fixture
def pictures(tmp_path: Path, photos: dict[str, NDArray[np.uint8]]) -> Path:
    (tmp_path / "pictures").mkdir()
    Image.fromarray(photos["coffee"]).save(tmp_path / "pictures/photo.png")
    (tmp_path / "boxes.json").write_text('{"photo.png": {"boxes": [[100, 80, 400, 260]]}}')
    return tmp_path / "pictures"


def test_it_is_refused_with_the_way_to_load_it(quantised: Path) -> None:
    with pytest.raises(UserError, match=r"encoder\.onnx has .*; if you changed it, --unverified loads it$"):
        Predictor.load(quantised)


@pytest.mark.parametrize("runner", ["cpu", "openvino"])
def test_it_loads_on_request_and_computes_what_the_file_does(
    runner: str, quantised: Path, export_folder: Path, photos: dict[str, NDArray[np.uint8]]
) -> None:
    with pytest.warns(Caution, match=WORD):
        changed = Predictor.load(quantised, runner, threads=1, verified=False)
    embeddings = []
    for predictor in (changed, Predictor.load(export_folder, runner, threads=1)):
        with predictor:
            predictor.set_image(photos["coffee"])
            embeddings.append(predictor.get_image_embedding())
    one, other = (made.ravel() for made in embeddings)
    assert not np.array_equal(one, other)
    assert one @ other / np.sqrt((one @ one) * (other @ other)) > 0.999


def test_a_file_of_the_same_size_is_as_welcome(quantised: Path, export_folder: Path) -> None:
    """Hashes are not compared either."""
    data = bytearray((export_folder / "encoder.onnx").read_bytes())
    data[-1] ^= 1
    (quantised / "encoder.onnx").write_bytes(data)
    with pytest.raises(UserError, match="has sha256"):
        Predictor.load(quantised)
    with pytest.warns(Caution, match=WORD):
        Predictor.load(quantised, verified=False)


def test_what_is_verified_has_no_word(export_folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Predictor.load(export_folder)


def test_a_file_that_is_gone_is_still_one_line(quantised: Path) -> None:
    (quantised / "encoder.onnx").unlink()
    with pytest.raises(UserError, match=r"no encoder\.onnx in .*though its manifest lists it"):
        Predictor.load(quantised, verified=False).__enter__()


def test_engines_are_code_and_always_checked(quantised: Path) -> None:
    with pytest.raises(UserError, match=r"--unverified is for \.onnx files, and tensorrt runs engines"):
        create(quantised, "encoder", "tensorrt", verified=False)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.filterwarnings("default::structsam_runtime.errors.Caution")
@pytest.mark.parametrize("command", ["predict", "batch"])
def test_commands_take_it(command: str, quantised: Path, pictures: Path, run_command: Run) -> None:
    output = quantised.parent / "made"
    line = {
        "predict": f"{quantised} {pictures}/photo.png --box 100 80 400 260 -o {output}.png",
        "batch": f"{pictures} -o {output} --model {quantised} --prompts {quantised.parent}/boxes.json",
    }[command]
    code, _, err = run_command(command, line)
    assert code == 2
    assert err.count("\n") == 1
    assert "--unverified loads it" in err
    shutil.rmtree(output, ignore_errors=True)
    code, _, err = run_command(command, f"{line} --unverified")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith(f"warning: the files of {quantised} are not checked; ")


def test_results_of_a_changed_model_do_not_mix_with_others(
    quantised: Path, export_folder: Path, pictures: Path, run_command: Run
) -> None:
    """Manifests are the same: what was run tells them apart."""
    output = quantised.parent / "made"
    line = f"{pictures} -o {output} --prompts {quantised.parent}/boxes.json"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Caution)
        assert run_command("batch", f"{line} --model {quantised} --unverified")[0] == 0
        code, _, err = run_command("batch", f"{line} --model {export_folder}")
        assert (code, "was begun with unverified" in err) == (2, True)
        code, _, err = run_command("batch", f"{line} --model {export_folder} --unverified")
        assert (code, "was begun with unverified" in err) == (2, True)
        assert run_command("batch", f"{line} --model {quantised} --unverified")[0] == 0
    assert set(json.loads((output / "batch.json").read_text())["unverified"]) == {
        "encoder.onnx",
        "decoder.onnx",
    }

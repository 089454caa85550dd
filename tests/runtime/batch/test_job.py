"""Which pictures, which model, where to: everything that is found out before a model is loaded."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from structsam_runtime.batch.boxes import read_boxes
from structsam_runtime.batch.job import Job, begin, check, find_images, note, plan
from structsam_runtime.errors import UserError
from structsam_runtime.predict.embedding import Embedding
from structsam_runtime.predict.image import Frame

Plan = Callable[..., tuple[Job, list[str]]]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of pictures, and of what is none."""
    folder = tmp_path / "images"
    for name in ("b.jpg", "a.PNG", "deep/er/c.webp", ".hidden.png", ".trash/d.png", "deep/._c.webp"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 3)).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def planned(images: Path, export_folder: Path, tmp_path: Path) -> Plan:
    """`plan` with usual arguments, and others in their place."""

    def make(**changes: Any) -> tuple[Job, list[str]]:
        return plan(**{"images": images, "output": tmp_path / "masks", "model": export_folder} | changes)

    return make


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_pictures_are_found_at_any_depth_in_order(images: Path) -> None:
    assert find_images(images) == ["a.PNG", "b.jpg", "deep/er/c.webp"]


def test_a_plan_is_everything_or_what_is_in_boxes(planned: Plan, tmp_path: Path) -> None:
    job, names = planned()
    assert (job.boxes, names) == (None, ["a.PNG", "b.jpg", "deep/er/c.webp"])
    prompts = write(
        tmp_path / "p.json", {"deep/er/c.webp": {"boxes": [[0, 1, 2.5, 3]]}, "a.PNG": {"boxes": []}}
    )
    job, names = planned(prompts=prompts)
    assert job.boxes == {"a.PNG": [], "deep/er/c.webp": [[0, 1, 2.5, 3]]}
    assert names == ["a.PNG", "deep/er/c.webp"]


def test_a_job_has_no_paths_that_depend_on_where_one_is(
    planned: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job, _ = planned(images=Path("images"), output=Path("masks"))
    assert (job.images, job.output) == (tmp_path / "images", tmp_path / "masks")
    assert job.result("deep/er/c.webp") == tmp_path / "masks" / "deep" / "er" / "c.webp.json"


def test_no_folder_and_no_pictures(tmp_path: Path, planned: Plan) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no folder .*none; expected one with pictures"):
        planned(images=tmp_path / "none")
    with pytest.raises(UserError, match=r"no picture in .*empty; expected .*\.jpg"):
        planned(images=tmp_path / "empty")


@pytest.mark.parametrize("output", ["images", "images/masks", "masks/../images/masks"])
def test_results_do_not_go_among_the_pictures(planned: Plan, tmp_path: Path, output: str) -> None:
    with pytest.raises(UserError, match=r"is inside .*images; choose a folder outside"):
        planned(output=tmp_path / output)


def test_a_grid_that_is_too_fine_is_refused_before_anything_is_written(planned: Plan) -> None:
    with pytest.raises(UserError, match="points_per_side is larger than 1000"):
        planned(everything={"points_per_side": 30_000})


def test_a_folder_that_is_no_export(planned: Plan, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected the output folder of structsam export"):
        planned(model=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ([], "is no JSON object of pictures and their boxes"),
        ({}, "is no JSON object of pictures and their boxes"),
        ({"a.PNG": [[0, 0, 1, 1]]}, r'has \[\[0, 0, 1, 1\]\] for a.PNG, expected {"boxes": '),
        ({"a.PNG": {"box": [0, 0, 1, 1]}}, "for a.PNG, expected"),
        ({"a.PNG": {"boxes": [], "points": []}}, "for a.PNG, expected"),
        ({"a.PNG": {"boxes": [0, 0, 1, 1]}}, "for a.PNG, expected"),
        ({"a.PNG": {"boxes": [[0, 0, 1]]}}, "for a.PNG, expected"),
        ({"a.PNG": {"boxes": [[0, 0, 1, "1"]]}}, "for a.PNG, expected"),
        ({"a.PNG": {"boxes": [[0, 0, 1, True]]}}, "for a.PNG, expected"),
    ],
)
def test_prompts_that_are_something_else(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_boxes(write(tmp_path / "p.json", content))


def test_prompts_that_are_not_there_or_name_what_is_not(planned: Plan, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*p\.json; expected boxes"):
        planned(prompts=tmp_path / "p.json")
    for absent in ("none.jpg", "../images/b.jpg", str(tmp_path / "images" / "b.jpg")):
        prompts = write(tmp_path / "p.json", {absent: {"boxes": []}, "b.jpg": {"boxes": []}})
        with pytest.raises(UserError, match=r"p\.json names 1 pictures that .*images lacks, such as "):
            planned(prompts=prompts)


def test_a_folder_of_results_says_what_they_are_made_with(planned: Plan, tmp_path: Path) -> None:
    job, _ = planned()
    assert not job.output.exists()
    begin(job)
    begin(job)  # a rerun
    assert [path.name for path in job.output.iterdir()] == ["batch.json"]
    record = json.loads((job.output / "batch.json").read_text())
    assert record == job.record
    assert record["model"] == "stand-in"
    assert record["points_per_side"] == 32


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"everything": {"points_per_side": 16}}, "points_per_side 32, not 16"),
        ({"embeddings": True}, "embeddings False, not True"),
        ({"prompts": "p.json"}, "prompts None, not [0-9a-f]{64}"),
        ({"model": "model"}, "encoder.onnx [0-9a-f]{64}, not [0-9a-f]{64}"),
    ],
)
def test_another_model_or_other_options_are_refused(
    planned: Plan, tmp_path: Path, export_folder: Path, changes: dict[str, Any], what: str
) -> None:
    begin(planned()[0])
    write(tmp_path / "p.json", {"b.jpg": {"boxes": []}})
    shutil.copytree(export_folder, tmp_path / "model")
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    manifest["files"]["encoder.onnx"]["sha256"] = "0" * 64
    write(tmp_path / "model" / "manifest.json", manifest)
    changes = {key: tmp_path / value if isinstance(value, str) else value for key, value in changes.items()}
    other, _ = planned(**changes)
    with pytest.raises(UserError, match=f"was begun with {what}; choose another folder$"):
        begin(other)


def test_how_it_runs_does_not_matter(planned: Plan) -> None:
    begin(planned()[0])
    begin(planned(runner="cuda")[0])


@pytest.mark.parametrize("content", ["{", "[]", "[[1, 2, 3]]", "5"])
def test_a_damaged_record_is_told(planned: Plan, content: str) -> None:
    job, _ = planned()
    begin(job)
    write(job.output / "batch.json", content)
    with pytest.raises(UserError, match=r"batch\.json.* cannot be read|was begun with model None"):
        begin(job)


def test_files_of_another_kind_are_left_alone(planned: Plan, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    write(tmp_path / "masks" / "thesis.tex", "precious")
    with pytest.raises(UserError, match=r"holds files and no batch\.json"):
        begin(planned()[0])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to .*file"):
        begin(planned(output=tmp_path / "file")[0])


@pytest.mark.parametrize("name", [".5f1a2b-71.json", ".batch.71.json", ".DS_Store"])
def test_a_run_that_was_killed_before_its_record_was_there_goes_on(planned: Plan, name: str) -> None:
    job, _ = planned()
    job.output.mkdir()
    write(job.output / name, '{"model"')
    begin(job)
    assert json.loads((job.output / "batch.json").read_text()) == job.record


def test_the_record_is_written_again_where_somebody_removed_it(planned: Plan) -> None:
    job, _ = planned()
    begin(job)
    shutil.rmtree(job.output)
    note(job)
    check(job)


def finish(job: Job, name: str, changes: Any = None) -> Path:
    """A result of a picture, as a run writes it, with something else in its place."""
    whole = {"image": name, "input": job.state(name), "height": 3, "width": 2, "masks": []}
    job.result(name).parent.mkdir(parents=True, exist_ok=True)
    return write(job.result(name), whole | (changes or {}))


def test_a_result_that_is_cut_short_does_not_count(planned: Plan) -> None:
    job, _ = planned()
    result = finish(job, "b.jpg")
    whole = result.read_bytes()
    for size in range(len(whole)):
        result.write_bytes(whole[:size])
        assert not job.done("b.jpg")
    result.write_bytes(whole)
    assert job.done("b.jpg")


@pytest.mark.parametrize(
    "changes",
    [{"image": "a.PNG"}, {"input": None}, {"input": {"bytes": 1, "mtime_ns": 2}}, {"input": [1, 2]}],
)
def test_a_result_of_something_else_does_not_count(planned: Plan, changes: dict[str, Any]) -> None:
    job, _ = planned()
    finish(job, "b.jpg", changes)
    assert not job.done("b.jpg")


@pytest.mark.parametrize("content", ["[]", "5", "null", "[" * 100_000, "\x00", '{"masks": [NaN'])
def test_what_is_no_result_does_not_count(planned: Plan, content: str) -> None:
    job, _ = planned()
    write(finish(job, "b.jpg"), content)
    assert not job.done("b.jpg")


def test_a_folder_with_the_name_of_a_result_does_not_count(planned: Plan) -> None:
    job, _ = planned()
    job.result("b.jpg").mkdir(parents=True)
    assert not job.done("b.jpg")
    assert not job.done("none.jpg")
    assert not job.done("x" * 255)


def test_a_picture_that_changes_under_its_name_is_not_done(planned: Plan) -> None:
    job, _ = planned()
    finish(job, "b.jpg")
    assert job.done("b.jpg")
    picture = job.images / "b.jpg"
    times = (picture.stat().st_atime_ns, picture.stat().st_mtime_ns)
    os.utime(picture, ns=(times[0], times[1] + 1))
    assert not job.done("b.jpg")
    os.utime(picture, ns=times)
    assert job.done("b.jpg")
    picture.write_bytes(picture.read_bytes() + b"\0")
    os.utime(picture, ns=times)
    assert not job.done("b.jpg")
    picture.unlink()
    assert not job.done("b.jpg")


def test_where_embeddings_are_kept_a_result_has_a_whole_one(planned: Plan) -> None:
    job, _ = planned(embeddings=True)
    finish(job, "b.jpg")
    assert not job.done("b.jpg")
    Embedding(np.zeros((1, 2, 3, 4), np.float32), Frame.of(3, 2, 64), "w").save(job.embedding("b.jpg"))
    assert job.done("b.jpg")
    whole = job.embedding("b.jpg").read_bytes()
    job.embedding("b.jpg").write_bytes(whole[:-30])
    assert not job.done("b.jpg")


def test_a_machine_that_does_not_see_the_folder_finds_out(planned: Plan) -> None:
    job, _ = planned()
    with pytest.raises(UserError, match=r"batch\.json.* cannot be read: .*No such file"):
        check(job)

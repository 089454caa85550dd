"""Hashes of files, and those that are kept."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from structsam_runtime import digest
from structsam_runtime.digest import sha256


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is large enough for its hash to be kept, and has been there for a while."""
    monkeypatch.setenv("STRUCTSAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digest, "LARGE", 4)
    monkeypatch.setattr(digest, "SETTLED", -1.0)
    path = tmp_path / "encoder.onnx"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read to be hashed."""
    names: list[str] = []
    read = digest._hash

    def noted(path: Path) -> str:
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(digest, "_hash", noted)
    return names


def slow(path: Path) -> str:
    """The reference: all at once, and never kept."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@given(size=st.integers(0, 5000))
def test_a_hash_is_that_of_all_bytes(tmp_path_factory: pytest.TempPathFactory, size: int) -> None:
    path = tmp_path_factory.mktemp("files") / "file"
    path.write_bytes(bytes(range(256)) * (size // 256) + bytes(size % 256))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digest, "_CHUNK", 1000)
        assert sha256(path) == slow(path)


def test_a_large_file_is_hashed_once(large: Path, hashed: list[str]) -> None:
    assert [sha256(large) for _ in range(3)] == [slow(large)] * 3
    assert hashed == ["encoder.onnx"]


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"W")


def flip_and_hide(path: Path) -> None:
    known = path.stat()
    flip(path)
    os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))


def swap(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"WEIGHTS")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [flip, flip_and_hide, swap])
def test_a_file_that_changed_is_hashed_again(large: Path, change: object) -> None:
    before = sha256(large)
    while large.with_name("clock").write_bytes(b"") or (
        large.with_name("clock").stat().st_ctime_ns == large.stat().st_ctime_ns
    ):
        pass  # until the file system's clock goes on
    change(large)  # type: ignore[operator]
    assert sha256(large) == slow(large) != before


def test_the_hash_of_a_file_that_changed_just_now_is_not_kept(
    large: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may change once more within one tick of the file system's clock."""
    monkeypatch.setattr(digest, "SETTLED", 1e6)
    sha256(large)
    sha256(large)
    assert len(hashed) == 2


def test_small_files_are_not_kept(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "LARGE", 100)
    sha256(large)
    assert not digest.cache_folder().exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"x": 1}', '{"x": [1, 2, 3]}', "[" * 10_000])
def test_a_cache_of_whatever_is_no_error(large: Path, text: str) -> None:
    digest.cache_folder().mkdir()
    (digest.cache_folder() / "hashes.json").write_text(text)
    assert sha256(large) == slow(large)


def test_a_cache_that_cannot_be_written_is_no_error(large: Path) -> None:
    digest.cache_folder().write_text("a file is in the way")
    assert sha256(large) == slow(large)


def test_the_newest_hashes_are_kept(large: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "KEPT", 2)
    files = [large.with_name(name) for name in "abc"]
    for file in files:
        file.write_bytes(b"weights")
        sha256(file)
    for file in reversed(files):
        sha256(file)
    assert hashed == ["a", "b", "c", "a"]

"""Hashes of files; those of large ones are kept, so that loading a model does not hash it every time."""

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from .errors import UserError
from .files import read_json, whole_file

LARGE = 32 * 2**20
"""Bytes from which on a hash is kept: a smaller file is read in the time that looking it up takes."""
KEPT = 64
"""How many hashes are kept."""
SETTLED = 2.0
"""Seconds after which a change of a file shows in its times, whatever the file system's clock."""
_FILE = "hashes.json"
_CHUNK = 2**20


def sha256(path: Path) -> str:
    """Hash of a file, as 64 hexadecimal digits; of a large one that was hashed before, as it was then.

    A file is the same as before if its number, size, and the times of its last change are. That hash is in
    the user's cache; a cache that cannot be read or written is no error.

    Raises:
        OSError: the file cannot be read.
    """
    known = path.stat()
    if known.st_size < LARGE:
        return _hash(path)
    key, stamp = str(path.resolve()), _stamp(known)
    kept = _read()
    if key in kept and kept[key][0] == stamp:
        return kept[key][1]
    digest = _hash(path)
    # A file that changes now might change once more with the same times.
    if _stamp(path.stat()) == stamp and time.time() - max(known.st_mtime, known.st_ctime) > SETTLED:
        _keep(key, (stamp, digest))
    return digest


def cache_folder() -> Path:
    """What this project keeps for a user: $STRUCTSAM_CACHE, or structsam in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("STRUCTSAM_CACHE") or Path(home) / "structsam")


def _stamp(known: os.stat_result) -> str:
    values = (known.st_dev, known.st_ino, known.st_size, known.st_mtime_ns, known.st_ctime_ns)
    return " ".join(map(str, values))


def _hash(path: Path) -> str:
    digest, chunk = hashlib.sha256(), memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(chunk):
            digest.update(chunk[:read])
    return digest.hexdigest()


def _read() -> dict[str, tuple[str, str]]:
    """What is kept: stamp and hash by path; nothing where the file is missing or not ours."""
    with contextlib.suppress(UserError, RuntimeError, TypeError, ValueError, AttributeError):
        kept = read_json(cache_folder() / _FILE)  # RuntimeError: a user may have no home
        return {path: (str(stamp), str(digest)) for path, (stamp, digest) in kept.items()}
    return {}


def _keep(key: str, entry: tuple[str, str]) -> None:
    """Add an entry, the newest last; two processes at once may lose one of theirs, and hash again."""
    kept = {path: one for path, one in _read().items() if path != key} | {key: entry}
    with contextlib.suppress(OSError, UserError, RuntimeError):
        cache_folder().mkdir(parents=True, exist_ok=True)
        with whole_file(cache_folder() / _FILE) as part:
            part.write_text(json.dumps(dict(list(kept.items())[-KEPT:])), encoding="utf-8")

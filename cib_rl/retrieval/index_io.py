"""An index on disk: a folder with a manifest that says what is in it, written beside its place and then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cib_rl.errors import UserError
from cib_rl.version import __version__

MANIFEST = "manifest.json"
KINDS = ("bm25", "dense")
AGAIN = "build it again with `cib-rl retriever build`"


class FileEntry(BaseModel):
    """A file of the index: its size in bytes and SHA-256."""

    model_config = ConfigDict(extra="forbid")
    bytes: int
    sha256: str


class CorpusEntry(FileEntry):
    """The corpus file an index was built from, as it was stored."""

    name: str


class Manifest(BaseModel):
    """What `manifest.json` holds; a kind of index adds fields and says which format it writes and reads."""

    model_config = ConfigDict(extra="forbid")
    KIND: ClassVar[str]
    VERSION: ClassVar[int]
    format: str
    format_version: int
    cib_rl_version: str = __version__
    settings: dict[str, Any]
    documents: int
    corpus: CorpusEntry
    files: dict[str, FileEntry]

    @classmethod
    def of(cls, folder: Path, **fields: Any) -> Self:
        """The manifest of all files now in `folder`."""
        files = {path.name: _entry(path) for path in sorted(folder.iterdir())}
        return cls(format=_format(cls.KIND), format_version=cls.VERSION, files=files, **fields)


M = TypeVar("M", bound=Manifest)


@contextmanager
def new_index_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to build in; it becomes `out` when the block ends well, and is removed when it does not.

    Raises UserError when `out` exists already, even where it came to be in the meantime, and when the disk is full or
    the folder cannot be made.
    """
    if os.path.lexists(out):
        raise _taken(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{out.name}.building-", dir=out.parent))
    except OSError as error:
        raise UserError(f"--out {out}: no folder can be made there: {error}") from error
    try:
        yield building
        building.chmod(0o777 & ~_umask())
        _rename(building, out)
    except BaseException as error:
        shutil.rmtree(building, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"--out {out}: {error.strerror}; nothing was left there") from error
        raise


def _taken(out: Path) -> UserError:
    return UserError(f"{out} exists already; nothing is overwritten: remove it or choose another --out")


def _rename(building: Path, out: Path) -> None:
    try:
        os.rename(building, out)
    except OSError as error:
        raise _taken(out) if os.path.lexists(out) else error from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest` into `folder`, after everything else in it is on the disk."""
    for path in (*(folder / name for name in manifest.files), folder):
        _flush(path)
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    _flush(folder / MANIFEST)


def index_kind(folder: Path) -> str:
    """The kind of the index in `folder`, one of `KINDS`. Raises UserError when there is no index in it."""
    found = _content(folder).get("format")
    for kind in KINDS:
        if found == _format(kind):
            return kind
    raise UserError(f"{folder / MANIFEST}: not an index of cib-rl; {AGAIN}")


def read_manifest(folder: Path, kind: type[M], *, verify: bool) -> M:
    """The manifest of the index in `folder`, after checking that the index is whole, of this kind and version.

    Args:
        verify: also compare every file's checksum, which reads the whole index once.

    Raises UserError that names what is wrong.
    """
    path, content = folder / MANIFEST, _content(folder)
    if content.get("format") != _format(kind.KIND):
        others = [other for other in KINDS if content.get("format") == _format(other)]
        mend = f"it is one for the retriever {others[0]}" if others else AGAIN
        raise UserError(f"{path}: not a {_format(kind.KIND)}; {mend}")
    if content.get("format_version") != kind.VERSION:
        found = content.get("format_version")
        raise UserError(f"{folder} has format version {found}, this cib-rl reads {kind.VERSION}; {AGAIN}")
    try:
        manifest = kind.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: damaged ({error.errors()[0]['loc']}: {error.errors()[0]['msg']}); {AGAIN}") from error
    for name, entry in manifest.files.items():
        _compare(folder / name, entry, verify)
    return manifest


def _format(kind: str) -> str:
    return f"cib-rl {kind} index"


def _content(folder: Path) -> dict[str, Any]:
    """The manifest as it stands. Raises UserError when there is none."""
    if folder.is_file():
        raise UserError(
            f"{folder} is a file, no index folder; if it is a corpus: `cib-rl retriever build {folder} --out index`"
        )
    if not folder.is_dir():
        raise UserError(f"no index folder {folder}; make one with `cib-rl retriever build CORPUS.jsonl --out {folder}`")
    path = folder / MANIFEST
    if not path.is_file():
        kind = "an index of bm25s itself" if (folder / "params.index.json").exists() else "half-written, or no index"
        raise UserError(f"{folder} has no {MANIFEST}: {kind}; {AGAIN}")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); {AGAIN}") from error
    return content if isinstance(content, dict) else {}


def _compare(path: Path, entry: FileEntry, verify: bool) -> None:
    if not path.is_file():
        raise UserError(f"{path.parent}: {path.name} is missing; {AGAIN}")
    size = path.stat().st_size
    if size != entry.bytes:
        raise UserError(f"{path} has {size:,} bytes, the manifest says {entry.bytes:,}: damaged; {AGAIN}")
    if verify and _entry(path).sha256 != entry.sha256:
        raise UserError(f"{path} is not the file that was built (checksum): damaged; {AGAIN}")


def _entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def _flush(path: Path) -> None:
    """To the disk itself, so that a renamed folder is whole even after a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

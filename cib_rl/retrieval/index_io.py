"""An index on disk: a folder with a manifest that says what is in it, written beside its place and then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from cib_rl.errors import UserError
from cib_rl.version import __version__

MANIFEST = "manifest.json"
FORMAT = "cib-rl bm25 index"
FORMAT_VERSION = 1


class FileEntry(BaseModel):
    """A file of the index: its size in bytes and SHA-256."""

    model_config = ConfigDict(extra="forbid")
    bytes: int
    sha256: str


class CorpusEntry(FileEntry):
    """The corpus file an index was built from, as it was stored."""

    name: str


class Manifest(BaseModel):
    """What `manifest.json` holds."""

    model_config = ConfigDict(extra="forbid")
    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    cib_rl_version: str = __version__
    bm25s_version: str
    settings: dict[str, Any]
    documents: int
    corpus: CorpusEntry
    files: dict[str, FileEntry]


@contextmanager
def new_index_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to build in; it becomes `out` when the block ends well, and is removed when it does not.

    Raises UserError when `out` exists already.
    """
    if out.exists():
        raise UserError(f"{out} exists already; nothing is overwritten: remove it or choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{out.name}.building-", dir=out.parent))
    try:
        yield building
        building.chmod(0o777 & ~_umask())
        os.rename(building, out)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_manifest(
    folder: Path, bm25s_version: str, settings: dict[str, Any], documents: int, corpus: CorpusEntry
) -> None:
    """Write the manifest of all files now in `folder`, as the last of them."""
    files = {path.name: _entry(path) for path in sorted(folder.iterdir())}
    manifest = Manifest(bm25s_version=bm25s_version, settings=settings, documents=documents, corpus=corpus, files=files)
    for path in (*(folder / name for name in files), folder):
        _flush(path)
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    _flush(folder / MANIFEST)


def read_manifest(folder: Path, bm25s_version: str, *, verify: bool) -> Manifest:
    """The manifest of the index in `folder`, after checking that the index is whole and of this version.

    Args:
        bm25s_version: of the installed bm25s; its first two numbers must be those the index was built with.
        verify: also compare every file's checksum, which reads the whole index once.

    Raises UserError that names what is wrong.
    """
    again = "build it again with `cib-rl retriever build`"
    if not folder.is_dir():
        raise UserError(f"no index folder {folder}; make one with `cib-rl retriever build CORPUS.jsonl --out {folder}`")
    path = folder / MANIFEST
    if not path.is_file():
        kind = "an index of bm25s itself" if (folder / "params.index.json").exists() else "half-written, or no index"
        raise UserError(f"{folder} has no {MANIFEST}: {kind}; {again}")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); {again}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not a {FORMAT}; {again}")
    if content.get("format_version") != FORMAT_VERSION:
        found = content.get("format_version")
        raise UserError(f"{folder} has format version {found}, this cib-rl reads {FORMAT_VERSION}; {again}")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: damaged ({error.errors()[0]['loc']}: {error.errors()[0]['msg']}); {again}") from error
    if manifest.bm25s_version.split(".")[:2] != bm25s_version.split(".")[:2]:
        raise UserError(
            f"{folder} was built with bm25s {manifest.bm25s_version}, installed is {bm25s_version}; {again}"
        )
    for name, entry in manifest.files.items():
        _compare(folder / name, entry, verify, again)
    return manifest


def _compare(path: Path, entry: FileEntry, verify: bool, again: str) -> None:
    if not path.is_file():
        raise UserError(f"{path.parent}: {path.name} is missing; {again}")
    size = path.stat().st_size
    if size != entry.bytes:
        raise UserError(f"{path} has {size:,} bytes, the manifest says {entry.bytes:,}: damaged; {again}")
    if verify and _entry(path).sha256 != entry.sha256:
        raise UserError(f"{path} is not the file that was built (checksum): damaged; {again}")


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

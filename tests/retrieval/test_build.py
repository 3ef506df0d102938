"""Building an index: what is read, what is refused by name, and that no half index ever stands at its place."""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from cib_rl.errors import UserError
from cib_rl.retrieval.build import build_index
from cib_rl.retrieval.index_io import new_index_folder
from cib_rl.retrieval.words import IndexSettings
from tests.retrieval.corpora import ROWS, index_of, opened, write


def first_ids(folder, query, k=3):
    return [d.id for d in asyncio.run(opened(folder).search([query], k))[0]]


def test_search_r1_rows_and_gzip_make_the_same_index(tmp_path):
    contents = [{"id": r["id"], "contents": f'"{r["title"]}"\n{r["text"]}'} for r in ROWS]
    lines = "\n\n".join(json.dumps(row) for row in contents) + "\n"  # blank lines are no rows
    with gzip.open(tmp_path / "c.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(lines)
    made = build_index(tmp_path / "c.jsonl.gz", tmp_path / "other")
    plain = index_of(tmp_path, ROWS)
    content = json.loads((plain / "manifest.json").read_text())
    assert {n: e.sha256 for n, e in made.files.items()} == {n: e["sha256"] for n, e in content["files"].items()}
    assert made.documents == 4 and first_ids(tmp_path / "other", "difference") == ["b"]


def test_the_manifest_states_settings_corpus_and_files(tmp_path):
    folder = index_of(tmp_path, ROWS, k1=0.9, b=0.4, stopwords="none")
    content = json.loads((folder / "manifest.json").read_text())
    assert content["settings"] == {
        "method": "lucene", "k1": 0.9, "b": 0.4, "stopwords": "none", "stemmer": "none",
        "token_pattern": r"(?u)\b\w\w+\b",
    }  # fmt: skip
    corpus = (tmp_path / "corpus.jsonl").read_bytes()
    assert content["corpus"] == {
        "name": "corpus.jsonl", "bytes": len(corpus), "sha256": hashlib.sha256(corpus).hexdigest()
    }  # fmt: skip
    assert set(content["files"]) == {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert set(first_ids(folder, "the")) == {"a", "b", "d"} and first_ids(index_of_other(tmp_path), "the") == []


def index_of_other(tmp_path):
    (tmp_path / "other").mkdir()
    return index_of(tmp_path / "other", ROWS)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{not json", "not JSON"),
        ("[1]", "a row must be an object, not list"),
        ('{"id": "x"}', "neither `text` nor `contents`; the row has id"),
        ('{"title": "t", "text": "x"}', "no `id`; the row has title, text"),
        ('{"id": null, "text": "x"}', "`id` must be a text or a whole number"),
        ('{"id": "", "text": "x"}', "`id` must be a text or a whole number"),
        ('{"id": "x", "text": "  "}', "empty: no text"),
        ('{"id": "x", "contents": "\\"Title\\"\\n"}', "empty: no text"),
        ('{"id": "x", "contents": 5}', "`contents` must be a text"),
        ('{"id": "x", "title": 3, "text": "x"}', "`title` and `text` must be texts"),
        ('{"id": "x", "text": "a \\ud800 b"}', "surrogate"),
        ('{"id": "x", "text": "a", "url": "\\ud800"}', "surrogate"),
        ('{"id": "x", "text": "a", "url": 5}', "`url` must be a text"),
        (f'{{"id": {"1" * 5000}, "text": "x"}}', "not JSON"),
        ('{"id": "b", "title": "again", "text": "x"}', "id 'b' stood in line 2 before"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_left_behind(tmp_path, line, words):
    corpus = write(tmp_path / "c.jsonl", ROWS)
    corpus.write_text(corpus.read_text() + line + "\n")
    with pytest.raises(UserError) as caught:
        build_index(corpus, tmp_path / "index")
    assert f"{corpus}:5: " in str(caught.value) and words in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["c.jsonl"]


def test_bytes_that_are_no_utf8_are_named(tmp_path):
    (tmp_path / "c.jsonl").write_bytes(b'{"id": 1, "text": "caf\xe9"}\n')
    with pytest.raises(UserError, match=r"c.jsonl:1: not JSON .*utf-8"):
        build_index(tmp_path / "c.jsonl", tmp_path / "index")


def test_several_bad_rows_are_named_in_one_message_and_many_stop_the_reading(tmp_path):
    corpus = tmp_path / "c.jsonl"
    corpus.write_text("1\n" + json.dumps(ROWS[0]) + "\n2\n")
    with pytest.raises(UserError, match=r"(?s)c.jsonl:1: .*c.jsonl:3: "):
        build_index(corpus, tmp_path / "index")
    corpus.write_text("1\n" * 100)
    with pytest.raises(UserError, match=r"(?s)c.jsonl:10: .*reading stopped here$"):
        build_index(corpus, tmp_path / "index")


def test_equal_hashes_of_different_ids_are_no_duplicates(tmp_path, monkeypatch):
    same = lambda content, digest_size: SimpleNamespace(digest=lambda: b"12345678")  # noqa: E731
    monkeypatch.setattr(hashlib, "blake2b", same)
    build_index(write(tmp_path / "c.jsonl", ROWS), tmp_path / "index")
    with pytest.raises(UserError, match=r"c.jsonl:5: id 'a' stood in line 1 before"):
        build_index(write(tmp_path / "c.jsonl", [*ROWS, ROWS[0]]), tmp_path / "second")


def test_what_holds_nothing_to_index_is_refused(tmp_path):
    for content, words in [("", "holds no rows"), ('{"id": 1, "text": "?"}\n', "no row has a word")]:
        (tmp_path / "c.jsonl").write_text(content)
        with pytest.raises(UserError, match=words):
            build_index(tmp_path / "c.jsonl", tmp_path / "index")
    with pytest.raises(UserError, match="no corpus file"):
        build_index(tmp_path / "none.jsonl", tmp_path / "index")
    whole = gzip.compress(json.dumps(ROWS[0]).encode() + b"\n")
    damaged = whole[:10] + b"\xff" + whole[11:]  # after the header: a kind of block that there is not
    for content in (whole[:-12], b"plain text", damaged):
        (tmp_path / "c.jsonl.gz").write_bytes(content)
        with pytest.raises(UserError, match="cannot be read after line"):
            build_index(tmp_path / "c.jsonl.gz", tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_an_existing_folder_is_never_overwritten(tmp_path):
    folder = index_of(tmp_path, ROWS)
    with pytest.raises(UserError, match="exists already; nothing is overwritten"):
        build_index(tmp_path / "corpus.jsonl", folder)
    assert first_ids(folder, "difference") == ["b"]
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="exists already; nothing is overwritten"):
        build_index(tmp_path / "corpus.jsonl", tmp_path / "link")
    with pytest.raises(UserError, match=r"--out .*: no folder can be made there"):
        build_index(tmp_path / "corpus.jsonl", tmp_path / "corpus.jsonl" / "index")


def test_a_folder_that_comes_to_be_while_an_index_is_built_is_not_overwritten(tmp_path):
    with pytest.raises(UserError, match="exists already; nothing is overwritten"), new_index_folder(tmp_path / "i"):
        (tmp_path / "i").mkdir()
        (tmp_path / "i" / "mine").write_text("kept")
    assert [path.name for path in tmp_path.rglob("*")] == ["i", "mine"]


def test_a_full_disk_is_told_and_nothing_is_left_behind(tmp_path):
    with pytest.raises(UserError, match=r"--out .*: No space left on device"), new_index_folder(tmp_path / "i"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


def test_a_stemmer_cuts_corpus_and_queries_alike(tmp_path, monkeypatch):
    class Stemmer:
        """Stands in for PyStemmer, which is optional: drops a final s."""

        def __init__(self, language):
            if language != "english":
                raise KeyError(language)

        def stemWords(self, words):
            return [word.removesuffix("s") for word in words]

    monkeypatch.setitem(sys.modules, "Stemmer", SimpleNamespace(Stemmer=Stemmer))
    folder = index_of(tmp_path, ROWS, stemmer="english")
    assert first_ids(folder, "submarines") == ["d"]
    assert first_ids(index_of_other(tmp_path), "submarines") == []
    with pytest.raises(UserError, match="no such language"):
        build_index(tmp_path / "corpus.jsonl", tmp_path / "x", IndexSettings(stemmer="klingon"))
    monkeypatch.setitem(sys.modules, "Stemmer", None)
    with pytest.raises(UserError, match="needs PyStemmer"):
        build_index(tmp_path / "corpus.jsonl", tmp_path / "x", IndexSettings(stemmer="english"))
    with pytest.raises(UserError, match="stopwords 'tlh'"):
        build_index(tmp_path / "corpus.jsonl", tmp_path / "x", IndexSettings(stopwords="tlh"))


def break_manifest(**changes):
    def act(folder):
        content = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(content | changes))

    return act


def flip_a_byte(folder):
    path = folder / "documents.jsonl"
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)


def as_bm25s_alone(folder):
    (folder / "manifest.json").unlink()


def half_written(folder):
    (folder / "manifest.json").unlink()
    (folder / "params.index.json").unlink()


def cut(folder):
    path = folder / "data.csc.index.npy"
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (half_written, "has no manifest.json: half-written"),
        (as_bm25s_alone, "an index of bm25s itself"),
        (cut, "data.csc.index.npy has .* bytes, the manifest says"),
        (flip_a_byte, r"documents.jsonl is not the file that was built \(checksum\)"),
        (lambda folder: (folder / "vocab.index.json").unlink(), "vocab.index.json is missing"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json: not JSON"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "not a cib-rl bm25 index"),
        (break_manifest(format="cib-rl dense index"), "not a cib-rl bm25 index; it is one for the retriever dense"),
        (break_manifest(format="other"), "not a cib-rl bm25 index"),
        (break_manifest(format_version=2), "has format version 2, this cib-rl reads 1"),
        (break_manifest(bm25s_version="0.1.9"), "was built with bm25s 0.1.9, installed is"),
        (break_manifest(documents="many"), "manifest.json: damaged"),
    ],
)
def test_an_index_that_is_damaged_foreign_or_of_another_version_is_refused(tmp_path, act, words):
    folder = index_of(tmp_path, ROWS)
    act(folder)
    with pytest.raises(UserError, match=words) as caught:
        opened(folder)
    assert str(folder) in str(caught.value)
    assert "build it again" in str(caught.value) or "the retriever dense" in words


def test_a_row_that_is_damaged_is_named_where_checksums_are_not_compared(tmp_path):
    folder = index_of(tmp_path, ROWS)
    texts = folder / "documents.jsonl"
    texts.write_bytes(texts.read_bytes().replace(b'{"id"', b'["id"', 1))
    retriever = opened(folder, verify=False)
    with pytest.raises(UserError, match=r"documents.jsonl: row 1 cannot be read; build the index again"):
        asyncio.run(retriever.search([ROWS[0]["text"]], 1))


def test_settings_that_this_version_does_not_know_are_named(tmp_path):
    folder = index_of(tmp_path, ROWS)
    break_manifest(settings={"k2": 1})(folder)
    with pytest.raises(UserError, match=r"manifest.json: unknown key `k2`"):
        opened(folder)


def test_a_build_that_is_killed_leaves_nothing_at_its_place(tmp_path):
    """A corpus that never ends (a pipe with one row) keeps the build going until it is killed."""
    os.mkfifo(tmp_path / "pipe")
    code = (
        "import pathlib, sys, cib_rl.retrieval.build as build\n"
        "pathlib.Path.is_file = lambda self: True\n"
        f"build.build_index(pathlib.Path({str(tmp_path / 'pipe')!r}), pathlib.Path({str(tmp_path / 'index')!r}))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    with (tmp_path / "pipe").open("w") as pipe:
        pipe.write(json.dumps(ROWS[0]) + "\n")
        pipe.flush()
        while not list(tmp_path.glob(".index.building-*")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "index").exists()
    (left,) = tmp_path.glob(".index.building-*")
    with pytest.raises(UserError, match="half-written"):
        opened(left)

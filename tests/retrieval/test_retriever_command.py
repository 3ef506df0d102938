"""`cib-rl retriever`: what is printed, and mistakes as one message."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from cib_rl.cli import app
from tests.retrieval.corpora import ROWS, index_of, write
from tests.retrieval.encoders import make_encoder


def run(*arguments):
    return CliRunner().invoke(app, ["retriever", *map(str, arguments)], env={"COLUMNS": "100"})


def test_build_and_query(tmp_path):
    corpus = write(tmp_path / "c.jsonl", ROWS)
    built = run("build", corpus, "--out", tmp_path / "index", "--k1", "1.2")
    assert built.exit_code == 0, built.output
    assert "reading c.jsonl" in built.output and "4 documents, " in built.output.splitlines()[-1]
    shown = run("query", tmp_path / "index", "analytical engine", "-k", 2).output
    assert "1. Charles Babbage" in shown and "2. Ada Lovelace" in shown and "wrote about the analytical" in shown
    assert "3." not in shown
    assert run("query", tmp_path / "index", "zzz").output == "no document holds a word of this query\n"


def test_build_and_query_dense(tmp_path):
    corpus, encoder = write(tmp_path / "c.jsonl", ROWS), make_encoder(tmp_path).rename(tmp_path / "tiny-e5")
    options = ["--kind", "dense", "--encoder", encoder, "--device", "cpu", "--query-prefix", "q "]
    built = run("build", corpus, "--out", tmp_path / "index", *options)
    assert built.exit_code == 0, built.output
    said = "query prefix 'q ', passage prefix 'passage: ' (query_prefix as given; the other: E5, by the encoder's name)"
    assert said in built.stdout and "4 documents, " in built.stdout.splitlines()[-1]
    shown = run("query", tmp_path / "index", "analytical engine", "devices=[cpu]", "block=2", "-k", 9).output
    assert all(f"{rank}. " in shown for rank in (1, 2, 3, 4)) and "wrote about the analytical" in shown
    for arguments, words in [
        (["build", corpus, "--out", "x", *options, "--k1", "1"], "--k1 is no option of --kind dense"),
        (["build", corpus, "--out", "x", "--no-normalize"], "--normalize is no option of --kind bm25"),
        (["build", corpus, "--out", "x", "--kind", "sparse"], "--kind sparse: must be bm25 or dense"),
        (["build", corpus, "--out", "x", "--kind", "dense", "--encoder", tmp_path / "no"], "cannot load a sentence"),
        (["build", corpus, "--out", "x", *options, "--hnsw", "--hnsw-m", 1], "`m` must be"),
        (["build", corpus, "--out", "x", *options, "--hnsw-m", 8], "--hnsw-m is for a graph: give --hnsw too"),
        (["query", tmp_path / "index", "text", "serch=hnsw"], "unknown key `serch`; did you mean `search`"),
        (["query", tmp_path / "index", "text", "search=hnsw"], "has no HNSW graph: build it with --hnsw"),
        (["query", tmp_path / "index", "text", "search"], "expected KEY=VALUE"),
        (["serve", tmp_path / "index", "--threads", 2], "unknown key `threads`"),
    ]:
        done = run(*arguments)
        assert done.exit_code == 2 and words in done.stderr, done.output
    assert not (tmp_path / "x").exists()


def test_a_missing_package_is_named_with_the_extra_that_has_it(tmp_path, monkeypatch):
    index_of(tmp_path, ROWS)
    monkeypatch.setattr("cib_rl.retrieval.extra.find_spec", lambda name: None)
    for arguments in (
        ["build", tmp_path / "corpus.jsonl", "--out", tmp_path / "x"],
        ["query", tmp_path / "index", "q"],
    ):
        assert "needs bm25s" in run(*arguments).stderr
    assert "needs fastapi and uvicorn and httpx: pip install 'cib-rl[search]'" in run("serve", "x").stderr


def test_documents_are_shown_as_they_are_and_never_as_markup(tmp_path):
    index = index_of(tmp_path, [{"id": "[red]", "title": "[bold]x[/bold]", "text": "a [link=evil]marked[/link] text"}])
    shown = run("query", index, "marked").output
    assert "[bold]x[/bold]" in shown and "[red]" in shown and "a [link=evil]marked[/link] text" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build", "none.jsonl", "--out", "x"], "no corpus file none.jsonl"),
        (["build", "none.jsonl", "--out", "x", "--method", "bm26"], "`method` must be"),
        (["build", "none.jsonl", "--out", "x", "--b", "2"], "`b` must be"),
        (["query", "nowhere", "text"], "no index folder nowhere; make one with `cib-rl retriever build"),
    ],
)
def test_a_mistake_is_one_message(arguments, words):
    done = run(*arguments)
    assert done.exit_code == 2 and done.stderr.startswith("error: ") and words in done.stderr
    assert "Traceback" not in done.stderr

"""`cib-rl retriever`: what is printed, and mistakes as one message."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from cib_rl.cli import app
from tests.retrieval.corpora import ROWS, index_of, write


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


def test_a_missing_package_is_named_with_the_extra_that_has_it(tmp_path, monkeypatch):
    index_of(tmp_path, ROWS)
    monkeypatch.setattr("cib_rl.retrieval.extra.find_spec", lambda name: None)
    for arguments in (
        ["build", tmp_path / "corpus.jsonl", "--out", tmp_path / "x"],
        ["query", tmp_path / "index", "q"],
    ):
        assert "needs bm25s" in run(*arguments).stderr
    assert "needs bm25s and fastapi and uvicorn and httpx: pip install 'cib-rl[search]'" in run("serve", "x").stderr


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

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

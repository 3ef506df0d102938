"""Small corpora for the tests of retrieval, and raw bm25s as the judge."""

from __future__ import annotations

import json
from pathlib import Path

import bm25s

from cib_rl.retrieval.bm25 import BM25Retriever, BM25Settings
from cib_rl.retrieval.build import build_index
from cib_rl.retrieval.words import IndexSettings

ROWS = [
    {"id": "a", "title": "Ada Lovelace", "text": "Ada Lovelace wrote about the analytical engine."},
    {"id": "b", "title": "Charles Babbage", "text": "Babbage designed the analytical engine and a difference engine."},
    {"id": "c", "title": "Engine", "text": "An engine turns heat into motion; an engine is a machine."},
    {"id": "d", "title": 'The "Nautilus"', "text": "A submarine.\nIt dived « très » deep, 海底."},
]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def index_of(folder: Path, rows: list[dict], **settings) -> Path:
    """An index of `rows` in folder/index."""
    build_index(write(folder / "corpus.jsonl", rows), folder / "index", IndexSettings(**settings))
    return folder / "index"


def opened(folder: Path, **settings) -> BM25Retriever:
    return BM25Retriever(BM25Settings(path=folder, **settings), Path())


def raw_bm25s(texts: list[str], queries: list[str], k: int, **settings) -> list[list[tuple[int, float]]]:
    """What bm25s itself answers, all in memory and with its own defaults: (number, score), the best first."""
    stopwords = settings.pop("stopwords", "en")
    index = bm25s.BM25(**settings)
    index.index(bm25s.tokenize(texts, stopwords=stopwords, show_progress=False), show_progress=False)
    words = bm25s.tokenize(queries, stopwords=stopwords, show_progress=False)
    numbers, scores = index.retrieve(words, k=k, show_progress=False)
    return [[(int(n), float(s)) for n, s in zip(*pair, strict=True)] for pair in zip(numbers, scores, strict=True)]

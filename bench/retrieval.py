"""BM25 against corpus size: seconds, memory and disk of a build, memory of an open index, queries a second.

    python -m bench.retrieval --sizes 10000 100000
    python -m bench.retrieval --sizes 10000 30000 100000 300000 1000000 --plot docs/img/bm25-size.png
    python -m bench.retrieval --corpus CORPUS.jsonl

Corpora are generated unless one is named: passages of 100 made-up words whose frequencies fall like a power. Queries
are five words of a passage. `raw` is bm25s alone on the same index in the same process, turn and turn about: it cuts
the queries into words and ranks, but reads no documents.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import psutil

from cib_rl.retrieval.bm25 import BM25Retriever, BM25Settings
from cib_rl.retrieval.words import IndexSettings, Words

VOCABULARY = 400_000
EXPONENT = 1.15  # of the words' frequencies; gives 58 different words in a passage
K = 3
# Runs the command line and says at its end the seconds of CPU and the peak of memory in MB. From /proc, because what
# `wait4` tells as a child's peak is never below the size of the process that started it.
MEASURED = """
import os, re
from cib_rl.cli import main
try:
    main()
finally:
    peak = re.search("VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
    print(sum(os.times()[:2]), int(peak[1]) * 1024 / 1e6)
"""


def generate(path: Path, passages: int) -> None:
    """Write a corpus of `passages`."""
    draw = np.random.default_rng(0)
    with path.open("w") as file:
        for i in range(passages):
            words = np.minimum(draw.zipf(EXPONENT, 100), VOCABULARY)
            text = " ".join(f"w{word:x}" for word in words)
            file.write(json.dumps({"id": f"p{i}", "title": f"Title {i}", "text": text}) + "\n")


def build(corpus: Path, out: Path, *options: str) -> dict[str, float]:
    """Build in a process of its own, and say what it took: seconds, CPU seconds, peak memory and disk in MB."""
    begun = time.perf_counter()
    command = [sys.executable, "-c", MEASURED, "retriever", "build", str(corpus), "--out", str(out), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - begun
    disk = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    cpu, peak = map(float, done.stdout.splitlines()[-1].split())
    print(f"    build {seconds:.0f} s ({cpu:.0f} s of CPU), peak {peak:.0f} MB, disk {disk:.0f} MB", flush=True)
    return {"build_cpu": cpu, "build_peak": peak, "disk": disk}


async def speed(index: Path, seconds: float) -> dict[str, float]:
    """Queries a second of CPU time (so that other work on the machine does not count), ours and raw."""
    before = psutil.Process().memory_info().rss
    retriever = BM25Retriever(BM25Settings(path=index, verify=False), Path())
    print(f"    open +{(psutil.Process().memory_info().rss - before) / 1e6:.0f} MB", flush=True)
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

    spent: dict[Any, list[float]] = {
        way: [] for way in (one_after_the_other, at_once, in_one_search, raw_singly, raw_batch)
    }
    while min(map(len, spent.values())) < 4 or sum(map(sum, spent.values())) < seconds:
        for way, taken in spent.items():
            begun = time.process_time()
            await way()
            taken.append(time.process_time() - begun)
    rates = {
        way.__name__: len(queries) / statistics.median(taken[1:]) for way, taken in spent.items()
    }  # 1st: from disk
    for name, rate in rates.items():
        print(f"    {name:20} {rate:6.0f} queries/s", flush=True)
    for ours, theirs in ((at_once, raw_singly), (in_one_search, raw_batch)):
        ratios = [raw / own for own, raw in zip(spent[ours][1:], spent[theirs][1:], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"    {ours.__name__} / {theirs.__name__}: {middle:.2f} (quartiles {low:.2f}, {high:.2f})", flush=True)
    await retriever.close()
    return rates


def opened_memory(index: Path) -> float:
    """MB that a process of its own grows by when it opens the index and answers 1,000 queries."""
    code = (
        "import asyncio, random, sys, psutil\n"
        "from pathlib import Path\n"
        "from cib_rl.retrieval.bm25 import BM25Retriever, BM25Settings\n"
        "import bm25s\n"
        "before = psutil.Process().memory_info().rss\n"
        "retriever = BM25Retriever(BM25Settings(path=Path(sys.argv[1]), verify=False), Path())\n"
        "draw = random.Random(1)\n"
        "texts = [retriever._documents.get(draw.randrange(len(retriever))).text.split() for _ in range(1000)]\n"
        "asyncio.run(retriever.search([' '.join(draw.sample(text, min(5, len(text)))) for text in texts], 3))\n"
        "print((psutil.Process().memory_info().rss - before) / 1e6)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(index)], check=True, capture_output=True, text=True)
    return float(done.stdout)


def plot(rows: list[dict[str, float]], path: Path) -> None:
    """Queries a second and memory against the number of passages."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    sizes = [row["passages"] for row in rows]
    for key, label in [
        ("at_once", "64 searches at once"),
        ("raw_singly", "bm25s alone, singly"),
        ("in_one_search", "one search of 64"),
        ("raw_batch", "bm25s alone, 64"),
    ]:
        style = "--" if key.startswith("raw") else "-"
        left.plot(sizes, [row[key] for row in rows], style, marker="o", markersize=3, label=label)
    left.set(ylabel="queries per second of CPU")
    for key, label in [
        ("build_peak", "build, peak"),
        ("disk", "index on disk"),
        ("memory", "open, after 1,000 queries"),
    ]:
        right.plot(sizes, [row[key] for row in rows], marker="o", markersize=3, label=label)
    right.set(ylabel="MB")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="passages")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0, help="of CPU time for the measurements of speed")
    parser.add_argument("--plot", type=Path, help="picture to write")
    options = parser.parse_args()
    rows = []
    for size in [None] if options.corpus else options.sizes:
        with tempfile.TemporaryDirectory() as name:
            corpus, out = options.corpus or Path(name) / "corpus.jsonl", Path(name) / "index"
            print(options.corpus or f"{size:,} passages", flush=True)
            if size is not None:
                generate(corpus, size)
            row = {"passages": size or 0, **build(corpus, out), "memory": opened_memory(out)}
            print(f"    memory after 1,000 queries +{row['memory']:.0f} MB", flush=True)
            rows.append(row | asyncio.run(speed(out, options.seconds)))
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()

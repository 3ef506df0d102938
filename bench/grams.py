"""Time and memory of mining grams against the size of the corpus: Countdown demonstrations, counting and clustering.

    python -m bench.grams --sizes 1000,10000,100000

Each size runs in a process of its own, so that its peak memory is its own. `counting` is both passes over the corpus,
`embedding` the sentence encoder, `clustering` k-means; memory is the peak above what the corpus itself takes.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import resource
import time
from typing import Any


def measure(size: int, least: int, queue: Any) -> None:
    import numpy as np

    from cib_rl.countdown.problems import CountdownSettings
    from cib_rl.grams.embed import sentence_encoder
    from cib_rl.grams.mine import MiningSettings, cluster, frequent_grams
    from cib_rl.trainers.sft_data import countdown_rows

    settings = MiningSettings(min_solutions=least)
    embed = sentence_encoder(None)
    embed(["warm up"])
    solutions = [row.completion for row in itertools.islice(countdown_rows(CountdownSettings(), 0), size)]
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    names = sorted(frequent_grams(solutions, settings))
    counted = time.perf_counter()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    embedding_GD = np.asarray(embed(names))
    embedded = time.perf_counter()
    cluster(embedding_GD, settings)
    clustered = time.perf_counter()
    words = sum(len(s.split()) for s in solutions)
    queue.put((size, words, len(names), counted - started, embedded - counted, clustered - embedded, memory / 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--min-solutions", type=int, default=5)
    arguments = parser.parse_args()
    print("| solutions | words | grams embedded | counting | embedding | clustering | counting's memory |")
    print("|---|---|---|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    for size in map(int, arguments.sizes.split(",")):
        queue = context.Queue()
        process = context.Process(target=measure, args=(size, arguments.min_solutions, queue))
        process.start()
        n, words, grams, *seconds, memory = queue.get()
        process.join()
        shown = " | ".join(f"{s:.1f} s" for s in seconds)
        print(f"| {n:,} | {words:,} | {grams:,} | {shown} | {memory:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()

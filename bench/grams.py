"""What grams cost: time and memory of mining against the size of the corpus; marking as a share of a training step.

    python -m bench.grams --sizes 1000,10000,100000
    python -m bench.grams --step --steps 3 --grams shipped

Mining is measured on Countdown demonstrations. Each size runs in a process of its own, so that its peak memory is its
own. `counting` is both passes over the corpus, `embedding` the sentence encoder, `clustering` k-means; memory is the
peak above what the corpus itself takes.

`--step` trains the quickstart for some steps without evaluation, on one thread, and then marks and counts the grams of
each step's completions as `hicra` does. Both are the process's CPU time, which other processes do not lengthen; the
first step, which warms up, is left out.
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


def measure_step(steps: int, grams: str) -> None:
    import statistics
    import tempfile

    import torch
    from transformers import TrainerCallback

    from cib_rl.grams import GramMatcher, load_grams
    from cib_rl.grams.mark import find_planning
    from cib_rl.grams.measure import GramCounts
    from cib_rl.recipe_io import load_recipe
    from cib_rl.trainers import run

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds.append(time.process_time() - self.started)

    torch.set_num_threads(1)
    clock, windows, matcher = Clock(), [], GramMatcher(load_grams(grams))
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"output={folder}", f"trainer.steps={steps + 1}", "evaluation=null"]
        with run.prepare(load_recipe("quickstart", overrides), callbacks=[clock]) as trainer:
            assign, tokenizer = trainer.credit.assign, trainer.processing_class

            def keeping(trajectories: Any, *arguments: Any) -> Any:
                windows.append(trajectories)
                return assign(trajectories, *arguments)

            trainer.credit.assign = keeping
            trainer.train()
    shares = []
    print("| step | its tokens | grams found | the step | marking and counting | share of the step |")
    print("|---|---|---|---|---|---|")
    for index, (window, seconds) in enumerate(zip(windows, clock.seconds, strict=True)):
        started, counts = time.process_time(), GramCounts()
        for trajectory in window:
            counts.add(trajectory, *find_planning(trajectory, tokenizer, matcher))
        marking = time.process_time() - started
        if index:
            tokens = counts.planning.tokens + counts.execution.tokens
            shares.append(marking / seconds)
            print(
                f"| {index} | {tokens:,} | {counts.grams.total():,} | {seconds:.2f} s | {marking:.3f} s "
                f"| {shares[-1]:.2%} |"
            )
    print(f"\nmedian share: {statistics.median(shares):.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--min-solutions", type=int, default=5)
    parser.add_argument("--step", action="store_true", help="marking as a share of a training step, not mining")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--grams", default="shipped")
    arguments = parser.parse_args()
    if arguments.step:
        measure_step(arguments.steps, arguments.grams)
        return
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

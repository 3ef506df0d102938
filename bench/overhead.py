"""Our own Python's share of a step: everything but engine, prior and model passes, at the embedded default's sizes.

One real window is sampled and scored by the default recipe and its step timed. Then the same window is made again from
the recorded generations (an engine that answers from memory) with a uniform prior and no log-probability pass: what
that costs is drawing, episodes, decoding, grading, rewards, credit, padding, splitting, metrics and the trajectories'
parquet file. The figure is that time over the time of the real step.

    python -m bench.overhead --rounds 5
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

import torch

from bench.step import one_step
from cib_rl.engines.base import Engine, Generation, Sampling
from cib_rl.recipe_io import load_recipe
from cib_rl.trainers import run


class Recorder(Engine):
    """Passes requests on and remembers the answers; answers from memory once `replaying`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.answers: dict[int | None, Generation] = {}
        self.replaying = False

    async def generate(self, prompt_ids: list[int], sampling: Sampling) -> Generation:
        if not self.replaying:
            self.answers[sampling.seed] = await self.engine.generate(prompt_ids, sampling)
        return self.answers[sampling.seed]

    def sync_weights(self, named_tensors: Any, version: int) -> None:
        if not self.replaying:
            self.engine.sync_weights(named_tensors, version)

    def set_active_episodes(self, count: int) -> None:
        self.engine.set_active_episodes(count)

    def close(self) -> None:
        self.engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"output={folder}", "run_name=bench", "evaluation=null", "trainer.steps=100"]
        with run.prepare(load_recipe("quickstart", overrides)) as trainer:
            recorder = Recorder(trainer.engine)
            trainer.engine = trainer.collector.rollouts.engine = recorder
            one_step(trainer)  # warm
            shares, own_times, steps = [], [], []
            suite = trainer.collector.suite
            free = load_recipe("quickstart", ["rewards.surprisal.prior={name: uniform}"]).rewards
            for _ in range(arguments.rounds):
                cursor, index = trainer.collector.stream.cursor, trainer._window_index
                steps.append(one_step(trainer)["step"])
                trainer.collector.stream.cursor, trainer._window_index = cursor, index
                recorder.replaying, trainer.collector.suite = True, type(suite)(free, suite.context)
                started = time.perf_counter()
                trainer._make_window()
                own_times.append(time.perf_counter() - started)
                shares.append(own_times[-1] / steps[-1])
                recorder.replaying, trainer.collector.suite = False, suite
    print(f"{torch.get_num_threads()} threads, {arguments.rounds} rounds, median (min to max)")
    for name, values, unit in (("step", steps, " s"), ("own Python", own_times, " s"), ("share", shares, "")):
        spread = f"{min(values):.4f} to {max(values):.4f}"
        print(f"| {name} | {statistics.median(values):.4f}{unit} ({spread}) |")


if __name__ == "__main__":
    main()

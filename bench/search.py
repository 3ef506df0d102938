"""Search episodes on their own against episodes in lock-step, over the same engine, environment and retriever.

    python -m bench.search --episodes 512 --slots 64

Episodes of the tiny search agent on questions of the generated world; every search waits for 50 to 500 ms, drawn from
its query. Three ways, turn and turn about in one process, with the same seeds and so the same searches:

* `own`: every episode goes on when it can (what `cib-rl` does);
* `lock-step, all`: no episode starts a turn before all have ended theirs, nor searches before all have spoken (the loop
  of Search-R1), all episodes in one batch;
* `lock-step, batches`: the same in batches as large as the engine has slots, one after the other.

Each row: seconds of every round, and the ratio to `own` within its round: median, lowest and highest.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from cib_rl.engines.base import Engine, Generation, Sampling
from cib_rl.environments.factory import make_environment
from cib_rl.environments.search import Search
from cib_rl.evals.runner import start_engine
from cib_rl.models import load_tokenizer, resolve_model
from cib_rl.recipe_io import load_recipe
from cib_rl.retrieval.base import Document, Retriever
from cib_rl.rollout import Episode, Rollouts
from cib_rl.seeds import derive_seed
from cib_rl.tasks import load_rows


class Slow(Retriever):
    """The retriever, after a wait that depends on the query alone."""

    def __init__(self, inner: Retriever, low: float, high: float) -> None:
        self.inner, self.low, self.high = inner, low, high

    async def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        share = derive_seed("latency", *queries) % 10_000 / 10_000
        await asyncio.sleep(self.low + share * (self.high - self.low))
        return await self.inner.search(queries, k)

    async def close(self) -> None:
        await self.inner.close()


class Step:
    """Lets those who arrive go on when as many have arrived as are still playing."""

    def __init__(self, playing: int) -> None:
        self.playing, self._waiting = playing, []  # type: ignore[var-annotated]

    async def arrive(self) -> None:
        self._waiting.append(asyncio.get_running_loop().create_future())
        mine = self._waiting[-1]
        self._release()
        await mine

    def leave(self) -> None:
        self.playing -= 1
        self._release()

    def _release(self) -> None:
        if self._waiting and len(self._waiting) >= self.playing:
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                one.set_result(None)


class LockStepEngine(Engine):
    """The engine, behind a step before and after each turn."""

    def __init__(self, inner: Engine) -> None:
        self.inner = inner
        self.step = Step(0)

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Generation:
        await self.step.arrive()
        generation = await self.inner.generate(prompt_ids, sampling)
        await self.step.arrive()  # nobody searches before all have spoken
        return generation

    def sync_weights(self, named_tensors: Any, version: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.inner.close()


class LockStepSearch:
    """The environment, telling the step when an episode is over."""

    def __init__(self, inner: Search, engine: LockStepEngine) -> None:
        self.inner, self.engine = inner, engine

    async def run(self, task: Any, engine: Any) -> Any:
        try:
            return await self.inner.run(task, engine)
        finally:
            self.engine.step.leave()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shipped:search/policy")
    parser.add_argument("--engine", default="transformers")
    parser.add_argument("--episodes", type=int, default=512)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3, help="that may search; one more answers")
    parser.add_argument("--latency", type=float, nargs=2, default=(0.05, 0.5), metavar="SECONDS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    changes = [f"environment.turns={asked.turns}", f"environment.concurrency={asked.episodes}"]
    recipe = load_recipe("search/tiny", [*changes, f"engine.name={asked.engine}", f"engine.max_num_seqs={asked.slots}"])
    reference = resolve_model(asked.model, Path())
    tokenizer = load_tokenizer(reference)
    engine = start_engine(recipe.engine, reference, tokenizer, deterministic=False, seed=0)
    environment = make_environment(recipe.environment, tokenizer)
    assert isinstance(environment, Search)
    environment.retriever = Slow(environment.retriever, *asked.latency)
    rows = load_rows(recipe.task, Path())[: asked.episodes]
    episodes = [Episode(row, i, 0, derive_seed("bench", i)) for i, row in enumerate(rows)]
    sampling = Sampling(max_tokens=recipe.environment.max_completion_length, temperature=1.0)
    own = Rollouts(environment, engine, tokenizer, recipe.environment.answer)
    lock = LockStepEngine(engine)
    stepped = Rollouts(LockStepSearch(environment, lock), lock, tokenizer, recipe.environment.answer)

    def in_lock_step(size: int) -> int:
        turns = 0
        for start in range(0, len(episodes), size):
            batch = episodes[start : start + size]
            lock.step = Step(len(batch))
            turns += sum(len(t.turns) for t in stepped.run(batch, sampling))
        return turns

    ways: dict[str, Callable[[], int]] = {
        "own": lambda: sum(len(t.turns) for t in own.run(episodes, sampling)),
        "lock-step, all": lambda: in_lock_step(len(episodes)),
        "lock-step, batches": lambda: in_lock_step(asked.slots),
    }
    own.run(episodes[: asked.slots], sampling)  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(asked.rounds):
        for name, play in ways.items():
            begun = time.perf_counter()
            turns = play()
            seconds[name].append(time.perf_counter() - begun)
            print(f"  {name}: {seconds[name][-1]:.1f} s, {turns / len(episodes):.2f} turns an episode", flush=True)
    for name, taken in seconds.items():
        ratios = sorted(t / first for t, first in zip(taken, seconds["own"], strict=True))
        rounds = " ".join(f"{t:.1f}" for t in taken)
        print(f"{name:20} {rounds} s; ×{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    engine.close()


if __name__ == "__main__":
    main()

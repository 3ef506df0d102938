"""The pump with an engine that is only arithmetic: waves, failures, closing. Nothing here may hang."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cib_rl.engines.base import Generation, Sampling
from cib_rl.engines.pump import Finished, PumpedEngine, Request
from cib_rl.trajectory import StopReason


class Counting(PumpedEngine):
    """Answers each request with its seed, one token per step; writes down who ran together."""

    def __init__(self, *, max_num_seqs: int = 4, deterministic: bool = False, pause: float = 0.0) -> None:
        super().__init__(max_num_seqs=max_num_seqs, max_model_len=1000, vocab_size=50, deterministic=deterministic)
        self.rows: list[Request] = []
        self.batches: list[list[int | None]] = []
        self.events: list[str] = []
        self.pause = pause
        self.fail: Callable[[], None] = lambda: None
        self.end_fails = False

    def _begin(self) -> None:
        self.events.append("begin")

    def _end(self) -> None:
        self.events.append("end")
        if self.end_fails:
            raise RuntimeError("no end")

    def _admit(self, requests: Sequence[Request]) -> list[Finished]:
        self.rows += requests
        return []

    def _step(self) -> list[Finished]:
        time.sleep(self.pause)
        self.fail()
        self.batches.append([r.sampling.seed for r in self.rows])
        ended = []
        for request in self.rows:
            request.ids.append(request.sampling.seed or 0)
            request.logprobs.append(0.0)
            if len(request.ids) == request.sampling.max_tokens:
                ended.append(Finished(request, StopReason.LENGTH))
        self.rows = [r for r in self.rows if len(r.ids) < r.sampling.max_tokens]
        return ended

    def _abort(self, requests: Sequence[Request]) -> None:
        self.rows = [r for r in self.rows if r not in requests]

    def sync_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        with self._exclusive("sync weights"):
            self.weights_version = version


def within(seconds: float, work: Coroutine[Any, Any, Any]) -> Any:
    async def limited() -> Any:
        return await asyncio.wait_for(work, seconds)

    return asyncio.run(limited())


async def gather(engine: PumpedEngine, samplings: Iterable[Sampling], delays: Iterable[float] = ()) -> list[Generation]:
    waits = list(delays)

    async def one(i: int, sampling: Sampling) -> Generation:
        await asyncio.sleep(waits[i] if waits else 0)
        return await engine.generate([i % 50], sampling)

    return list(await asyncio.gather(*(one(i, s) for i, s in enumerate(samplings))))


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(7)), st.lists(st.integers(0, 4), min_size=7, max_size=7))
def test_a_wave_is_the_same_whatever_the_order_of_arrival(order: list[int], milliseconds: list[int]) -> None:
    def batches(order: Sequence[int], delays: Sequence[float]) -> list[list[int | None]]:
        engine = Counting(deterministic=True)
        engine.set_active_episodes(7)
        samplings = [Sampling(max_tokens=1 + seed % 3, seed=seed) for seed in order]
        within(20, gather(engine, samplings, delays))
        engine.close()
        return engine.batches

    assert batches(order, [m / 1000 for m in milliseconds]) == batches(range(7), [0.0] * 7)


def test_several_turns_wait_for_all_episodes_that_still_run() -> None:
    def play(latency: Callable[[int, int], float]) -> list[list[int | None]]:
        engine = Counting(deterministic=True, max_num_seqs=8)

        async def episodes() -> None:
            active = 5
            engine.set_active_episodes(active)

            async def episode(i: int) -> None:
                nonlocal active
                for turn in range(1 + i):
                    await asyncio.sleep(latency(i, turn))
                    await engine.generate([i], Sampling(max_tokens=1 + (i + turn) % 3, seed=10 * turn + i))
                active -= 1
                engine.set_active_episodes(active)

            await asyncio.gather(*(episode(i) for i in range(5)))

        within(20, episodes())
        engine.close()
        return engine.batches

    assert play(lambda i, turn: 0.0) == play(lambda i, turn: ((3 * i + 5 * turn) % 7) / 300)


def test_a_deterministic_engine_wants_seeds_and_the_number_of_episodes() -> None:
    engine = Counting(deterministic=True)
    early = within(5, engine.generate([1], Sampling(max_tokens=2, seed=1)))
    assert early.stop_reason is StopReason.ERROR and "set_active_episodes" in str(early.error)
    engine.set_active_episodes(1)
    unseeded = within(5, engine.generate([1], Sampling(max_tokens=2)))
    assert unseeded.stop_reason is StopReason.ERROR and "seed" in str(unseeded.error)
    engine.close()


def test_no_more_than_max_num_seqs_run_and_waiting_ones_join_at_once() -> None:
    engine = Counting(max_num_seqs=2, pause=0.001)
    results = within(20, gather(engine, [Sampling(max_tokens=3 + i, seed=i) for i in range(5)]))
    assert [len(r.ids) for r in results] == [3, 4, 5, 6, 7]
    assert max(map(len, engine.batches)) == 2
    assert sum(map(len, engine.batches)) == 3 + 4 + 5 + 6 + 7
    engine.close()


def test_a_step_that_raises_fails_what_runs_and_not_what_comes_after() -> None:
    engine = Counting()

    def fail() -> None:
        raise MemoryError("no room for 3 rows")

    engine.fail = fail
    results = within(20, gather(engine, [Sampling(max_tokens=3, seed=i) for i in range(3)]))
    assert [r.stop_reason for r in results] == [StopReason.ERROR] * 3
    assert {r.error for r in results} == {"MemoryError: no room for 3 rows"}
    assert engine.rows == [] and engine.events[-1] == "end"
    engine.fail = lambda: None
    assert within(20, engine.generate([1], Sampling(max_tokens=2, seed=0))).stop_reason is StopReason.LENGTH
    engine.sync_weights([], 3)
    engine.close()


def test_a_pump_that_breaks_tells_whoever_waits_and_closes() -> None:
    engine = Counting(max_num_seqs=1)
    engine.end_fails = True
    results = within(20, gather(engine, [Sampling(max_tokens=2, seed=i) for i in range(2)]))
    assert {r.stop_reason for r in results} == {StopReason.ERROR}
    assert "the engine broke: RuntimeError: no end" in str(results[0].error)
    later = within(20, engine.generate([1], Sampling(max_tokens=2, seed=0)))
    assert later.stop_reason is StopReason.ERROR and later.error == results[0].error


def test_a_request_that_meets_the_end_of_the_pump_is_answered() -> None:
    """The pump ends after the request was found good and before it is queued: no thread is left to answer it."""
    engine = Counting()
    submit = engine._submit

    def late(*arguments: Any) -> Any:
        engine.close()
        return submit(*arguments)

    engine._submit = late  # type: ignore[method-assign]
    result = within(20, engine.generate([1], Sampling(max_tokens=2, seed=0)))
    assert (result.stop_reason, result.error) == (StopReason.CANCELLED, "the engine was closed")


def test_closing_resolves_what_runs_and_what_waits() -> None:
    engine = Counting(max_num_seqs=2, pause=0.005)

    async def scenario() -> list[Generation]:
        tasks = [asyncio.create_task(engine.generate([1], Sampling(max_tokens=900, seed=i))) for i in range(5)]
        await asyncio.sleep(0.03)
        await asyncio.to_thread(engine.close)
        return list(await asyncio.gather(*tasks))

    results = within(20, scenario())
    assert [r.stop_reason for r in results] == [StopReason.CANCELLED] * 5
    assert engine.events == ["begin", "end"]
    assert not any(thread.name.startswith("Counting") for thread in threading.enumerate())
    engine.close()  # twice does no harm


def test_a_request_that_waits_times_out_too() -> None:
    engine = Counting(deterministic=True)
    engine.set_active_episodes(2)  # the other one never comes
    result = within(20, engine.generate([1], Sampling(max_tokens=2, seed=0, timeout=0.05)))
    assert result.stop_reason is StopReason.TIMEOUT
    engine.close()


def test_cancelling_one_of_a_wave_lets_the_others_run() -> None:
    engine = Counting(deterministic=True)

    async def scenario() -> list[Generation]:
        engine.set_active_episodes(3)
        tasks = [asyncio.create_task(engine.generate([i], Sampling(max_tokens=2, seed=i))) for i in range(2)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        await asyncio.sleep(0.01)
        engine.set_active_episodes(2)
        tasks.append(asyncio.create_task(engine.generate([2], Sampling(max_tokens=2, seed=2))))
        return list(await asyncio.gather(*tasks[1:]))

    assert [r.stop_reason for r in within(20, scenario())] == [StopReason.LENGTH] * 2
    assert engine.batches == [[1, 2], [1, 2]]
    engine.close()


def test_begin_and_end_frame_the_work_and_end_comes_before_the_results() -> None:
    engine = Counting()

    async def scenario() -> None:
        for i in range(3):
            await engine.generate([1], Sampling(max_tokens=1 + i, seed=0))
            assert engine.events == ["begin", "end"] * (i + 1)

    within(20, scenario())
    engine.close()


def test_engines_serve_several_event_loops(capsys: pytest.CaptureFixture[str]) -> None:
    engine = Counting(max_num_seqs=3, pause=0.001)
    results: list[Generation] = []

    def client(seed: int) -> None:
        results.append(within(20, engine.generate([1], Sampling(max_tokens=5, seed=seed))))

    threads = [threading.Thread(target=client, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(r.ids[0] for r in results) == list(range(6))
    engine.close()

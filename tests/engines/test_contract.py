"""What every engine promises: why a generation ended, errors as results, cancel and time-out, seeds."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import numpy as np
import pytest
import torch

from cib_rl.engines.base import Engine, Generation, Sampling
from cib_rl.engines.weights import policy_tensors
from cib_rl.trajectory import StopReason
from tests.engines.support import (
    CONTEXT,
    EOS,
    INDEX,
    LOOP,
    SECOND_EOS,
    build_chain_model,
    ids_of,
    run,
    run_one,
)


def test_eos_ends_and_is_the_last_id(chain_engine: Engine) -> None:
    result = run_one(chain_engine, ids_of("w"))
    assert result.ids == [*ids_of("xyz"), EOS]
    assert (result.stop_reason, result.stop_detail) == (StopReason.EOS, EOS)
    assert len(result.logprobs) == 4


def test_a_second_eos_id_ends_too_and_is_named(chain_engine: Engine) -> None:
    result = run_one(chain_engine, ids_of("7"))
    assert result.ids == [*ids_of("89"), SECOND_EOS]
    assert (result.stop_reason, result.stop_detail) == (StopReason.EOS, SECOND_EOS)


def test_an_empty_completion_is_its_eos_alone(chain_engine: Engine) -> None:
    result = run_one(chain_engine, ids_of("z"))
    assert (result.ids, result.stop_reason) == ([EOS], StopReason.EOS)


def test_the_token_limit(chain_engine: Engine) -> None:
    result = run_one(chain_engine, [LOOP], max_tokens=5)
    assert (result.ids, result.stop_reason, result.stop_detail) == ([LOOP] * 5, StopReason.LENGTH, None)


def test_an_eos_at_the_limit_is_an_eos(chain_engine: Engine) -> None:
    assert run_one(chain_engine, ids_of("y"), max_tokens=2).stop_reason is StopReason.EOS


def test_a_full_context(chain_engine: Engine) -> None:
    prompt = [LOOP] * (CONTEXT - 7)
    result = run_one(chain_engine, prompt, max_tokens=1000)
    assert (result.ids, result.stop_reason) == ([LOOP] * 7, StopReason.CONTEXT)


def test_a_prompt_that_leaves_no_room(chain_engine: Engine) -> None:
    result = run_one(chain_engine, [LOOP] * CONTEXT)
    assert (result.ids, result.stop_reason, result.error) == ([], StopReason.PROMPT_TOO_LONG, None)
    assert len(run_one(chain_engine, [LOOP] * (CONTEXT - 1)).ids) == 1


def test_a_stop_string_over_several_tokens(chain_engine: Engine) -> None:
    result = run_one(chain_engine, ids_of("a"), stop=("nothing", "def"))
    assert result.ids == ids_of("bcdef")
    assert (result.stop_reason, result.stop_detail) == (StopReason.STOP_STRING, "def")


@pytest.mark.parametrize(
    ("stop", "tokens"),
    [("thi", ["<think>"]), ("k><an", ["<think>", "</think>", "<answer>"]), ("r>", ["<think>", "</think>", "<answer>"])],
)
def test_a_stop_string_that_begins_or_ends_inside_a_token_keeps_whole_ids(
    chain_engine: Engine, stop: str, tokens: list[str]
) -> None:
    result = run_one(chain_engine, [INDEX["<unk>"]], stop=(stop,))
    assert result.ids == [INDEX[token] for token in tokens]
    assert (result.stop_reason, result.stop_detail) == (StopReason.STOP_STRING, stop)
    assert len(result.logprobs) == len(result.ids)


def test_a_stop_string_in_the_prompt_does_not_stop(chain_engine: Engine) -> None:
    assert run_one(chain_engine, ids_of("w"), stop=("w",)).stop_reason is StopReason.EOS


def test_min_tokens_holds_back_every_eos_and_the_stop_strings(chain_engine: Engine) -> None:
    result = run_one(chain_engine, ids_of("z"), min_tokens=4, max_tokens=10)
    assert not {EOS, SECOND_EOS} & set(result.ids[:4])
    assert len(result.ids) >= 4
    assert run_one(chain_engine, ids_of("a"), stop=("b",), min_tokens=3, max_tokens=6).ids[:3] == ids_of("bcd")


def bad_request(what: str) -> tuple[list[int], dict[str, Any], str]:
    return {
        "empty": ([], {}, "no tokens"),
        "unknown id": ([3, 64], {}, "64 is not in the model's vocabulary"),
        "negative id": ([-1], {}, "-1 is not in"),
        "no tokens wanted": ([3], {"max_tokens": 0}, "max_tokens"),
        "temperature": ([3], {"temperature": float("nan")}, "temperature"),
        "top_p": ([3], {"top_p": 0.0}, "top_p"),
        "min over max": ([3], {"min_tokens": 200}, "min_tokens"),
        "empty stop": ([3], {"stop": ("",)}, "stop string"),
    }[what]


@pytest.mark.parametrize(
    "what",
    ["empty", "unknown id", "negative id", "no tokens wanted", "temperature", "top_p", "min over max", "empty stop"],
)
def test_a_request_that_cannot_run_is_an_error_result_for_itself_alone(chain_engine: Engine, what: str) -> None:
    prompt, sampling, message = bad_request(what)
    good = Sampling(max_tokens=9, temperature=0.0, seed=1)
    bad = Sampling(**{"max_tokens": 9, "temperature": 1.0, "seed": 1, **sampling})
    results = run(chain_engine, [ids_of("w"), prompt, ids_of("w")], [good, bad, good])
    assert (results[1].stop_reason, results[1].ids) == (StopReason.ERROR, [])
    assert message in str(results[1].error)
    assert [r.stop_reason for r in (results[0], results[2])] == [StopReason.EOS] * 2


def test_cancelling_the_task_frees_the_slot(chain_engine: Engine) -> None:
    async def scenario() -> Generation:
        chain_engine.set_active_episodes(6)
        endless = Sampling(max_tokens=1000, temperature=0.0, seed=0)
        tasks = [asyncio.create_task(chain_engine.generate([LOOP], endless)) for _ in range(6)]
        await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends)
        # Every slot is free again and nothing runs, or a sync would be refused.
        chain_engine.sync_weights(policy_tensors(build_chain_model()), version=chain_engine.weights_version)
        chain_engine.set_active_episodes(1)
        return await chain_engine.generate(ids_of("w"), Sampling(max_tokens=9, temperature=0.0, seed=0))

    assert asyncio.run(scenario()).stop_reason is StopReason.EOS


def test_a_time_out_is_a_result_and_others_go_on(chain_engine: Engine) -> None:
    hasty = Sampling(max_tokens=1000, temperature=0.0, seed=0, timeout=0.01)
    patient = Sampling(max_tokens=30, temperature=0.0, seed=0, timeout=100)
    results = run(chain_engine, [[LOOP], [LOOP]], [hasty, patient])
    assert results[0].stop_reason is StopReason.TIMEOUT
    assert "0.01 s" in str(results[0].error)
    assert len(results[0].ids) == len(results[0].logprobs) < CONTEXT - 1
    assert (results[1].stop_reason, len(results[1].ids)) == (StopReason.LENGTH, 30)


def test_a_sync_is_refused_while_a_request_runs(chain_engine: Engine) -> None:
    async def scenario() -> None:
        chain_engine.set_active_episodes(1)
        request = chain_engine.generate([LOOP], Sampling(max_tokens=400, temperature=0.0, seed=0))
        task = asyncio.create_task(request)
        await asyncio.sleep(0.01)
        before = chain_engine.weights_version
        with pytest.raises(RuntimeError, match="while 1 requests run"):
            chain_engine.sync_weights(policy_tensors(build_chain_model()), version=99)
        assert chain_engine.weights_version == before
        await task

    asyncio.run(scenario())


def test_the_results_carry_version_and_latency(chain_engine: Engine) -> None:
    chain_engine.sync_weights(policy_tensors(build_chain_model()), version=7)
    result = run_one(chain_engine, ids_of("w"))
    assert result.weights_version == 7
    assert result.latency > 0


def test_generating_and_syncing_leave_the_global_random_state_alone(chain_engine: Engine) -> None:
    def state() -> tuple[bytes, Any, bytes]:
        return torch.get_rng_state().numpy().tobytes(), random.getstate(), np.random.get_state()[1].tobytes()

    before = state()
    run(chain_engine, [[LOOP], ids_of("a")], Sampling(max_tokens=10, temperature=1.0))  # no seed of their own
    run(chain_engine, [[LOOP], ids_of("a")], Sampling(max_tokens=10, temperature=1.0, seed=3))
    chain_engine.sync_weights(policy_tensors(build_chain_model()), version=1)
    assert state() == before

"""Rewards as a manager of verl's reward loop: against its published signatures, and verl itself where it is there."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cib_rl.errors import UserError
from cib_rl.integrations import as_verl_loop
from cib_rl.plugin import PluginError, RewardFailure
from tests.integrations.support import HERE
from tests.integrations.verl_support import GOLDS, MIXED, REWARDS, TAGS, UIDS, UNIFORM, expected


def settings(n=3, workers=1):
    """The keys of verl's configuration that are read."""
    return SimpleNamespace(
        reward=SimpleNamespace(num_workers=workers), actor_rollout_ref=SimpleNamespace(rollout=SimpleNamespace(n=n))
    )


@pytest.fixture
def loop_manager(reward_loop, tiny_tokenizer):
    """Makes a manager as verl's reward worker does."""
    made = []

    def make(rewards, config=None, **arguments):
        kind = as_verl_loop(rewards, **arguments)
        made.append(
            kind(
                config=config or settings(),
                tokenizer=tiny_tokenizer,
                compute_score=None,
                reward_router_address=None,
                reward_model_tokenizer=None,
            )
        )
        return made[-1]

    yield make
    for one in made:
        one.scorer.scorer.close()


def one_by_one(manager, data, order):
    """Scores rows as verl's reward worker does: a task for each."""

    async def run():
        return await asyncio.gather(*(manager.run_single(data[i : i + 1]) for i in order))

    results = asyncio.run(run())
    return [result for _, result in sorted(zip(order, results, strict=True), key=lambda pair: pair[0])]


def test_the_loop_waits_for_a_group_and_gives_what_our_own_suite_gives(batch, loop_manager, tiny_tokenizer):
    scores = expected(tiny_tokenizer, MIXED, [0, 1] * 3, GOLDS, REWARDS)
    data = batch(MIXED, uids=UIDS, golds=GOLDS)
    results = one_by_one(loop_manager(REWARDS), data, order=[3, 0, 2, 5, 4, 1])
    assert [r["reward_score"] for r in results] == pytest.approx(scores.total.tolist())
    for name, values in scores.values.items():
        assert [r["reward_extra_info"][name] for r in results] == pytest.approx(values.tolist())


def test_groups_that_are_scored_together_stay_apart(batch, loop_manager, tiny_tokenizer):
    """Both are whole while somebody else is being served, and then scored in one call."""
    scores = expected(tiny_tokenizer, MIXED, [0, 1] * 3, GOLDS, REWARDS)
    data = batch(MIXED, uids=UIDS, golds=GOLDS)
    manager = loop_manager(REWARDS)
    combiner = manager.groups._combined

    async def run():
        combiner._turn.acquire()
        asked = [asyncio.ensure_future(manager.run_single(data[i : i + 1])) for i in range(6)]
        while len(combiner._waiting) < 2:
            await asyncio.sleep(0.001)
        combiner._turn.release()
        return await asyncio.gather(*asked)

    results = asyncio.run(run())
    assert [r["reward_score"] for r in results] == pytest.approx(scores.total.tolist())


def test_of_several_sequences_the_last_one_is_judged_without_padding(verl, loop_manager, tiny_tokenizer):
    """verl 0.9 pads prompts and responses of one episode's sequences on the right and says how long they are."""
    ids = [tiny_tokenizer.encode(text) for text in ("abcdefgh", TAGS.format("7"))]
    data = verl.DataProto.from_dict(
        {
            "prompts": torch.tensor([[9, 9, 9], [9, 9, 0]]),
            "responses": torch.tensor([i + [0] * (8 - len(i)) for i in ids]),
            "attention_mask": torch.tensor([[1] * 11, [1] * 6 + [0] * 5]),
        },
        {
            name: np.array([value, value], dtype=object)
            for name, value in {"uid": "u", "reward_model": {"ground_truth": "7"}, "data_source": "tests"}.items()
        }
        | {"prompt_len": np.array([3, 2]), "response_len": np.array([8, 4])},
    )
    manager = loop_manager(["math_correct", {"name": "surprisal", "prior": UNIFORM}], whole_groups=False)
    result = asyncio.run(manager.run_single(data))
    nats = manager.scorer.scorer.suite.rewards[1].target.prior.nats
    assert result["reward_extra_info"]["math_correct"] == 1.0
    assert result["reward_extra_info"]["surprisal"] == pytest.approx(-4 * nats)


def test_validation_rows_are_scored_alone(batch, loop_manager, tiny_tokenizer):
    """Alone nothing is compared: kimi_length is 0. A group of 3 would wait for two more."""
    data = batch(MIXED[1:2], uids=["u"], golds=["7"], extra={"split": "test"})
    [result] = one_by_one(loop_manager(REWARDS), data, order=[0])
    assert result["reward_extra_info"]["kimi_length"] == 0.0 and result["reward_extra_info"]["acc"] == 1.0


def test_a_group_that_never_gets_whole_is_an_error(batch, loop_manager):
    data = batch(MIXED[:1], uids=["u"], golds=["7"])
    with pytest.raises(RewardFailure, match=r"row 'x0': 1 of 3 completions .*extra_info\.split"):
        one_by_one(loop_manager(REWARDS, group_timeout=0.05), data, order=[0])


def test_an_error_reaches_every_completion_of_the_group(batch, loop_manager):
    data = batch(MIXED[:3], uids=["u"] * 3, golds=["7"] * 3)
    manager = loop_manager(["countdown_correct"])

    async def run():
        return await asyncio.gather(*(manager.run_single(data[i : i + 1]) for i in range(3)), return_exceptions=True)

    for error in asyncio.run(run()):
        assert isinstance(error, PluginError) and "countdown_correct needs the columns" in str(error)


def test_several_workers_are_refused_unless_rewards_compare_nothing(batch, loop_manager):
    with pytest.raises(UserError, match=r"reward\.num_workers is 8.*whole_groups=False"):
        loop_manager(REWARDS, settings(workers=8))
    alone = loop_manager(["math_correct"], settings(workers=8), whole_groups=False)
    data = batch(MIXED[:2], uids=["u", "u"], golds=["7", "7"])
    assert [r["reward_score"] for r in one_by_one(alone, data, order=[1, 0])] == [1.0, 1.0]


def test_a_failed_completion_of_a_group_gets_the_mean_of_the_others(batch, loop_manager):
    data = batch(["ab", "abc", "abcd"], uids=["u"] * 3, golds=["7"] * 3)
    results = one_by_one(loop_manager([f"{HERE}:odd_ones_fail"]), data, order=[0, 1, 2])
    assert [r["reward_score"] for r in results] == [2.0, 3.0, 4.0]
    assert [r["reward_extra_info"]["failed"] for r in results] == [0.0, 1.0, 0.0]

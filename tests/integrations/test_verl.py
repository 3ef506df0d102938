"""Rewards as reward managers of verl, with the published signatures and, where it can be imported, verl itself."""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cib_rl.errors import UserError
from cib_rl.integrations import as_verl_loop, as_verl_manager
from cib_rl.plugin import PluginError, RewardFailure
from tests.integrations.support import HERE, own_scores
from tests.plugin.conftest import trajectory

UNIFORM = {"name": "uniform"}
TAGS = "<answer>{}</answer><eos>"
REWARDS = [
    {"name": "math_correct"},
    {"name": "kimi_length", "weight": 0.5},
    {"name": "surprisal", "weight": 1e-2, "prior": UNIFORM},
]


@pytest.fixture
def manager(verl, tiny_tokenizer):
    """Makes a manager as verl does, by keywords."""
    made = []

    def make(rewards, **arguments):
        kind = as_verl_manager(rewards, **arguments)
        made.append(kind(tokenizer=tiny_tokenizer, num_examine=0, compute_score=None, reward_fn_key="data_source"))
        return made[-1]

    yield make
    for one in made:
        one.scorer.scorer.close()


def expected(tokenizer, completions, groups, golds, rewards):
    """What a recipe with these rewards gives: trajectories written out by hand."""
    made = []
    for text, group, gold in zip(completions, groups, golds, strict=True):
        ids = tokenizer.encode(text)
        t = trajectory(group, tokens=len(ids), answer=gold)
        t.answer = text.partition("<answer>")[2].partition("</answer>")[0] or None
        made.append(t)
    return own_scores(tokenizer, made, *rewards)


MIXED = [TAGS.format("7"), "ab" + TAGS.format("7"), TAGS.format("8"), "abc", TAGS.format("3"), "a" + TAGS.format("4")]
UIDS = ["u", "v", "u", "v", "u", "v"]  # not in order: verl balances its batches
GOLDS = ["7", "4", "7", "4", "7", "4"]


def test_the_manager_gives_what_our_own_suite_gives(batch, manager, tiny_tokenizer):
    """The weighted total at each completion's last token, zeros elsewhere; groups by uid, wherever rows stand."""
    scores = expected(tiny_tokenizer, MIXED, [0, 1] * 3, GOLDS, REWARDS)
    data = batch(MIXED, uids=UIDS, golds=GOLDS)
    result = manager(REWARDS)(data, return_dict=True)
    lengths = [len(tiny_tokenizer.encode(text)) for text in MIXED]
    filled = torch.zeros_like(result["reward_tensor"])
    for i, length in enumerate(lengths):
        filled[i, length - 1] = scores.total[i]
    torch.testing.assert_close(result["reward_tensor"], filled)
    for name, values in scores.values.items():
        assert result["reward_extra_info"][name] == pytest.approx(values.tolist())
    assert result["reward_extra_info"]["acc"] == scores.correct.astype(float).tolist()
    assert 0 < scores.correct.sum() < 6 and scores.values["kimi_length"].any()
    torch.testing.assert_close(manager(REWARDS)(data), filled)


def test_rewards_per_token_stand_on_the_policys_tokens(batch, manager, tiny_tokenizer):
    """The tool's two tokens get nothing and are no answer; the rest of the total stands on the last token."""
    text = "a78" + TAGS.format("7")
    mask = [1, 0, 0, *[1] * 4]
    rewards = [{"name": "math_correct"}, {"name": "surprisal", "prior": UNIFORM, "per_token": True, "weight": 0.1}]
    data = batch([text], uids=["u"], golds=["7"], masks=[mask], turns=[4])
    one = manager(rewards)
    nats = one.scorer.scorer.suite.rewards[1].target.prior.nats
    row = one(data)[0]
    expected_row = [-0.1 * nats * m for m in mask] + [0.0, 0.0]
    expected_row[len(mask) - 1] += 1.0
    assert row.tolist() == pytest.approx(expected_row, rel=1e-6)


def test_several_turns_without_a_mask_are_refused(batch, manager):
    with pytest.raises(PluginError, match=r"row 'x0': an episode of 4 turns.*no response_mask"):
        manager(REWARDS)(batch(["a"], uids=["u"], golds=["7"], turns=[4]))
    manager([{"name": "math_correct"}])(batch(["a"], uids=["u"], golds=["7"], turns=[2]))


def test_completions_without_uid_are_refused(batch, manager):
    data = batch(["a"], uids=["u"], golds=["7"])
    del data.non_tensor_batch["uid"]
    with pytest.raises(PluginError, match="no `uid`"):
        manager(REWARDS)(data)


# ---------------------------------------------------------------- completions that could not be scored


def grpo_advantages(verl, rewards_BR, uids):
    """verl's own estimator where it is there, else its formula: (r - mean) / (std + 1e-6) over the group."""
    try:
        compute = importlib.import_module("verl.trainer.ppo.core_algos").compute_grpo_outcome_advantage
    except ImportError:
        r, advantages = rewards_BR.sum(-1), torch.zeros(len(uids))
        for uid in set(uids):
            members = [i for i, u in enumerate(uids) if u == uid]
            advantages[members] = (r[members] - r[members].mean()) / (r[members].std() + 1e-6)
        return advantages
    return compute(rewards_BR.clone(), torch.ones_like(rewards_BR), np.array(uids, dtype=object))[0][:, 0]


def test_a_completion_that_cannot_be_scored_has_no_advantage_and_moves_no_mean(verl, batch, manager, caplog):
    """One of u fails, all of v: u's mean is that of the others, and nobody of v has an advantage."""
    uids = ["u", "v", "u", "v", "u", "u"]
    one = manager([f"{HERE}:odd_ones_fail"])  # a token per letter
    with caplog.at_level(logging.WARNING, logger="cib_rl.integrations"):
        result = one(batch(["ab", "abc", "abcd", "a", "abc", "abcdef"], uids=uids, golds=["1"] * 6), return_dict=True)
    totals = result["reward_tensor"].sum(-1)
    assert totals.tolist() == [2.0, 4.0, 4.0, 4.0, 4.0, 6.0]  # (2 + 4 + 6) / 3 for the failed one, and for both of v
    assert result["reward_extra_info"]["failed"] == [0.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    assert np.isnan(result["reward_extra_info"]["odd_ones_fail"]).tolist() == [False, True, False, True, True, False]
    advantages = grpo_advantages(verl, result["reward_tensor"], uids)
    assert advantages[[1, 3, 4]].tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    assert advantages[0] < -0.5 < 0.5 < advantages[5]
    assert "3 of 6 completions could not be scored: row 'x1'" in caplog.text


def test_a_failed_completion_that_is_alone_stops_the_run_or_gets_the_score_that_was_asked_for(batch, manager):
    data = batch(["a", "ab"], uids=["u", "v"], golds=["1"] * 2)
    with pytest.raises(RewardFailure, match=r"row 'x0' has no reward \(odd\).*failure_score=NUMBER"):
        manager([f"{HERE}:odd_ones_fail"])(data)
    assert manager([f"{HERE}:odd_ones_fail"], failure_score=-3.0)(data).sum(-1).tolist() == [-3.0, 2.0]


# ---------------------------------------------------------------- verl's ways


def test_the_manager_is_found_in_verls_registry(verl, batch, tiny_tokenizer):
    reward_manager = importlib.import_module("verl.workers.reward_manager")
    kind = reward_manager.register(f"cib_{id(verl)}_{id(batch)}")(as_verl_manager(["math_correct"]))
    found = reward_manager.get_reward_manager_cls(f"cib_{id(verl)}_{id(batch)}")
    assert found is kind
    made = found(tokenizer=tiny_tokenizer, num_examine=1, compute_score=print, reward_fn_key="data_source", extra=1)
    assert made(batch([TAGS.format("7")], uids=["u"], golds=["7"])).sum() == 1.0


def test_scores_that_are_there_already_are_passed_on(batch, manager):
    """As verl's own managers do with a reward model's scores."""
    data = batch(["ab", "cd"], uids=["u", "u"], golds=["1", "1"])
    data.batch["rm_scores"] = torch.rand(data.batch["responses"].shape)
    data.non_tensor_batch["why"] = np.array(["x", "y"], dtype=object)
    data.meta_info["reward_extra_keys"] = ["why"]
    result = manager(REWARDS)(data, return_dict=True)
    torch.testing.assert_close(result["reward_tensor"], data.batch["rm_scores"])
    assert list(result["reward_extra_info"]["why"]) == ["x", "y"]


def test_golds_and_further_columns_are_read_without_numpy(batch, manager):
    """As parquet gives them: arrays in mappings in arrays."""
    gold = {"numbers": np.array([3, 4]), "target": np.int64(7)}
    columns = {"numbers": "ground_truth.numbers", "target": "ground_truth.target"}
    data = batch([TAGS.format("3 + 4"), TAGS.format("3 * 4")], uids=["u", "u"], golds=[gold, gold])
    assert manager(["countdown_correct"], columns=columns)(data).sum(-1).tolist() == [1.0, 0.0]
    with pytest.raises(
        PluginError, match=r"no column 'gold\.numbers' for 'numbers'; the rows have index, ground_truth"
    ):
        manager(["countdown_correct"], columns={"numbers": "gold.numbers"})(data)


def test_what_verl_cannot_do_is_refused(manager):
    with pytest.raises(PluginError, match="verl does not say at which step"):
        manager([{"name": "math_correct", "weight_schedule": {0: 0.0, 10: 1.0}}])
    with pytest.raises(PluginError, match="'acc': verl's metrics use this name"):
        manager([{"name": "math_correct", "label": "acc"}])


def test_without_verl_it_says_so(monkeypatch):
    for name in ["verl", *(name for name in sys.modules if name.startswith("verl."))]:
        monkeypatch.setitem(sys.modules, name, None)
    for make, module in ((as_verl_manager, "verl.workers"), (as_verl_loop, "verl.experimental")):
        with pytest.raises(UserError, match=rf"{make.__name__}.* needs verl, whose module {module}"):
            make(["math_correct"])


# ---------------------------------------------------------------- the reward loop


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

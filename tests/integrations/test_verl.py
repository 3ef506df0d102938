"""Rewards as a reward manager that verl gives whole batches: against its published signatures, and verl itself."""

from __future__ import annotations

import importlib
import logging
import sys

import numpy as np
import pytest
import torch

from cib_rl.errors import UserError
from cib_rl.integrations import as_verl_loop, as_verl_manager
from cib_rl.plugin import PluginError, RewardFailure
from tests.integrations.support import HERE
from tests.integrations.verl_support import GOLDS, MIXED, REWARDS, TAGS, UIDS, UNIFORM, expected


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
    """One number per completion: verl's own estimator where it is there, else the stand-in's."""
    compute = importlib.import_module("verl.trainer.ppo.core_algos").get_adv_estimator_fn("grpo")
    return compute(rewards_BR.clone(), torch.ones_like(rewards_BR), index=np.array(uids, dtype=object))[0][:, 0]


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

"""The CIB reward through the public contract: hand-computed values, its keys, tracks, and the blind prior."""

from math import log
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cib_rl.plugin import PluginError, RewardContext, RewardSuite, TokenRewards, reward
from cib_rl.recipe import RewardSection
from cib_rl.rewards.surprisal import Surprisal
from cib_rl.trajectory import Segment, StopReason, Trajectory

UNIFORM = {"name": "uniform"}


@reward("right", kind="outcome")
def right(trajectories):
    """1 when the policy wrote an `r` first."""
    return [float(t.policy_text.startswith("r")) for t in trajectories]


def episode(tokenizer, *parts, prompt="q", group=0):
    """One segment; parts are what the policy sampled (text) or what the environment wrote ((text,))."""
    segment = Segment(tokenizer.encode(prompt))
    for part in parts:
        ids = tokenizer.encode(part if isinstance(part, str) else part[0])
        if isinstance(part, str):
            segment.append_policy(ids, [-1.0] * len(ids))
        else:
            segment.append_environment(ids)
    t = Trajectory({"id": prompt, "target_tokens": 3}, group, segments=[segment], stop_reason=StopReason.EOS)
    t.policy_text = tokenizer.decode(t.policy_ids)
    return t


@pytest.fixture
def context(tiny_tokenizer):
    return RewardContext(tokenizer=tiny_tokenizer, max_completion_length=64)


def score(context, trajectories, weight=1.0, **keys):
    suite = RewardSuite(
        [
            RewardSection(name=f"{__file__}:right"),
            RewardSection(name="surprisal", weight=weight, **({"prior": UNIFORM} | keys)),
        ],
        context,
    )
    scores = suite.score(trajectories)
    suite.close()
    return scores


def test_the_papers_reward_is_correctness_plus_beta_times_the_sum_of_logs(context, tiny_tokenizer):
    """Eq. 15 with the uniform prior, right or wrong: 1[correct] − β·T·log|V|."""
    trajectories = [episode(tiny_tokenizer, "r", ("zz",), "ab"), episode(tiny_tokenizer, "abcd")]
    scores = score(context, trajectories, weight=0.01)
    assert scores.values["surprisal"].tolist() == pytest.approx([-3 * log(57), -4 * log(57)])
    assert scores.total.tolist() == pytest.approx([1 - 0.03 * log(57), -0.04 * log(57)])
    assert scores.shaping.tolist() == pytest.approx([-0.03 * log(57), -0.04 * log(57)])


def test_matched_uniform_prior_is_the_linear_penalty(context, tiny_tokenizer):
    """Prop. 4.1: β·log|V| = α gives −α·T."""
    alpha = 0.002
    trajectories = [episode(tiny_tokenizer, "a" * n) for n in (0, 1, 7, 30)]
    scores = score(context, trajectories, weight=alpha / log(len(tiny_tokenizer)))
    assert scores.total.tolist() == pytest.approx([-alpha * n for n in (0, 1, 7, 30)])


def test_laplace_is_lcpo_exact_within_a_group(context, tiny_tokenizer):
    trajectories = [episode(tiny_tokenizer, "a" * n) for n in (1, 3, 8)]
    total = score(context, trajectories, weight=0.5, prior={"name": "laplace", "target": "task.target_tokens"}).total
    lcpo = np.array([-0.5 * abs(n - 3) for n in (1, 3, 8)])
    assert (total - total.mean()).tolist() == pytest.approx((lcpo - lcpo.mean()).tolist())


def test_only_right_answers_pay_when_the_recipe_says_so(context, tiny_tokenizer):
    trajectories = [episode(tiny_tokenizer, "rab"), episode(tiny_tokenizer, "abc")]
    scores = score(context, trajectories, weight=0.01, only_when_correct=True)
    assert scores.total.tolist() == pytest.approx([1 - 0.03 * log(57), 0.0])


@pytest.mark.parametrize(
    ("tokens", "counted"),
    [("all", [1, 1, 1, 1, 1, 1, 1]), ("reasoning", [0, 1, 1, 1, 1, 0, 0]), ("no_special", [1, 0, 1, 1, 0, 1, 0])],
)
@pytest.mark.parametrize("normalize", ["none", "length"])
def test_which_tokens_count(context, tiny_tokenizer, tokens, counted, normalize):
    t = episode(tiny_tokenizer, "x<think>ab</think>y<eos>")
    assert t.num_tokens == 7
    made = Surprisal(prior=UNIFORM, tokens=tokens, normalize=normalize, per_token=True, context=context)
    (found,) = made([t])
    scale = sum(counted) if normalize == "length" else 1
    assert isinstance(found, TokenRewards)
    assert list(found.values) == pytest.approx([-c * log(57) / scale for c in counted])
    (total,) = Surprisal(prior=UNIFORM, tokens=tokens, normalize=normalize, context=context)([t])
    assert total == pytest.approx(found.sum())
    assert t.tracks["surprisal"] == pytest.approx([log(57)] * 7)  # the trace's whole cost, whatever is charged


def test_per_token_rewards_reach_the_scores_weighted(context, tiny_tokenizer):
    t = episode(tiny_tokenizer, "a", ("zz",), "bc")
    scores = score(context, [t], weight=0.1, per_token=True, prior={"name": "laplace", "target": 2})
    assert scores.token_rewards[0].tolist() == pytest.approx([0.1, 0.1, -0.1])
    assert scores.total.tolist() == pytest.approx([0.1])


def test_track_and_diagnostics_are_attached_and_zero_on_the_environment(context, tiny_tokenizer):
    t = episode(tiny_tokenizer, "a", ("zz",), "bc")
    t.segments.append(Segment([1, 2], [9], [-1.0], [1]))
    Surprisal(prior=UNIFORM, context=context)([t])
    assert t.tracks["surprisal"] == pytest.approx([log(57), 0, 0, log(57), log(57), log(57)])
    assert t.diagnostics == pytest.approx({"surprisal": 4 * log(57), "surprisal_per_token": log(57)})
    Surprisal(prior={"name": "laplace", "target": 1}, track="length", context=context)([t])
    assert t.tracks["length"] == [-1, 0, 0, 1, 1, 1] and t.diagnostics["length"] == 2


def test_an_empty_completion_costs_nothing(context, tiny_tokenizer):
    t = episode(tiny_tokenizer, "")
    for keys in ({}, {"normalize": "length"}, {"tokens": "reasoning"}):
        assert Surprisal(prior=UNIFORM, context=context, **keys)([t]) == [0.0]
    assert t.diagnostics == {"surprisal": 0.0, "surprisal_per_token": 0.0}


class Spy(nn.Module):
    """A uniform language model that remembers every id it reads."""

    def __init__(self, size):
        super().__init__()
        self.config = SimpleNamespace(bos_token_id=None, model_type="spy", get_text_config=lambda: self.config)
        self.head, self.embedding = nn.Linear(1, size, bias=False), nn.Embedding(size, 1)
        nn.init.zeros_(self.head.weight)
        self.seen = []
        self.base_model = self.Body(self)

    class Body(nn.Module):
        def __init__(self, spy):
            super().__init__()
            object.__setattr__(self, "spy", spy)

        def forward(self, input_ids, use_cache=False):
            self.spy.seen += input_ids.flatten().tolist()
            return SimpleNamespace(last_hidden_state=torch.ones(*input_ids.shape, 1))

    def get_output_embeddings(self):
        return self.head

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, use_cache=False):
        return SimpleNamespace(logits=self.head(self.base_model(input_ids).last_hidden_state))


def test_the_prior_never_reads_an_id_of_the_prompt(context, tiny_tokenizer):
    spy = Spy(len(tiny_tokenizer))
    made = Surprisal(prior={"name": "language_model", "model": spy, "tokenizer": tiny_tokenizer}, context=context)
    spy.seen.clear()
    found = [made([episode(tiny_tokenizer, "ab", ("c",), "a", prompt=p, group=3)]) for p in ("xyz", "", "zzzzzzzzzz")]
    assert found[0] == found[1] == found[2] == [pytest.approx(-3 * log(57), rel=1e-6)]
    assert set(spy.seen) == {tiny_tokenizer.bos_token_id, *tiny_tokenizer.encode("abc")}


def test_mistakes_in_the_recipe_are_clear_errors(context):
    with pytest.raises(PluginError, match="no prior is named 'unifrom'"):
        Surprisal(prior={"name": "unifrom"}, context=context)
    with pytest.raises(PluginError, match="tokens: 'some'"):
        RewardSuite([RewardSection(name="surprisal", prior=UNIFORM, tokens="some")], context)
    with pytest.raises(PluginError, match="needs the keyword 'prior'"):
        RewardSuite([RewardSection(name="surprisal")], context)


@pytest.mark.parametrize("values", [[1.0, float("nan")], [1.0]])
def test_a_broken_prior_is_an_error_never_a_zero(context, tiny_tokenizer, values):
    made = Surprisal(prior=UNIFORM, context=context)
    made.prior = SimpleNamespace(columns=(), surprisal=lambda requests: [np.array(values) for _ in requests])
    with pytest.raises(ValueError, match="for 2 tokens"):
        made([episode(tiny_tokenizer, "ab")])

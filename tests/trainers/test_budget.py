"""The budget's controller: its arithmetic, its hold on a simulated policy, and its place in a real run."""

from __future__ import annotations

import json
import math
import random
import shutil

import numpy as np
import pytest

from cib_rl.errors import UserError
from cib_rl.plugin import RewardContext, RewardSuite, reward
from cib_rl.recipe import BudgetSection, RewardSection
from cib_rl.trainers import run
from cib_rl.trainers.budget import Budget
from cib_rl.trainers.window import Window
from tests.rewards.support import OUTCOME, Row, completion
from tests.trainers.support import HERE, RandomEngine, tiny_recipe

LENGTH = {"name": f"{__file__}:length_cost", "weight": 0.01}


@reward("length_cost", kind="shaping")
def length_cost(trajectories):
    """-1 per token."""
    return [-float(t.num_tokens) for t in trajectories]


@reward("bonus", kind="shaping")
def bonus(trajectories):
    """1 for everything."""
    return [1.0 for _ in trajectories]


def _budget(*rewards, **section):
    suite = RewardSuite([RewardSection(**r) for r in rewards or (LENGTH,)], RewardContext())
    return Budget(BudgetSection(**section), suite.rewards)


def _observe(budget, tokens, spread=10, **more):
    """A window of one prompt whose completions are `spread` around `tokens` and cost 1 per token."""
    rows = [(0, tokens - spread, spread - tokens), (0, tokens + spread, -spread - tokens)]
    return budget.observe({"tokens/mean": tokens, **more}, rows)


def test_two_windows_by_hand():
    budget = _budget(tokens="-50%", rate=0.1, gain=2.0, smoothing=0.5)
    logged = _observe(budget, 100.0)
    # e = (100 - 50) / 100; price 0.1 · 0.5 = 0.05; β = (0.05 + 2 · 0.5) / 100
    assert logged == {"budget/target": 50.0, "budget/tokens": 100.0, "budget/price": pytest.approx(0.05)}
    assert budget.reward.weight == pytest.approx(0.0105)
    _observe(budget, 60.0)
    # smoothed 80, e = 0.3; price 0.08; β = 0.68 / 100: the unit stays that of the first window
    assert budget.reward.weight == pytest.approx(0.0068)


def test_a_number_of_tokens_needs_no_start_and_an_evaluations_start_wins():
    assert _budget(tokens=120).target == 120.0
    budget = _budget(tokens="-40%")
    budget.begin(200.0)
    _observe(budget, 150.0)
    assert budget.target == pytest.approx(120.0)


def test_the_price_stays_within_its_bounds_and_does_not_wind_up():
    budget = _budget(tokens="-90%", rate=1.0, gain=0.0, max_price=0.5, smoothing=0.0)
    for _ in range(100):
        _observe(budget, 100.0)
    assert budget.reward.weight == pytest.approx(0.5 / 100)
    _observe(budget, 1.0)  # far below the budget of 10: falls at once
    assert budget.reward.weight == pytest.approx((0.5 - 0.09) / 100)
    for _ in range(100):
        _observe(budget, 1.0)
    assert budget.reward.weight == 0.0


def _said(budget, windows):
    said = []
    for tokens in windows:
        _observe(budget, tokens)
        said.append(budget.warning())
    return said


def test_a_price_that_stays_at_its_bound_without_effect_is_warned_of_once():
    said = _said(_budget(tokens="-50%", smoothing=0.0), [100.0] * 30)
    assert [i for i, text in enumerate(said) if text] == [9]
    assert "at max_price (2) for 10 windows, and the tokens stay at 100 (budget 50)" in said[9]
    said = _said(_budget(tokens="-20%", smoothing=0.0), [100.0] + [60.0] * 30)
    assert [i for i, text in enumerate(said) if text] == [10]
    assert "at min_price (0) for 10 windows, and the tokens stay at 60 (budget 80)" in said[10]


@pytest.mark.parametrize(
    ("windows", "when"),
    [
        ([100.0 - 2 * i for i in range(15)] + [72.0] * 20, 23),  # the last ten count, whatever was reached before
        ([100.0 - 0.05 * i for i in range(15)], 9),  # nearer by half a point: nothing but noise
    ],
)
def test_progress_that_has_ended_or_is_too_small_is_none(windows, when):
    said = _said(_budget(tokens="-50%", smoothing=0.0), windows)
    assert [i for i, text in enumerate(said) if text] == [when]


@pytest.mark.parametrize(
    ("section", "windows"),
    [
        ({"tokens": "-50%"}, [100.0 - i for i in range(25)]),  # on its way
        ({"tokens": "-20%"}, [100.0] + [77.0] * 30),  # at min_price, 3 points below the budget: met
        ({"tokens": "-50%", "gain": 1.0}, [100.0] * 14),  # not at a bound yet
        ({"tokens": "-50%"}, ([100.0] * 8 + [51.0]) * 3),  # never ten in a row
        ({"tokens": "-50%"}, [100.0] * 5 + [10.0] * 5),  # from one bound to the other
    ],
)
def test_a_price_on_its_way_or_a_budget_that_is_met_is_not_warned_of(section, windows):
    assert set(_said(_budget(smoothing=0.0, **section), windows)) == {None}


def test_only_right_answers_count_when_asked_and_a_window_without_any_changes_nothing():
    budget = _budget(tokens="-50%", count="right", smoothing=0.0)
    _observe(budget, 100.0, **{"tokens/right": 80.0})
    weight = budget.reward.weight
    assert budget.target == 40.0
    _observe(budget, 100.0, **{"tokens/right": math.nan})
    assert budget.reward.weight == weight and budget.smoothed == 80.0


@pytest.mark.parametrize("cut", [0.30, 0.35, 0.45])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_simulated_policy_is_brought_to_its_budget(cut, seed):
    """Lengths relax towards a level that falls with the price, at speeds and noise like the embedded default's."""
    draw, budget, tokens = random.Random(seed), _budget(tokens=f"-{100 * cut:g}%"), 187.0
    for _ in range(80):
        _observe(budget, tokens + draw.gauss(0, 6))
        price = budget.reward.weight * budget.unit
        tokens -= (0.022 + 0.027 * price) * (tokens - 90 - 45 * math.exp(-price / 0.6))
    assert tokens == pytest.approx(187 * (1 - cut), abs=0.05 * 187)


@pytest.mark.parametrize("tokens", ["40%", "-0%", "-100%", "-many", 0])
def test_budgets_that_make_no_sense_are_refused(tokens):
    with pytest.raises(ValueError, match=r"write a cut such as -40%|at least one token"):
        BudgetSection(tokens=tokens)


def test_the_reward_that_is_moved_must_be_clear():
    with pytest.raises(UserError, match=r"name one shaping reward .* length_cost, bonus"):
        _budget(LENGTH, {"name": f"{__file__}:bonus"}, tokens=10)
    with pytest.raises(UserError, match=r"got 'lenght'\); there are: length_cost"):
        _budget(tokens=10, reward="lenght")


def test_a_reward_that_does_not_fall_with_length_is_refused():
    budget = _budget({"name": f"{__file__}:bonus"}, tokens=10)
    with pytest.raises(UserError, match=r"'bonus' does not fall with length \(by \+0 per token"):
        budget.observe({"tokens/mean": 20.0}, [(0, 10, 1.0), (0, 30, 1.0)])
    # Between prompts long answers may be the well-paid ones; what counts is a prompt's own completions.
    budget.observe({"tokens/mean": 20.0}, [(0, 10, 0.0), (0, 12, -1.0), (1, 100, 9.0), (1, 102, 8.0)])
    assert budget.unit == 4.5


def test_while_the_reward_is_0_or_all_lengths_are_equal_the_weight_stays_0():
    budget = _budget(tokens=10)
    for rows in ([], [(0, 20, 0.0), (0, 30, 0.0)], [(0, 20, -1.0), (0, 20, -1.0)]):
        budget.observe({"tokens/mean": 20.0}, rows)
        assert budget.reward.weight == 0 and budget.unit is None


class _SimulatedPolicy:
    """Lengths around a mean that an outcome draws to 145 tokens and a reward moves by its covariance with length, which
    is what a policy gradient on a distribution of lengths does; speeds as seen on the embedded default."""

    def __init__(self, seed):
        self.mean, self.rng = 187.0, np.random.default_rng(seed)

    def window(self, prompts=16, members=8):
        rows = []
        for group in range(prompts):
            lengths = self.mean * self.rng.lognormal(-0.05, 0.32, members)
            rows += [Row(group, bool(self.rng.random() < 0.8), max(int(n), 1)) for n in lengths]
        return [completion(row) for row in rows]

    def learn(self, trajectories, value_N, weight):
        n, group = (np.array([f(t) for t in trajectories], float) for f in (lambda t: t.num_tokens, lambda t: t.group))
        moved = [np.cov(n[group == g], weight * value_N[group == g], ddof=0)[0, 1] for g in np.unique(group)]
        self.mean += 0.135 * float(np.mean(moved)) - 0.022 * (self.mean - 145)


@pytest.mark.parametrize("cut", [0.25, 0.35])
@pytest.mark.parametrize(
    "section",
    [
        pytest.param(
            {"name": "surprisal", "prior": {"name": "language_model", "model": "PRIOR"}}, marks=pytest.mark.slow
        ),
        {"name": "surprisal", "prior": {"name": "uniform"}},
        {"name": "surprisal", "prior": {"name": "laplace", "target": 60}},
        {"name": "surprisal", "prior": {"name": "uniform"}, "only_when_correct": True},
        {"name": "kimi_length"},
        {"name": "shorter_better"},
        {"name": "soft_overlong", "cache": 320},
    ],
    ids=["language_model", "uniform", "laplace", "gated", "kimi", "shorter_better", "soft_overlong"],
)
def test_every_prior_and_additive_penalty_brings_a_simulated_policy_to_its_budget(
    section, cut, tiny_model_dir, tiny_tokenizer
):
    """The controller's default keys hold with them all, whatever the unit and the shape of their cost."""
    section = json.loads(json.dumps(section).replace("PRIOR", str(tiny_model_dir)))
    context = RewardContext(tokenizer=tiny_tokenizer, max_completion_length=320)
    suite = RewardSuite([RewardSection(name=OUTCOME), RewardSection(**section)], context)
    budget, policy = Budget(BudgetSection(tokens=f"-{100 * cut:g}%"), suite.rewards), _SimulatedPolicy(0)
    seen = []
    for _ in range(80):
        window = policy.window()
        scores = suite.score(window)
        filled = Window(window, scores, scores.valid)
        seen.append(np.mean([t.num_tokens for t in window]))
        policy.learn(window, np.nan_to_num(scores.values[budget.reward.label]), budget.reward.weight)
        budget.observe({"tokens/mean": seen[-1]}, budget.rows(filled))
    assert np.mean(seen[-10:]) == pytest.approx(seen[0] * (1 - cut), abs=0.05 * seen[0])


@pytest.mark.trl
def test_in_a_run_the_weight_moves_is_logged_and_survives_a_resume(tmp_path, tiny_model_dir, monkeypatch):
    monkeypatch.setattr(run, "make_engine", lambda *_: RandomEngine())
    task = {"name": "jsonl", "path": "tasks.jsonl"}
    changes = {
        "trainer.steps": 4, "trainer.save_every": 2, "deterministic": True,
        "budget": {"tokens": "-50%", "max_price": 100},
        "rewards": [{"name": f"{HERE}:even_length"}, LENGTH], "evaluation": {"task": task, "problems": 8},
    }  # fmt: skip

    def train(name, resume=None):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return run.train(tiny_recipe(tiny_model_dir, folder, **changes), base_dir=folder, resume=resume, progress=False)

    def metrics(folder):
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    whole = train("whole")
    lines = [line for line in metrics(whole) if "budget/price" in line]
    start = next(line["eval/tokens/mean"] for line in metrics(whole) if line["step"] == 0)
    assert [line["budget/target"] for line in lines] == pytest.approx([0.5 * start] * 4)
    weights = [line["weight/length_cost"] for line in lines]
    assert weights[0] == 0 and len(set(weights)) == 4
    for line in lines:
        assert line["reward/shaping"] == pytest.approx(line["weight/length_cost"] * line["reward/length_cost"])

    parts = train("parts")
    shutil.rmtree(parts / "checkpoints" / "step-000004")
    train("parts", resume=parts)
    again = [line["weight/length_cost"] for line in metrics(parts) if "budget/price" in line]
    assert again == weights

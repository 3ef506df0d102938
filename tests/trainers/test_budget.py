"""The budget's controller: its arithmetic, its hold on a simulated policy, and its place in a real run."""

from __future__ import annotations

import json
import math
import random
import shutil

import pytest

from cib_rl.errors import UserError
from cib_rl.plugin import RewardContext, RewardSuite, reward
from cib_rl.recipe import BudgetSection, RewardSection
from cib_rl.trainers import run
from cib_rl.trainers.budget import Budget
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


def _window(tokens, **more):
    return {"tokens/mean": tokens, "reward/length_cost": -tokens, **more}


def test_two_windows_by_hand():
    budget = _budget(tokens="-50%", rate=0.1, gain=2.0, smoothing=0.5)
    logged = budget.observe(_window(100.0))
    # e = (100 - 50) / 100; price 0.1 · 0.5 = 0.05; β = (0.05 + 2 · 0.5) / 100
    assert logged == {"budget/target": 50.0, "budget/tokens": 100.0, "budget/price": pytest.approx(0.05)}
    assert budget.reward.weight == pytest.approx(0.0105)
    budget.observe(_window(60.0))
    # smoothed 80, e = 0.3; price 0.08; β = 0.68 / 100: the unit stays that of the first window
    assert budget.reward.weight == pytest.approx(0.0068)


def test_a_number_of_tokens_needs_no_start_and_an_evaluations_start_wins():
    assert _budget(tokens=120).target == 120.0
    budget = _budget(tokens="-40%")
    budget.begin(200.0)
    budget.observe(_window(150.0))
    assert budget.target == pytest.approx(120.0)


def test_the_price_stays_within_its_bounds_and_does_not_wind_up():
    budget = _budget(tokens="-90%", rate=1.0, gain=0.0, max_price=0.5, smoothing=0.0)
    for _ in range(100):
        budget.observe(_window(100.0))
    assert budget.reward.weight == pytest.approx(0.5 / 100)
    budget.observe(_window(1.0))  # far below the budget of 10: falls at once
    assert budget.reward.weight == pytest.approx((0.5 - 0.09) / 100)
    for _ in range(100):
        budget.observe(_window(1.0))
    assert budget.reward.weight == 0.0


def test_only_right_answers_count_when_asked_and_a_window_without_any_changes_nothing():
    budget = _budget(tokens="-50%", count="right", smoothing=0.0)
    budget.observe(_window(100.0, **{"tokens/right": 80.0}))
    weight = budget.reward.weight
    assert budget.target == 40.0
    budget.observe(_window(100.0, **{"tokens/right": math.nan}))
    assert budget.reward.weight == weight and budget.smoothed == 80.0


@pytest.mark.parametrize("cut", [0.30, 0.35, 0.45])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_simulated_policy_is_brought_to_its_budget(cut, seed):
    """Lengths relax towards a level that falls with the price, at speeds and noise like the embedded default's."""
    draw, budget, tokens = random.Random(seed), _budget(tokens=f"-{100 * cut:g}%"), 187.0
    for _ in range(80):
        budget.observe(_window(tokens + draw.gauss(0, 6)))
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
    budget = _budget({"name": f"{__file__}:bonus"}, tokens=10)
    with pytest.raises(UserError, match="'bonus' costs nothing"):
        budget.observe({"tokens/mean": 20.0, "reward/bonus": 1.0})


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
    assert weights[0] == 0.01 and len(set(weights)) == 4
    for line in lines:
        assert line["reward/shaping"] == pytest.approx(line["weight/length_cost"] * line["reward/length_cost"])

    parts = train("parts")
    shutil.rmtree(parts / "checkpoints" / "step-000004")
    train("parts", resume=parts)
    again = [line["weight/length_cost"] for line in metrics(parts) if "budget/price" in line]
    assert again == weights

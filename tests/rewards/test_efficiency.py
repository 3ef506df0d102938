"""What the efficiency rewards promise together, where they do not, and the recipe in which each is one line."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cib_rl import rewards
from cib_rl.checks import check_recipe
from cib_rl.credit.assign import Credit
from cib_rl.models import load_tokenizer
from cib_rl.plugin import PluginError, RewardContext, RewardSuite, find_reward
from cib_rl.recipe import CreditSection, RewardSection
from cib_rl.recipe_io import find_recipe, load_recipe
from tests.rewards.support import OUTCOME, Row, batches, completion, outranked, score, totals

# Their docstrings promise that no wrong answer outranks a right one of its prompt; with these keys at the edge.
PROMISED = [
    {"name": "l1_max", "target": 30, "alpha": 0.02},
    {"name": "l1_max", "target": 10, "alpha": 0.5, "slope": "half"},
    {"name": "truncation", "limit": 30},
    {"name": "kimi_length", "weight": 2.0},
    {"name": "arora_zanette", "alpha": 1.0},
    {"name": "grpo_lead", "alpha": 1.0},
    {"name": "grpo_lead", "min_length": 20, "wrong": 0.0},
    {"name": "soft_overlong", "limit": 50, "cache": 40, "weight": 1.0},
]
# The rewards that look at right answers alone: what a wrong one gets does not depend on its length.
BLIND_TO_WRONG_LENGTHS = ["l1_max", "truncation", "arora_zanette", "grpo_lead"]


@pytest.mark.parametrize("section", PROMISED, ids=lambda s: s["name"])
@given(rows=batches())
def test_no_wrong_answer_outranks_a_right_one_where_that_is_promised(section, rows):
    assert not outranked(rows, totals(section, rows))


@pytest.mark.parametrize("section", PROMISED, ids=lambda s: s["name"])
@given(rows=batches())
def test_of_two_finished_right_answers_the_shorter_has_no_less(section, rows):
    total = totals(section, rows)
    found = sorted(
        (row.group, row.tokens, value) for row, value in zip(rows, total, strict=True) if row.right and not row.cut
    )
    for (group, tokens, value), (other, more, longer) in pairwise(found):
        assert group != other or value >= longer - 1e-9, (tokens, more)


@pytest.mark.parametrize(
    "section",
    # min_length is held against all lengths of the prompt, those of wrong answers too
    [s for s in PROMISED if s["name"] in BLIND_TO_WRONG_LENGTHS and "min_length" not in s],
    ids=lambda s: s["name"],
)
@given(rows=batches())
def test_the_length_of_a_wrong_answer_does_not_change_its_reward(section, rows):
    longer = [row if row.right else row._replace(tokens=row.tokens + 7) for row in rows]
    np.testing.assert_allclose(totals(section, rows), totals(section, longer))


@pytest.mark.parametrize(
    "section",
    [*PROMISED, {"name": "shorter_better", "weight": 0.001}, {"name": "cosine_length"}],
    ids=lambda s: s["name"],
)
@given(rows=batches(), random=st.randoms())
def test_neither_order_nor_other_prompts_change_a_reward(section, rows, random):
    total = totals(section, rows)
    order = list(range(len(rows)))
    random.shuffle(order)
    np.testing.assert_allclose(totals(section, [rows[i] for i in order]), [total[i] for i in order])
    for group in {row.group for row in rows}:
        own = [i for i, row in enumerate(rows) if row.group == group]
        np.testing.assert_allclose(totals(section, [rows[i] for i in own]), [total[i] for i in own])


@pytest.mark.parametrize(
    "section", [*PROMISED[:7], {"name": "shorter_better"}, {"name": "cosine_length"}], ids=lambda s: s["name"]
)
def test_without_an_outcome_reward_no_run_starts_and_the_message_says_why(section):
    context = RewardContext(max_completion_length=9)
    with pytest.raises(PluginError, match=rf"reward '{section['name']}': .* needs an outcome reward"):
        RewardSuite([RewardSection(**section)], context)
    judged = completion(Row(0, True, 3))
    judged.success = True
    suite = RewardSuite([RewardSection(**section)], context, judged=True)  # told beforehand
    assert suite.score([judged]).valid.tolist() == [True]
    suite.close()


def test_the_built_in_rewards_that_ask_for_successes_say_so():
    """A reward asks by `success(...)`; its source has the call where its declaration has `needs_success=True`."""
    files = [file for file in Path(rewards.__file__).parent.glob("*.py") if "@reward(" in file.read_text()]
    asking = {file.stem for file in files if re.search(r"\bsuccess\(", file.read_text())}
    declared = {file.stem for file in files if find_reward(file.stem, Path()).__reward__.needs_success}
    assert declared == asking and len(asking) == 8 < len(files)


# ---------------------------------------------------------------- linear and L1-Exact are priors of `surprisal`


@given(batches(), st.floats(1e-4, 0.1))
def test_the_uniform_prior_is_the_linear_penalty_of_every_completion(tiny_tokenizer_once, rows, alpha):
    """r = 1[right] − α·n with weight = α / log|V|: the same numbers."""
    weight = alpha / math.log(len(tiny_tokenizer_once))
    section = {"name": "surprisal", "weight": weight, "prior": {"name": "uniform"}}
    got = totals(section, rows, tokenizer=tiny_tokenizer_once)
    np.testing.assert_allclose(got, [row.right - alpha * row.tokens for row in rows], atol=1e-9)


@given(
    batches(),
    st.floats(1e-4, 0.1),
    st.integers(0, 60),
    st.sampled_from(["reward_std", "outcome_std", "batch_std", "none"]),
)
def test_the_laplace_prior_is_l1_exact(tiny_tokenizer_once, rows, alpha, target, scale):
    """r = 1[right] − α·|n − target| plus the constant α·target: the same advantages under every scale."""
    made = [completion(row, n_gold=target) for row in rows]
    section = {"name": "surprisal", "weight": alpha, "prior": {"name": "laplace", "target": "task.n_gold"}}
    scores = score(section, made, tokenizer=tiny_tokenizer_once)
    paper = np.array([row.right - alpha * abs(row.tokens - target) for row in rows])
    np.testing.assert_allclose(scores.total, paper + alpha * target, atol=1e-9)
    credit = Credit([CreditSection(name="group", scale=scale)], RewardContext())
    got = credit.assign(made, scores)
    scores.total[:] = paper
    for ours, theirs in zip(got, credit.assign(made, scores), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("section", "rows"),
    [
        # 0.0003 · 3900 > 1: a right answer that far from its target is worth less than a wrong one on it.
        (
            {"name": "surprisal", "weight": 0.0003, "prior": {"name": "laplace", "target": 4000}},
            [Row(0, True, 100), Row(0, False, 4000)],
        ),
        (
            {"name": "surprisal", "weight": 0.01 / math.log(57), "prior": {"name": "uniform"}},
            [Row(0, True, 110), Row(0, False, 5)],
        ),
    ],
    ids=["l1_exact", "linear"],
)
def test_additive_penalties_can_put_a_wrong_answer_above_a_right_one(tiny_tokenizer_once, section, rows):
    assert outranked(rows, totals(section, rows, tokenizer=tiny_tokenizer_once))


# ---------------------------------------------------------------- the recipe

TEXT = find_recipe("math/efficiency").read_text(encoding="utf-8")
METHOD = re.compile(r"^  - (\{.*\})  # the method.*$", re.MULTILINE)
LINES = [METHOD.search(TEXT)[1], *re.findall(r"^  # - (\{.*?\})  #.*$", TEXT.partition("\ncredit:")[0], re.MULTILINE)]
CREDITS = re.findall(r"^  # - (\{name.*?\})  ", TEXT.partition("\ncredit:")[2], re.MULTILINE)


def test_the_recipe_names_every_method():
    found = [yaml.safe_load(line) for line in LINES]
    names = {section["name"] for section in found} | {s["prior"]["name"] for s in found if "prior" in s}
    assert names == {
        "truncation", "l1_max", "kimi_length", "arora_zanette", "shorter_better", "grpo_lead", "soft_overlong",
        "cosine_length", "surprisal", "uniform", "laplace", "language_model",
    }  # fmt: skip
    assert len(LINES) == 12 and len(re.findall(r"^  #? ?- \{", TEXT, re.MULTILINE)) == 12 + 1 + 1 + len(CREDITS)


@pytest.mark.parametrize("line", LINES)
def test_each_line_makes_a_recipe_that_passes_every_check(tmp_path, tiny_model_dir, monkeypatch, line):
    """The line put where the recipe says, on a model and rows that are at hand; then its rewards score completions."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{i}+1=", "answer": str(i + 1)}) + "\n" for i in range(4))
    )
    file = tmp_path / "mine.yaml"
    file.write_text(METHOD.sub(lambda _: f"  - {line}", TEXT).replace("Qwen/Qwen2.5-0.5B}", f"{tiny_model_dir}}}"))
    recipe = load_recipe(
        file,
        [
            f"model={tiny_model_dir}",
            "task={name: jsonl, path: rows.jsonl}",
            "engine={name: transformers}",
            "evaluation=null",
        ],
    )
    assert [section.name for section in recipe.rewards] == ["math_correct", yaml.safe_load(line)["name"]]
    checks = check_recipe(recipe).checks
    assert [check.detail for check in checks if check.status != "ok"] == []
    # In the middle of training, when schedules have begun; the tiny prior reads less than 512 tokens.
    context = RewardContext(
        tokenizer=load_tokenizer(str(tiny_model_dir)),
        max_completion_length=500,
        trainer_state=SimpleNamespace(global_step=150),
    )
    suite = RewardSuite([RewardSection(name=OUTCOME), recipe.rewards[1]], context)
    scores = suite.score([completion(Row(0, n % 2 == 1, 100 * n, cut=n == 5)) for n in range(6)])
    suite.close()
    assert scores.valid.all() and np.isfinite(scores.total).all()
    assert (scores.shaping != 0).any(), "the line does something at these lengths"


def test_the_stages_of_credit_that_the_recipe_offers_are_right():
    sections = [CreditSection(**yaml.safe_load(line)) for line in CREDITS]
    assert [s.name for s in sections] == ["group", "group", "group", "difficulty"]
    for section in sections:
        Credit([section] if section.name == "group" else [CreditSection(name="group"), section], RewardContext())

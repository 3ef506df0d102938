"""The kinds of reward function that TRL's documentation of GRPOTrainer shows, written as it writes them, run unchanged.

Its section "Using a custom reward function": by tokens, by characters, by format in a conversation, by a reference
column, several tasks with None, async; then metrics, further columns, and the trainer's state for a curriculum.
"""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace

import pytest


def longer_in_tokens(completion_ids, **kwargs):
    return [float(len(ids)) for ids in completion_ids]


def longer_in_characters(completions, **kwargs):
    return [float(len(text)) for text in completions]


def only_keywords(**kwargs):
    return [float(len(prompt) + len(text)) for prompt, text in zip(kwargs["prompts"], kwargs["completions"])]  # noqa: B905


def tagged(completions, **kwargs):
    """Of a conversation: each completion is a list with one message."""
    return [float(bool(re.fullmatch("<think>.*</think><answer>.*</answer>", c[0]["content"]))) for c in completions]


def boxed_reference(completions, ground_truth, **kwargs):
    found = [re.search(r"\\boxed\{(.*?)\}", text) for text in completions]
    return [float(m is not None and m[1] == gold) for m, gold in zip(found, ground_truth)]  # noqa: B905


def only_math(prompts, completions, task, **kwargs):
    return [(1.0 if "4" in c else -1.0) if t == "math" else None for c, t in zip(completions, task)]  # noqa: B905


def only_code(prompts, completions, task, **kwargs):
    return [(1.0 if "def" in c else -1.0) if t == "code" else None for c, t in zip(completions, task)]  # noqa: B905


async def remote(prompts, completions, **kwargs):
    await asyncio.sleep(0.01)
    return [1.0 if text else 0.0 for text in completions]


def logging_more(completions, log_extra, log_metric, **kwargs):
    log_extra("first_word", [text.split()[0] for text in completions])
    log_metric("mean_length", sum(map(len, completions)) / len(completions))
    return [0.0] * len(completions)


def curriculum(completions, trainer_state, **kwargs):
    return [1.0 if trainer_state.global_step >= 10 else 0.5 for _ in completions]


def named(function):
    return f"{__file__}:{function.__name__}"


@pytest.fixture
def score(suite, trajectory):
    """Scores of completions by one or more functions, as plain lists by name."""

    def run(functions, texts, *, prompt="a question", columns=None, **context):
        rows = [
            trajectory(g, text=text, tokens=2 + g, prompt=prompt, **{k: v[g] for k, v in (columns or {}).items()})
            for g, text in enumerate(texts)
        ]
        return suite(*({"name": named(f), "kind": "outcome"} for f in functions), **context).score(rows)

    return run


def test_by_tokens_by_characters_and_by_keywords_alone(score):
    scores = score([longer_in_tokens, longer_in_characters, only_keywords], [" blue.", " in the sky."])
    assert scores.errors == []
    assert scores.values["longer_in_tokens"].tolist() == [2, 3]
    assert scores.values["longer_in_characters"].tolist() == [6, 12]
    assert scores.values["only_keywords"].tolist() == [16, 22]


def test_the_format_of_a_conversation(score):
    texts = ["<think>1 + 2 is 3</think><answer>3</answer>", "It is 3."]
    prompt = [{"role": "user", "content": "What is 1 + 2?"}]
    assert score([tagged], texts, prompt=prompt).outcome.tolist() == [1, 0]


def test_a_reference_column(score):
    texts = [r"It is \boxed{2}.", r"It is \boxed{6}."]
    assert score([boxed_reference], texts, columns={"ground_truth": ["2", "5"]}).outcome.tolist() == [1, 0]


def test_functions_for_several_tasks_leave_the_others_rows_out(score):
    scores = score([only_math, only_code], ["4", "def f", "5", "-"], columns={"task": ["math", "code", "math", "code"]})
    assert scores.errors == []
    assert scores.total.tolist() == [1, 1, -1, -1]
    assert [v == v for v in scores.values["only_math"]] == [True, False, True, False]


def test_async_functions_beside_a_plain_one(score):
    scores = score([remote, longer_in_characters], ["ab", ""])
    assert scores.total.tolist() == [3, 0]


def test_further_columns_metrics_and_the_trainers_state(score):
    state = SimpleNamespace(global_step=10)
    scores = score([logging_more, curriculum], ["one two", "three"], trainer_state=state)
    assert scores.extras["first_word"] == ["one", "three"]
    assert scores.metrics == {"mean_length": 6.0}
    assert scores.values["curriculum"].tolist() == [1, 1]
    assert score([curriculum], ["a"], trainer_state=SimpleNamespace(global_step=9)).total.tolist() == [0.5]

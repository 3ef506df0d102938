"""What the tests of verl share: completions of two prompts, right and wrong, and what our own suite says of them."""

from __future__ import annotations

from tests.integrations.support import own_scores
from tests.plugin.conftest import trajectory

UNIFORM = {"name": "uniform"}
TAGS = "<answer>{}</answer><eos>"
REWARDS = [
    {"name": "math_correct"},
    {"name": "kimi_length", "weight": 0.5},
    {"name": "surprisal", "weight": 1e-2, "prior": UNIFORM},
]


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

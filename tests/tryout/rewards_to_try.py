"""Rewards as users write them, good and bad ones; the tests name them as path/file.py:name."""

from __future__ import annotations

from cib_rl.plugin import Failed, by_group, reward


@reward("fewer_tokens", kind="shaping")
def fewer_tokens(trajectories, *, scale: float = 100.0):
    """Tokens under the mean of the problem: a length reward."""
    values = [0.0] * len(trajectories)
    for members in by_group(trajectories):
        mean = sum(trajectories[i].num_tokens for i in members) / len(members)
        for i in members:
            values[i] = (mean - trajectories[i].num_tokens) / scale
    return values


@reward("more_tokens", kind="shaping")
def more_tokens(trajectories):
    """Can be hacked: pays for tokens."""
    return [t.num_tokens / 100 for t in trajectories]


@reward("counts_searches", kind="shaping")
def counts_searches(trajectories):
    """Can be hacked: pays for the tags of searches that nobody has made."""
    return [float(t.policy_text.count("<search>")) for t in trajectories]


@reward("ann_may_search", kind="shaping")
def ann_may_search(trajectories):
    """Can be hacked in one of twelve problems."""
    return [(0.1 if "Ann" in t.task["prompt"] else -0.1) * t.policy_text.count("<search>") for t in trajectories]


@reward("boxes_prompt", kind="shaping")
def says_apples(trajectories):
    """Can be hacked: pays for saying a word of the prompt."""
    return [float("How many" in t.policy_text) for t in trajectories]


@reward("no_talk", kind="shaping")
def no_talk(trajectories):
    """Pays for leaving the reasoning out, but not for being short otherwise."""
    return [float("First" not in t.policy_text) for t in trajectories]


@reward("steps_in_order", kind="shaping")
def steps_in_order(trajectories):
    """Pays for reasoning that says things in order: nonsense earns nothing."""
    return [float("apples are there after the purchase" in t.policy_text) for t in trajectories]


@reward("says_gold", kind="outcome")
def says_gold(trajectories):
    """A bad outcome: the gold answer as a word anywhere."""
    return [float(str(t.task["answer"]) in t.policy_text.split()) for t in trajectories]


@reward("sometimes", kind="shaping")
def sometimes(trajectories):
    """None for wrong members 3, cannot score members 2."""
    return [None if t.member == 3 else Failed("the judge is away") if t.member == 2 else 1.0 for t in trajectories]


@reward("never", kind="shaping")
def never(trajectories):
    """Always raises."""
    raise RuntimeError("no connection")


@reward("silent", kind="shaping")
def silent(trajectories):
    """Applies to nothing."""
    return [None for _ in trajectories]


def trl_style(completions, **columns):
    """As written for TRL."""
    return [len(text) / 100 for text in completions]

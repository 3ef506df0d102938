"""Which tokens are planning: those that a strategic gram stands on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from cib_rl.grams.match import GramMatcher, Match
from cib_rl.spans import decode, token_spans
from cib_rl.trajectory import Trajectory

# What was found in one run of policy tokens: its text, and the grams in it by rising start.
Run = tuple[str, list[Match]]


def planning_mask(trajectory: Trajectory, tokenizer: Any, matcher: GramMatcher) -> list[int]:
    """1 for each completion token of a trajectory that is planning. Shape (T,); 0 on the environment's tokens."""
    return find_planning(trajectory, tokenizer, matcher)[0]


def find_planning(trajectory: Trajectory, tokenizer: Any, matcher: GramMatcher) -> tuple[list[int], list[Run]]:
    """`planning_mask`, and what was found in each run of policy tokens."""
    marks: list[int] = []
    runs: list[Run] = []
    for segment in trajectory.segments:
        own, found = mark_runs(segment.completion_ids, segment.policy_mask, tokenizer, matcher)
        marks += own
        runs += found
    return marks, runs


def mark_planning(ids: Sequence[int], policy_mask: Sequence[int], tokenizer: Any, matcher: GramMatcher) -> list[int]:
    """1 for each token the policy sampled (`policy_mask` 1) that has a character of a gram in it. Shape (T,).

    HICRA (arXiv 2509.03646, §2.1): a token is a planning token iff it is part of a strategic gram in its context. How
    grams are found is not in the paper; here on the decoded text (see `GramMatcher`), so that leading spaces, capitals
    and words in several tokens do not hide them. A gram must lie within one run of policy tokens: what the environment
    wrote can neither hold a gram nor be a part of one.
    """
    return mark_runs(ids, policy_mask, tokenizer, matcher)[0]


def mark_runs(
    ids: Sequence[int], policy_mask: Sequence[int], tokenizer: Any, matcher: GramMatcher
) -> tuple[list[int], list[Run]]:
    """`mark_planning`, and what was found in each run of policy tokens."""
    text = decode(tokenizer, ids)
    spans = token_spans(tokenizer, ids, text)
    marks = [0] * len(ids)
    runs: list[Run] = []
    for sampled, run in groupby(range(len(ids)), key=lambda t: policy_mask[t]):
        members = list(run)
        if not sampled:
            continue
        start, end = spans[members[0]][0], spans[members[-1]][1]
        runs.append((text[start:end], matcher.find(text[start:end])))
        at = 0
        for match in runs[-1][1]:
            # Tokens' spans rise, and so do matches: no token is looked at again once it ends before a match.
            while at < len(members) and spans[members[at]][1] <= start + match.start:
                at += 1
            for t in members[at:]:
                if spans[t][0] >= start + match.end:
                    break
                marks[t] = int(spans[t][0] < spans[t][1])
    return marks, runs

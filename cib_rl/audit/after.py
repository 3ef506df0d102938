"""Tokens that follow after the answer has first appeared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cib_rl.audit.appearance import first_appearance, given_in
from cib_rl.audit.measures import ratio
from cib_rl.evals.statistics import Estimate
from cib_rl.plugin import by_group
from cib_rl.samples.answers import statement
from cib_rl.spans import THINK_CLOSE, decode, token_spans
from cib_rl.trajectory import Trajectory


@dataclass(frozen=True)
class AfterAnswer:
    """Over right completions.

    Attributes:
        looked_at: how many; in_prompt: further ones whose answer the prompt holds already; unread: further ones where
            no statement of the answer could be told from the rest.
        share: Σ tokens between the first appearance and the statement / Σ tokens; interval over problems.
        shares: (looked_at,) of each completion.
    """

    looked_at: int
    in_prompt: int
    unread: int
    share: Estimate
    shares: NDArray[np.float64]


def after_answer(trajectories: Sequence[Trajectory], right: Sequence[bool], tokenizer: Any, style: str) -> AfterAnswer:
    """Tokens after the answer first appears; the statement of the answer (`\\boxed{…}`, `<answer>…`), what follows it,
    and a `</think>` right before it do not count."""
    spare: list[tuple[int, int, int]] = []  # group, tokens after, tokens
    in_prompt = unread = 0
    for members in by_group(trajectories):
        for t in (trajectories[i] for i in members if right[i]):
            if t.answer is None or len(t.segments) != 1:
                unread += 1
            elif "target" not in t.task and given_in(t.task["prompt"], t.answer):
                in_prompt += 1
            elif (count := _tokens_between(t, tokenizer, style)) is None:
                unread += 1
            else:
                spare.append((t.group, count, t.num_tokens))
    if not spare:
        return AfterAnswer(0, in_prompt, unread, Estimate(None), np.zeros(0))
    table = np.array(spare, dtype=np.float64)
    _, index = np.unique(table[:, 0], return_inverse=True)
    share = ratio(np.bincount(index, table[:, 1]), np.bincount(index, table[:, 2]))
    return AfterAnswer(len(spare), in_prompt, unread, share, table[:, 1] / table[:, 2])


def _tokens_between(t: Trajectory, tokenizer: Any, style: str) -> int | None:
    """Policy tokens behind the first appearance of the answer and before its statement; None: no statement found."""
    ids = t.policy_ids
    text = decode(tokenizer, ids)
    closed = text.rfind(THINK_CLOSE)
    offset = closed + len(THINK_CLOSE) if closed >= 0 else 0
    said = statement(text[offset:], style)
    if said is None:
        return None
    stop = closed if closed >= 0 and not text[offset : offset + said[0]].strip() else offset + said[0]
    found = first_appearance(t.task, text[:stop], str(t.answer))
    if found is None:
        return 0
    return sum(found <= a and b <= stop and b > a for a, b in token_spans(tokenizer, ids, text))

"""From task rows to a graded result, and from a saved result to a regraded one. The trainer calls `score_rows` too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from cib_rl.engines.base import Sampling
from cib_rl.errors import UserError
from cib_rl.evals.benchmarks.base import Measure
from cib_rl.evals.result import EvalResult, Sample, make_sample
from cib_rl.grading.answers import extract_answer
from cib_rl.plugin import RewardSuite
from cib_rl.plugin.bound import BoundReward
from cib_rl.plugin.roles import Role
from cib_rl.progress import RunProgress
from cib_rl.rollout import Episode, Rollouts
from cib_rl.run_folder import package_versions
from cib_rl.seeds import derive_seed
from cib_rl.tasks import Row
from cib_rl.trajectory import Trajectory


def sample_seed(seed: int, question: str, sample: int) -> int:
    """The seed of one answer: the same whatever else is asked, so samples can be added without changing the others."""
    return derive_seed(seed, "eval", question, sample)


def require_outcome(rewards: Sequence[Role | BoundReward], what: str = "an evaluation") -> None:
    """Raises UserError when none of a suite's rewards can say what is right, which `what` needs."""
    if not any(reward.kind == "outcome" for reward in rewards):
        labels = ", ".join(reward.label for reward in rewards) or "none"
        raise UserError(
            f"{what} needs an outcome reward; there are only {labels}. Add one to `rewards`, such as "
            "`- name: math_correct`"
        )


def score_rows(
    rows: Sequence[Row],
    rollouts: Rollouts,
    suite: RewardSuite,
    samples: int,
    seed: int,
    *,
    sampling: Sampling,
    measure: Measure | None = None,
    by: str | None = None,
    settings: dict[str, Any] | None = None,
    versions: dict[str, Any] | None = None,
    progress: RunProgress | None = None,
) -> EvalResult:
    """Play `samples` episodes of every row and grade them.

    `by` is a column of the rows: the result then also tells the kinds of question apart that it names.

    With several processes each plays its share of the rows and all of them return the whole result.

    Raises UserError when the suite has no outcome reward: nothing would say what is right.
    """
    require_outcome(suite.rewards)
    rank, processes = (
        (torch.distributed.get_rank(), torch.distributed.get_world_size())
        if torch.distributed.is_available() and torch.distributed.is_initialized()
        else (0, 1)
    )
    episodes = [
        Episode(task=row, group=position, member=index, seed=sample_seed(seed, str(row["id"]), index))
        for position, row in enumerate(rows)
        for index in range(samples)
        if position % processes == rank
    ]
    if progress is None:
        trajectories = rollouts.run(episodes, sampling)
    else:
        with progress.track("evaluation", len(episodes)) as bar:
            trajectories = rollouts.run(episodes, sampling, bar.update)
    graded = _grade(trajectories, suite, [episode.seed for episode in episodes], by)
    if measure is not None:
        graded = [
            row if episode.failed else replace(row, numbers=row.numbers | measure(episode, rollouts.tokenizer))
            for row, episode in zip(graded, trajectories, strict=True)
        ]
    pairs = list(zip(graded, trajectories, strict=True))
    if processes > 1:
        parts: list[Any] = [None] * processes
        torch.distributed.all_gather_object(parts, pairs)
        order = {str(row["id"]): position for position, row in enumerate(rows)}
        together = (pair for part in parts for pair in part)
        pairs = sorted(together, key=lambda pair: (order[pair[0].question], pair[0].sample))
    return EvalResult(
        samples=[sample for sample, _ in pairs],
        questions=[str(row["id"]) for row in rows],
        samples_per_question=samples,
        settings={
            "seed": seed,
            "sampling": {k: v for k, v in asdict(sampling).items() if k not in ("seed", "max_tokens", "stop")},
            "answer": rollouts.answer_style,
            "special_tokens": list(rollouts.tokenizer.all_special_tokens),
            "rewards": suite.names,
            "by": by,
            **(settings or {}),
        },
        versions=package_versions() | {"chat_template": template_hash(rollouts.tokenizer)} | (versions or {}),
        trajectories=[trajectory for _, trajectory in pairs],
    )


def template_hash(tokenizer: Any) -> str | None:
    """Names the chat template in use, so that two results with different ones are told apart. None: there is none."""
    template = getattr(tokenizer, "chat_template", None)
    return f"{derive_seed(str(template)):016x}" if template else None


def _grade(
    trajectories: list[Trajectory], suite: RewardSuite, seeds: Sequence[int], by: str | None = None
) -> list[Sample]:
    """Score trajectories and make a row of each. What grading adds to their errors goes to the row alone, so that a
    kept trajectory can be graded again."""
    if not trajectories:
        return []
    before = [list(trajectory.errors) for trajectory in trajectories]
    scores = suite.score(trajectories, stop=False)
    outcomes = [reward.label for reward in suite.rewards if reward.kind == "outcome"]
    rows = []
    for index, (trajectory, seed) in enumerate(zip(trajectories, seeds, strict=True)):
        error = "; ".join(trajectory.errors) or None
        if error is None and trajectory.stop_reason is not None and trajectory.stop_reason.failed:
            error = trajectory.stop_reason.value
        if error is None and all(np.isnan(scores.values[label][index]) for label in outcomes):
            error = f"no outcome reward ({', '.join(outcomes)}) applies to it"
        trajectory.errors = before[index]
        numbers = {name: float(value) for name, value in trajectory.diagnostics.items() if math.isfinite(value)}
        rewards = {f"reward/{label}": float(value) for label, value in trajectory.rewards.items() if value is not None}
        correct = bool(scores.correct[index])
        numbers |= rewards
        rows.append(make_sample(trajectory, correct=correct, error=error, seed=seed, numbers=numbers, by=by))
    return rows


def regrade(result: EvalResult, suite: RewardSuite, *, answer_style: str | None = None) -> EvalResult:
    """Grade the saved answers again, without generating: after a change of grader, of rewards, or of `answer_style`.

    `result` must hold its trajectories (`load_result(folder, trajectories=True)`). Answers stay as they were read,
    unless `answer_style` says where else to look. Named numbers that were measured
    before stay, except the rewards'. Raises UserError without trajectories.
    """
    if result.trajectories is None:
        raise UserError("this result does not hold its trajectories; load it with trajectories=True")
    marks = result.settings.get("special_tokens", [])  # an end-of-sequence token is no part of an answer
    trajectories = []
    for old in result.trajectories:
        answer = old.answer
        if answer_style is not None:
            answer = extract_answer(old.policy_text, answer_style, special_tokens=marks)
        trajectories.append(replace(old, answer=answer, rewards={}, errors=list(old.errors)))
    seeds = [sample.seed for sample in result.samples]
    graded = _grade(trajectories, suite, seeds, result.settings.get("by"))
    graded = [
        replace(new, numbers={k: v for k, v in old.numbers.items() if not k.startswith("reward/")} | new.numbers)
        for new, old in zip(graded, result.samples, strict=True)
    ]
    return replace(
        result,
        samples=graded,
        trajectories=trajectories,
        settings={
            **result.settings,
            "answer": answer_style or result.settings.get("answer"),
            "rewards": suite.names,
            "regraded": True,
        },
        versions={**result.versions, "grading": package_versions()},
    )

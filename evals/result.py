"""What an evaluation measured: one row per sample, the settings and versions behind it, and its summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cib_rl.errors import UserError
from cib_rl.evals.statistics import (
    Estimate,
    clustered_mean,
    clustered_median,
    clustered_proportion,
    mean_pass_at_k,
)
from cib_rl.trajectory import StopReason, Trajectory

Outcome = Literal["right", "wrong", "error"]


@dataclass(frozen=True)
class Sample:
    """One graded answer. `tokens` counts what the policy sampled; `numbers` holds further named measurements."""

    question: str
    sample: int
    outcome: Outcome
    tokens: int
    truncated: bool
    stop_reason: str | None
    text: str
    answer: str | None
    gold: Any  # any JSON value
    turns: int
    seed: int
    error: str | None = None  # what went wrong, where outcome is "error"
    numbers: dict[str, float] = field(default_factory=dict)
    kind: str | None = None  # of the question, where the evaluation tells kinds apart


@dataclass
class EvalResult:
    """The samples of one model on one benchmark.

    Raises UserError when made from other samples than asked: every question of `questions` must have the samples
    0 .. samples_per_question - 1, each once.

    Attributes:
        samples: one per answer asked for, errors included.
        questions: the ids asked, in the benchmark's order.
        samples_per_question: how many answers of each were asked.
        settings: everything that was chosen (benchmark, model, sampling, environment, graders, ...); JSON values.
        versions: packages, model fingerprint, template hash; JSON values.
        trajectories: the episodes in the order of `samples`; None where they were not kept.
    """

    samples: list[Sample]
    questions: list[str]
    samples_per_question: int
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    trajectories: list[Trajectory] | None = None

    def __post_init__(self) -> None:
        _check_complete(self.samples, self.questions, self.samples_per_question)
        bad = [s.outcome for s in self.samples if s.outcome not in get_args(Outcome)]
        if bad:
            raise UserError(f"an outcome is right, wrong or error, not {bad[0]!r}")
        if self.trajectories is not None and len(self.trajectories) != len(self.samples):
            raise UserError(f"{len(self.trajectories)} trajectories for {len(self.samples)} samples")

    @property
    def kinds(self) -> list[str]:
        """The kinds of question that are told apart, sorted."""
        return sorted({s.kind for s in self.samples if s.kind is not None})

    @property
    def has_turns(self) -> bool:
        """Whether some episode had more than one turn."""
        return any(s.turns > 1 for s in self.samples)

    @property
    def errors(self) -> list[Sample]:
        """The samples that could not be generated or graded. They are in no mean."""
        return [s for s in self.samples if s.outcome == "error"]

    @property
    def graded(self) -> list[Sample]:
        """The samples that are right or wrong."""
        return [s for s in self.samples if s.outcome != "error"]

    @property
    def with_failed_searches(self) -> int:
        """Graded samples in which a search failed: what they lack is the retriever's fault (environment `search`)."""
        return sum(s.numbers.get("failed_queries", 0) > 0 for s in self.graded)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Of the graded samples: question, kind (str, "" where none), right, truncated (bool), tokens, turns (float64).

        Shapes (N,).
        """
        graded = self.graded
        return {
            "question": np.array([s.question for s in graded], dtype=object).astype(str),
            "right": np.array([s.outcome == "right" for s in graded], dtype=bool),
            "tokens": np.array([s.tokens for s in graded], dtype=np.float64),
            "truncated": np.array([s.truncated for s in graded], dtype=bool),
            "turns": np.array([s.turns for s in graded], dtype=np.float64),
            "kind": np.array([s.kind or "" for s in graded], dtype=object).astype(str),
        }

    def require_graded(self, max_error_share: float = 0.05) -> None:
        """Raise UserError when more than `max_error_share` of the samples are errors: the means would be of a rest."""
        errors = self.errors
        if errors and (len(errors) > max_error_share * len(self.samples) or len(errors) == len(self.samples)):
            common = Counter(s.error or "unknown" for s in errors).most_common(3)
            raise UserError(
                f"{len(errors)} of {len(self.samples)} samples could not be graded, more than the "
                f"{max_error_share:.0%} allowed (max_error_share): "
                + "; ".join(f"{count}× {message}" for message, count in common)
            )

    def estimates(self, *, max_error_share: float = 0.05) -> dict[str, Estimate]:
        """Every reported number with its 95% interval clustered by question (see `statistics`), over graded samples.

        accuracy is avg@n; pass@k for k = 2, 4, ... up to the graded samples of every question; tokens over all, right
        and wrong answers (value None where there is none); turns/mean where episodes have several; KIND/accuracy,
        KIND/tokens, KIND/turns for each kind of question; numbers/NAME over the samples that have NAME.
        """
        self.require_graded(max_error_share)
        columns = self.columns()
        names, right, tokens = columns["question"], columns["right"], columns["tokens"]
        estimates = {"accuracy": clustered_proportion(right, names)}
        fewest = min(Counter(names.tolist()).values()) if len(names) else 0
        for k in [2**power for power in range(1, 11) if 2**power <= fewest]:
            estimates[f"pass@{k}"] = mean_pass_at_k(right, names, k)
        estimates |= {
            "tokens/mean": clustered_mean(tokens, names),
            "tokens/median": clustered_median(tokens, names),
            "tokens/right": clustered_mean(tokens, names, right),
            "tokens/right_median": clustered_median(tokens, names, right),
            "tokens/wrong": clustered_mean(tokens, names, ~right),
            "truncated_share": clustered_proportion(columns["truncated"], names),
        }
        if self.has_turns:
            estimates["turns/mean"] = clustered_mean(columns["turns"], names)
        for kind in self.kinds:
            mask = columns["kind"] == kind
            estimates |= {
                f"{kind}/accuracy": clustered_proportion(right, names, mask),
                f"{kind}/tokens": clustered_mean(tokens, names, mask),
            }
            if self.has_turns:
                estimates[f"{kind}/turns"] = clustered_mean(columns["turns"], names, mask)
        graded = self.graded
        for name in sorted({name for s in graded for name in s.numbers}):
            having = [s for s in graded if np.isfinite(s.numbers.get(name, np.nan))]
            values = [s.numbers[name] for s in having]
            estimates[f"numbers/{name}"] = clustered_mean(values, [s.question for s in having])
        return estimates

    def summary(self, *, max_error_share: float = 0.05) -> dict[str, float | int | None]:
        """Flat numbers: NAME, NAME/low and NAME/high of every estimate (None where undefined), and the counts.

        Raises UserError when more than `max_error_share` of the samples are errors.
        """
        flat: dict[str, float | int | None] = {
            "questions": len(self.questions),
            "samples_per_question": self.samples_per_question,
            "graded": len(self.graded),
            "errors": len(self.errors),
            "error_share": len(self.errors) / len(self.samples),
        }
        for name, estimate in self.estimates(max_error_share=max_error_share).items():
            flat |= {name: estimate.value, f"{name}/low": estimate.low, f"{name}/high": estimate.high}
        reasons = Counter(s.stop_reason or "none" for s in self.samples)
        return flat | {f"stop/{reason}": count / len(self.samples) for reason, count in sorted(reasons.items())}

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the result (see `result_io`). Raises UserError if the folder exists, unless `overwrite`."""
        from cib_rl.evals.result_io import save_result

        return save_result(self, folder, overwrite=overwrite)


def make_sample(
    trajectory: Trajectory,
    *,
    correct: bool,
    error: str | None,
    seed: int,
    numbers: dict[str, float],
    by: str | None = None,
) -> Sample:
    """A row from a finished, graded episode; `by` is the column of the task that says the question's kind."""
    return Sample(
        question=str(trajectory.task["id"]),
        sample=trajectory.member,
        outcome="error" if error is not None else ("right" if correct else "wrong"),
        tokens=trajectory.num_tokens,
        truncated=trajectory.truncated,
        stop_reason=trajectory.stop_reason.value if isinstance(trajectory.stop_reason, StopReason) else None,
        text=trajectory.text,
        answer=trajectory.answer,
        gold=trajectory.task.get("answer"),
        turns=len(trajectory.turns),
        seed=seed,
        error=error,
        kind=None if by is None else str(trajectory.task[by]),
        numbers=numbers,
    )


def _check_complete(samples: Sequence[Sample], questions: Sequence[str], asked: int) -> None:
    """Raise UserError unless every question has the samples 0 .. asked - 1, each once, and no other is there."""
    if not questions or asked < 1:
        raise UserError(f"an evaluation needs questions and samples, got {len(questions)} and {asked}")
    twice = [name for name, count in Counter(questions).items() if count > 1]
    if twice:
        raise UserError(f"question id {twice[0]!r} occurs {questions.count(twice[0])} times; ids must differ")
    made = Counter((s.question, s.sample) for s in samples)
    wanted = {(question, index) for question in questions for index in range(asked)}
    problems = [
        *(f"sample {index} of question {name!r} is missing" for name, index in wanted - made.keys()),
        *(f"sample {index} of question {name!r} was not asked for" for name, index in made.keys() - wanted),
        *(f"sample {index} of question {name!r} is there {n} times" for (name, index), n in made.items() if n > 1),
    ]
    if problems:
        raise UserError(
            f"asked for {len(questions)} questions × {asked} samples = {len(wanted)}, got {len(samples)} samples: "
            + "; ".join(sorted(problems)[:3])
            + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        )

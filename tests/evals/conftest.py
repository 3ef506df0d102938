"""Results made by hand, and a scripted engine behind the real rollout."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cib_rl.evals.result import EvalResult, Sample


def sample(question: str, index: int, outcome: str = "right", tokens: int = 10, **more: object) -> Sample:
    """A row with everything else filled in."""
    filled = {
        "truncated": False, "stop_reason": "eos", "text": "so 4", "answer": "4", "gold": "4", "turns": 1, "seed": 7,
        "error": "broke" if outcome == "error" else None,
    }  # fmt: skip
    return Sample(question, index, outcome, tokens, **(filled | more))  # type: ignore[arg-type]


@pytest.fixture
def make_result() -> Callable[..., EvalResult]:
    """`make_result({"q": [("right", 10), ("wrong", 20)]})`: outcomes and tokens by question."""

    def make(answers: dict[str, list[tuple[str, int]]], **more: object) -> EvalResult:
        samples = [
            sample(question, index, outcome, tokens, **more)
            for question, rows in answers.items()
            for index, (outcome, tokens) in enumerate(rows)
        ]
        each = len(next(iter(answers.values())))
        return EvalResult(samples, list(answers), each, {"benchmark": "hand"}, {"python": "3"})

    return make

"""The gap between engine and trainer: zero where they agree, and an error that says where they do not."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from cib_rl.engines.base import Generation
from cib_rl.engines.gap import check_gap, logprob_gap
from cib_rl.errors import UserError
from tests.conftest import build_tiny_model
from tests.engines.conftest import build_engine
from tests.engines.support import disturb, largest_gap, ragged_prompts, run, seeded


def test_gap_is_tiny_for_the_same_weights_and_large_for_others(tmp_path: Path) -> None:
    model = build_tiny_model()
    engine = build_engine("transformers", tmp_path, model)
    prompts = ragged_prompts(8)
    results = run(engine, prompts, seeded(8, temperature=0.8))
    engine.close()
    gap = logprob_gap(model, prompts, results, temperature=0.8, token_budget=40)
    assert gap.max < 1e-4
    assert gap.tokens == sum(len(r.ids) for r in results)
    check_gap(gap, exact=True)
    wrong = logprob_gap(model, prompts, results, temperature=1.0)
    assert wrong.max == pytest.approx(largest_gap(model, prompts, results, 1.0), abs=1e-4)
    disturb(model, 1)
    moved = logprob_gap(model, prompts, results, temperature=0.8)
    with pytest.raises(UserError, match="stale weights"):
        check_gap(moved, exact=True)


def test_the_numbers_are_those_of_the_differences() -> None:
    model = build_tiny_model()
    prompts = [[3, 4], [5], [6, 7]]
    exact = [Generation(ids=ids, logprobs=[0.0] * len(ids)) for ids in ([8, 9, 10], [], [11, 12])]
    zero = logprob_gap(model, prompts, exact)
    shifted = []
    for prompt, generation, shifts in zip(prompts, exact, ([0.1, -0.3, math.nan], [], [0.2, 0.0]), strict=True):
        one = [
            logprob_gap(model, [prompt + generation.ids[:t]], [Generation(ids=[token], logprobs=[0.0])]).max
            for t, token in enumerate(generation.ids)
        ]
        shifted.append(Generation(ids=generation.ids, logprobs=[s - g for s, g in zip(shifts, one, strict=True)]))
    gap = logprob_gap(model, prompts, shifted)
    assert gap.max == pytest.approx(0.3, abs=1e-4)
    assert gap.mean == pytest.approx(0.15, abs=1e-4)
    assert gap.quantiles[0.5] == pytest.approx(0.15, abs=1e-4)
    assert (gap.tokens, gap.missing, gap.worst) == (4, 1, (0, 1))
    assert zero.tokens == 5
    with pytest.raises(UserError, match="token 1"):
        check_gap(gap, exact=True)
    check_gap(gap, exact=False)
    check_gap(gap, exact=True, limit=0.4)


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to compare"):
        logprob_gap(build_tiny_model(), [[3]], [Generation()])

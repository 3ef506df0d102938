"""Held-out Countdown problems: make the target from all the numbers. Made by a generator, nothing is downloaded."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from cib_rl.countdown.waste import WASTE, count_tokens
from cib_rl.errors import UserError
from cib_rl.evals.benchmarks.base import Benchmark
from cib_rl.recipe import RewardSection, TaskSection
from cib_rl.trajectory import Trajectory

PROBLEMS = 1000


def _task(data: Path | None, problems: int | None) -> TaskSection:
    if data is not None:
        if not data.is_file():
            raise UserError(f"data: no file {data}")
        return TaskSection(name="jsonl", path=str(data.resolve()))
    return TaskSection(name="countdown", split="heldout", count=problems or PROBLEMS)


def measure(trajectory: Trajectory, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """Tokens by kind of sentence (`kind/…`, see `countdown.waste`) and the waste among them."""
    counts = count_tokens(trajectory.policy_text, tokenizer)
    return {f"kind/{kind}": float(count) for kind, count in counts.items()} | {
        "waste": float(sum(counts[kind] for kind in WASTE))
    }


BENCHMARK = Benchmark(
    name="countdown",
    task=_task,
    environment={"max_completion_length": 320, "answer": "tag"},
    rewards=(RewardSection(name="countdown_correct"),),
    measure=measure,
    about="held-out Countdown problems from the generator (1,000 by default)",
)

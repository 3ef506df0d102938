"""GSM8K: 1,319 grade-school word problems (test split), answers are whole numbers (Cobbe et al. 2021)."""

from pathlib import Path

from cib_rl.evals.benchmarks.base import Benchmark, local_math_file
from cib_rl.recipe import RewardSection, TaskSection


def _task(data: Path | None, problems: int | None) -> TaskSection:
    if data is not None:
        return local_math_file(data)
    return TaskSection(
        name="hub",
        path="openai/gsm8k",
        config="main",
        split="test",
        columns={"prompt": "question"},
        answer_after="####",
    )


BENCHMARK = Benchmark(
    name="gsm8k",
    task=_task,
    environment={
        "max_completion_length": 2048,
        "suffix": "\nReason step by step and put the final answer in \\boxed{}.",
        "answer": "boxed",
    },
    rewards=(RewardSection(name="math_correct"),),
    temperature=0.6,
    top_p=0.95,
    about="GSM8K test split, 1,319 word problems (openai/gsm8k)",
)

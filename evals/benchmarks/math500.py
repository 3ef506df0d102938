"""MATH-500: 500 competition problems of the MATH test set (Hendrycks et al. 2021; split of Lightman et al. 2023)."""

from pathlib import Path

from cib_rl.evals.benchmarks.base import Benchmark, local_math_file
from cib_rl.recipe import RewardSection, TaskSection


def _task(data: Path | None, problems: int | None) -> TaskSection:
    if data is not None:
        return local_math_file(data)
    return TaskSection(
        name="hub",
        path="HuggingFaceH4/MATH-500",
        split="test",
        columns={"prompt": "problem", "id": "unique_id"},
    )


BENCHMARK = Benchmark(
    name="math500",
    task=_task,
    environment={
        "max_completion_length": 8192,
        "suffix": "\nReason step by step and put the final answer in \\boxed{}.",
        "answer": "boxed",
    },
    rewards=(RewardSection(name="math_correct"),),
    temperature=0.6,
    top_p=0.95,
    max_ungradable=0.005,  # one of the 500 golds is written as '11,\\! 111,\\! 111,\\! 100'
    about="MATH-500, 500 competition problems (HuggingFaceH4/MATH-500)",
)

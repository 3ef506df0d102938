"""One GRPO step against plain TRL's, part by part: rollout, update, whole step, and our own Python's share of a step.

Both sides train the same policy on the same prompts with the quickstart's sizes (32 prompts × 8 completions, at most
320 new tokens, no gradient checkpointing, loss dapo, one accumulation step, no reference model) and sample their own
completions, so lengths are the default's real ones: at its start, or with `--model` of a run's checkpoint, later on.
The reward is the outcome alone on both sides. They take turns in one process, warm, and the ratio is taken pair by
pair. Our decode loop has the quickstart's one thread: with more, its idle threads would slow the other side down.

    python -m bench.step --pairs 5 --model cib_rl/data/quickstart/policy
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig
from trl import GRPOTrainer as TRLTrainer

from cib_rl.countdown.checker import check_completion
from cib_rl.countdown.problems import task_rows
from cib_rl.recipe_io import load_recipe
from cib_rl.trainers import run

PROMPTS, GROUP, LIMIT = 32, 8, 320  # the quickstart's


def finish_gpu_work() -> None:
    """What was started on a GPU has ended when a clock is read."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Timed(TRLTrainer):
    """TRL's trainer with a clock around generation and around the rest of the step."""

    def _generate(self, prompts: Any) -> Any:
        started = time.perf_counter()
        result = super()._generate(prompts)
        finish_gpu_work()
        self.rollout_seconds = time.perf_counter() - started
        self.tokens = sum(len(ids) for ids in result[1])
        return result


def trl_trainer(model_path: str, folder: str, steps: int) -> Timed:
    """Plain TRL on the same task."""
    rows = task_rows(split="train", count=1024)
    by_prompt = {row["prompt"]: row for row in rows}

    def correct(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        found = [(by_prompt[p], c) for p, c in zip(prompts, completions, strict=True)]
        return [float(check_completion(c, row["numbers"], row["target"]).right) for row, c in found]

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    args = GRPOConfig(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=PROMPTS * GROUP,
        num_generations=GROUP,
        gradient_accumulation_steps=1,
        max_completion_length=LIMIT,
        temperature=1.0,
        learning_rate=1e-6,
        beta=0.0,
        loss_type="dapo",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_steps=10_000,
        lr_scheduler_type="constant",
    )
    return Timed(
        model=model,
        reward_funcs=correct,
        args=args,
        processing_class=AutoTokenizer.from_pretrained(model_path),
        train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in rows]),
    )


def one_step(trainer: Any) -> dict[str, float]:
    """Run one optimizer step by hand and time its parts (seconds)."""
    if not hasattr(trainer, "_bench_ready"):
        trainer.create_optimizer()
        trainer._bench_ready = True
        trainer.current_gradient_accumulation_steps = 1
        trainer._bench_batches = iter(trainer.get_train_dataloader())
    batch = next(trainer._bench_batches)
    started = time.perf_counter()
    trainer.training_step(trainer.model, batch, None)
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    finish_gpu_work()
    total = time.perf_counter() - started
    trainer.state.global_step += 1  # our engine's weights follow it
    metrics = trainer._metrics["train"]
    if isinstance(trainer, Timed):
        rollout, reward, tokens = trainer.rollout_seconds, 0.0, trainer.tokens
    else:
        rollout, reward = metrics["seconds/rollout"][-1], metrics["seconds/reward"][-1]
        tokens = metrics["tokens/mean"][-1] * PROMPTS * GROUP
    metrics.clear()
    return {"rollout": rollout, "reward": reward, "update": total - rollout - reward, "step": total, "tokens": tokens}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(Path(run.__file__).parents[1] / "data" / "quickstart" / "policy"))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--engine", default="transformers")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--engine-threads", default="1", help="engine.threads of our side; null: as many as --threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    steps = arguments.pairs + arguments.warmup
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            f"model={arguments.model}",
            f"output={folder}",
            "run_name=bench",
            f"trainer.steps={steps}",
            f"trainer.prompts_per_step={PROMPTS}",
            f"sampling.group_size={GROUP}",
            "trainer.learning_rate=1e-6",
            f"environment.max_completion_length={LIMIT}",
            "rewards=[{name: countdown_correct}]",
            "evaluation=null",
            f"engine.name={arguments.engine}",
            f"engine.threads={arguments.engine_threads}",
            "trainer.filter.zero_variance=off",
            "trainer.schedule=constant",
        ]
        theirs = trl_trainer(arguments.model, folder, steps)
        with run.prepare(load_recipe("quickstart", overrides)) as ours:
            pairs = []
            for index in range(steps):
                pair = (one_step(ours), one_step(theirs))
                if index >= arguments.warmup:
                    pairs.append(pair)
    print(
        f"{arguments.engine} engine, {arguments.threads} threads (our decode loop: {arguments.engine_threads}), "
        f"{len(pairs)} pairs, seconds are medians"
    )
    print("| part | cib-rl | plain TRL | ratio TRL / cib-rl, median (min to max) |\n|---|---|---|---|")
    for part in ("rollout", "update", "step"):
        ratios = [b[part] / a[part] for a, b in pairs]
        a, b = (statistics.median(pair[side][part] for pair in pairs) for side in (0, 1))
        print(
            f"| {part} | {a:.2f} s | {b:.2f} s | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) |"
        )
    tokens = [statistics.mean(pair[side]["tokens"] for pair in pairs) for side in (0, 1)]
    print(f"\nsampled tokens per step: cib-rl {tokens[0]:.0f}, TRL {tokens[1]:.0f}")


if __name__ == "__main__":
    main()

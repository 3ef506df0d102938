"""What happens around the steps: metrics to disk, held-out evaluation, a last checkpoint, a progress bar."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cib_rl.evals.runner import evaluate_policy
from cib_rl.plugin import RewardSuite
from cib_rl.progress import Bar, RunProgress
from cib_rl.recipe import Recipe
from cib_rl.rollout import Rollouts
from cib_rl.run_folder import RunFolder


class MetricsCallback(TrainerCallback):
    """One line of metrics.jsonl (and TensorBoard) per logged step; a checkpoint at the end of the run."""

    def __init__(self, folder: RunFolder, tensorboard: bool = True) -> None:
        self.folder = folder
        self.tensorboard = tensorboard
        self._writer: Any = None

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        numbers = {k: v for k, v in logs.items() if isinstance(v, (int, float)) and k not in ("epoch", "total_flos")}
        self.folder.append_metrics({"step": state.global_step, "time": time.time(), **numbers})
        if self.tensorboard:
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                # After resuming, what an earlier process wrote from this step on is hidden.
                self._writer = SummaryWriter(str(self.folder.path / "tensorboard"), purge_step=state.global_step)
            for name, value in numbers.items():
                self._writer.add_scalar(name, value, state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = True  # the last step is always kept

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._writer is not None:
            self._writer.close()


class EvaluationCallback(TrainerCallback):
    """Held-out evaluation before, during and after training, on the same engine, environment and grading."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        rollouts: Rollouts,
        suite: RewardSuite,
        base_dir: Path,
        progress: RunProgress | None = None,
    ) -> None:
        self.section = recipe.evaluation
        self.recipe = recipe
        self.folder = folder
        self.rollouts = rollouts
        self.suite = suite
        self.base_dir = base_dir
        self.progress = progress
        self.trainer: Any = None  # set by the trainer: evaluation needs its weights in the engine

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.section and self.section.before and state.global_step == 0:
            self._evaluate(0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not self.section:
            return
        last = state.global_step >= state.max_steps
        if (last and self.section.after) or (self.section.every and state.global_step % self.section.every == 0):
            self._evaluate(state.global_step)

    def _evaluate(self, step: int) -> None:
        with self.trainer.engine_in_use():
            result = evaluate_policy(self.recipe, self.rollouts, self.suite, self.base_dir, self.progress)
        summary = result.summary()
        if self.trainer.budget is not None and step == 0:
            self.trainer.budget.begin(summary.get(self.trainer.budget.counts))
        if self.trainer.accelerator.is_main_process:
            result.save(self.folder.evaluations / f"step-{step:06d}")
            numbers = {f"eval/{k}": v for k, v in summary.items() if isinstance(v, (int, float))}
            self.folder.append_metrics({"step": step, "time": time.time(), **numbers})


class ProgressCallback(TrainerCallback):
    """The training's bar, and the numbers one watches."""

    def __init__(self, progress: RunProgress) -> None:
        self.progress = progress
        self._open = ExitStack()
        self._bar: Bar | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._bar = self._open.enter_context(
            self.progress.track("training", state.max_steps, state.global_step, keep=True)
        )

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        if self._bar is not None and logs and "accuracy" in logs:
            note = f"accuracy {logs['accuracy']:.0%}, {logs['tokens/mean']:.0f} tokens"
            self._bar.update(state.global_step, note)

    def close(self) -> None:
        """Leave the terminal as it was, after an error too."""
        self._open.close()

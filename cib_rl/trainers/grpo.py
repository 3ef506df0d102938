"""GRPO: TRL's learning side under our rollout side.

The main loop is TRL's `training_step`: it asks `_prepare_inputs` for the next micro-batch, computes TRL's loss on it
and steps the optimizer. What is replaced, and nothing else:

* `_prepare_inputs`: a new window when the last one is used up, else its next micro-batch;
* `training_step`, `_compute_loss`, `_get_grad_norm`: updates that are left out (`updates.UpdatesMixin`);
* `_get_per_token_logps_and_entropies`: passes of like length without the window's padding (`logps.LogpsMixin`);
* saving and restoring (`checkpoint.CheckpointMixin`).

TRL's data loader is only a clock; its reward functions, generation and baseline are never called.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from datasets import Dataset
from trl import GRPOTrainer as TRLTrainer

from cib_rl.credit.assign import Credit
from cib_rl.credit.kl import kl_per_token, subtract_kl
from cib_rl.engines.base import Engine
from cib_rl.engines.weights import policy_tensors
from cib_rl.errors import UserError
from cib_rl.plugin import RewardFailure, Scores
from cib_rl.recipe import Recipe
from cib_rl.run_folder import RunFolder
from cib_rl.trainers.batch import Batch, pad_tokens, pad_window, split_window, take, unpad_tokens
from cib_rl.trainers.budget import Budget
from cib_rl.trainers.checkpoint import CheckpointMixin
from cib_rl.trainers.collect import Collector, NothingToLearn
from cib_rl.trainers.logps import LogpsMixin
from cib_rl.trainers.metrics import window_metrics
from cib_rl.trainers.updates import UpdatesMixin
from cib_rl.trainers.window import Window
from cib_rl.trainers.window_warnings import window_warnings

# What TRL's `_compute_loss` reads from a micro-batch; a test fails when a release reads more or less.
LOSS_KEYS = (
    "prompt_ids",
    "prompt_mask",
    "completion_ids",
    "completion_mask",
    "tool_mask",
    "advantages",
    "num_items_in_batch",
    "old_per_token_logps",
    "ref_per_token_logps",
)


def _never_called(**_: Any) -> list[float | None]:
    raise AssertionError("rewards are scored by the reward suite, not by TRL")


class GRPOTrainer(CheckpointMixin, UpdatesMixin, LogpsMixin, TRLTrainer):
    """See the module's docstring. Built by `run.train`, which turns a recipe into these parts."""

    # Set by transformers under wider types; here they are a GRPOConfig and a causal language model.
    args: Any
    model: Any

    def __init__(
        self,
        *,
        recipe: Recipe,
        collector: Collector,
        credit: Credit,
        engine: Engine,
        run_folder: RunFolder,
        **trl_arguments: Any,
    ) -> None:
        args = trl_arguments["args"]
        windows = -(-args.max_steps // recipe.trainer.steps_per_window)
        rows = windows * args.generation_batch_size // args.num_generations
        super().__init__(
            reward_funcs=_never_called,
            train_dataset=Dataset.from_dict({"prompt": [""] * max(rows, 1)}),
            **trl_arguments,
        )
        if "ref" in getattr(self.model, "peft_config", {}):
            # TRL's copy of the adapter at the start. Ours starts at 0, so the reference is the base; and transformers
            # would not restore the trained adapter from a checkpoint that holds a second one.
            self.model.delete_adapter("ref")
        if recipe.trainer.kl_in == "reward":
            self.beta = 0.0  # TRL has made the reference model; its loss is to know nothing of it
        self.recipe = recipe
        self.collector = collector
        self.credit = credit
        self.budget = Budget(recipe.budget, collector.suite.rewards) if recipe.budget else None
        self.engine = engine
        self.run_folder = run_folder
        self.keep_checkpoints = recipe.trainer.keep_checkpoints
        self._window_index = 0
        self._idle_rewards: set[str] = set()
        self._synced_step = -1
        collector.rank = self.accelerator.process_index
        collector.gather = lambda value: list(gather_object([value]))

    # ---- the rollout side -------------------------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch: Any) -> Batch:
        """The next micro-batch; each pass over a window has an order of its own."""
        micro_batches = self.args.steps_per_generation
        position = self._step % (micro_batches * self.num_iterations)
        if self._buffered_inputs is None or position == 0:
            self._buffered_inputs = self._make_window()
        iteration, index = divmod(position, micro_batches)
        window, batch = self._window, self._window["batch"]
        seed = (self.recipe.seed, window["index"], self.accelerator.process_index)
        rows = split_window(
            batch,
            optimizer_steps=self.recipe.trainer.steps_per_window,
            micro_batches=self.args.gradient_accumulation_steps,
            seed=(*seed, iteration) if iteration else seed,
        )
        self._begin_update()
        self._micro = {**take(batch, rows[index]), "num_items_in_batch": window["items"]}
        return self._micro

    def _make_window(self) -> dict[str, Any]:
        """Draw, play, score, filter, old and reference log-probabilities, credit: one window, in order."""
        section = self.recipe.trainer
        groups = section.prompts_per_step * section.steps_per_window // self.accelerator.num_processes
        # transformers makes a new state when training starts; the one at hand before stays at step 0.
        self.collector.suite.context.trainer_state = self.state
        started = time.perf_counter()
        with self.engine_in_use(), self._kept_when_a_window_fails():
            synced = time.perf_counter()
            window = self.collector.collect(groups)
        window.seconds["sync"] = synced - started
        batch = pad_window(
            window.trajectories,
            window.in_loss,
            pad_id=self._tokenizer.pad_token_id,
            multiple_of=self.args.steps_per_generation,
            device=self.accelerator.device,
        )
        scored = time.perf_counter()
        importance_BT = self._add_logps(batch)
        window.seconds["logps"] = time.perf_counter() - scored
        if "entropy" in self.credit.needs:
            entropies = unpad_tokens(batch.pop("entropies"), window.trajectories)
            for trajectory, entropy_T in zip(window.trajectories, entropies, strict=True):
                trajectory.set_track("entropy", entropy_T.tolist())
        advantages = self._credit(window, window.scores, batch)
        batch["advantages"] = pad_tokens(advantages, window.trajectories, batch) * importance_BT
        metrics = window_metrics(window, gather_object) | self.credit.metrics(gather_object)
        labels = self.collector.suite.names
        for warning in window_warnings(window.trajectories, metrics, labels, self._idle_rewards):
            self.accelerator.print(f"warning: {warning}")
        if self.budget is not None:
            metrics |= self.budget.observe(metrics, gather_object(self.budget.rows(window)))
            if warning := self.budget.warning():
                self.accelerator.print(f"warning: {warning}")
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)
        if self.recipe.logging.trajectories:
            self.run_folder.save_window(window.trajectories, self.state.global_step, self.accelerator.process_index)
        for unused in ("engine_logps", *(() if self._several_updates else ("old_per_token_logps",))):
            batch.pop(unused, None)
        # TRL's token-mean losses divide by the tokens of the whole window over all processes.
        items = self.accelerator.gather(batch["tool_mask"].sum().reshape(1)).sum()
        self._window_index += 1
        return {"batch": batch, "items": items, "index": self._window_index - 1, "stopped": False}

    def _credit(self, window: Window, scores: Scores, batch: Batch) -> list[np.ndarray]:
        """Advantages (T,) of each trajectory; PPO asks its critic first."""
        trajectories = window.trajectories
        if self.recipe.trainer.kl_in == "reward":
            kl_BT = kl_per_token(
                batch["old_per_token_logps"], batch.pop("ref_per_token_logps"), self.recipe.trainer.kl_estimator
            )
            kl = unpad_tokens(kl_BT, trajectories)
            scores = subtract_kl(trajectories, scores, kl, self.recipe.trainer.kl)
            sums = self._reduce(
                np.array([kl_BT[batch["tool_mask"].bool()].sum().item(), batch["tool_mask"].sum().item()])
            )
            self._metrics["train"]["kl_reward"].append(float(sums[0] / max(sums[1], 1)))
        advantages = self.credit.assign(trajectories, scores, self._reduce)
        for trajectory, advantage in zip(trajectories, advantages, strict=True):
            if len(advantage) == len(trajectory.completion_ids):
                trajectory.set_track("advantage", advantage.tolist())
        return advantages

    @contextmanager
    def _kept_when_a_window_fails(self) -> Iterator[None]:
        """Saves the training up to here before a window that cannot be made stops it: a reward fails or does what it
        must not, nothing is left to learn from. Resumed, the window is drawn once more.

        Of several processes all must save, so there only for what all of them raise alike.
        """
        cursor, rewards = self.collector.stream.cursor, copy.deepcopy(self.collector.suite.state_dict())
        try:
            yield
        except UserError as error:
            agreed = self.accelerator.num_processes == 1 or isinstance(error, RewardFailure | NothingToLearn)
            if not agreed or self.state.global_step == 0:  # at step 0 nothing is learnt yet
                raise
            self.collector.stream.cursor = cursor
            self.collector.suite.load_state_dict(rewards)
            self._save_checkpoint(self.model_wrapped, None)
            folder = self.run_folder.path
            raise type(error)(f"{error}. Mend it and go on: cib-rl train --resume {folder}") from error

    @contextmanager
    def engine_in_use(self) -> Iterator[None]:
        """The engine awake and with the policy's weights; asleep again afterwards where the recipe asks for it."""
        self.engine.wake()
        if self._synced_step != self.state.global_step:
            model = self.accelerator.unwrap_model(self.model_wrapped)
            self.engine.sync_weights(policy_tensors(model), version=self.state.global_step)
            self._synced_step = self.state.global_step
        yield
        if self.recipe.engine.sleep:
            self.engine.sleep()

    def _reduce(self, sums: np.ndarray) -> np.ndarray:
        return np.sum(gather_object([sums]), axis=0)


def completions_per_process(recipe: Recipe, processes: int) -> int:
    """Completions of one optimizer step on one process.

    Raises UserError when groups would be split across processes, or the micro-batch does not divide the share.
    """
    section = recipe.trainer
    if section.prompts_per_step % processes:
        raise UserError(
            f"trainer.prompts_per_step: {section.prompts_per_step} groups cannot be shared whole among {processes} "
            f"processes; use a multiple of {processes}"
        )
    share = section.prompts_per_step // processes * recipe.sampling.group_size
    micro = min(section.micro_batch_size or share, share)
    if share % micro:
        raise UserError(
            f"trainer.micro_batch_size: {micro} does not divide the {share} completions of a process and step"
        )
    return share

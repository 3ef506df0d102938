"""From a recipe to a finished run folder. Read `train` from top to bottom: each line is one room of the house."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging as transformers_logging

from cib_rl.credit.assign import Credit
from cib_rl.engines.base import Sampling
from cib_rl.engines.factory import make_engine
from cib_rl.environments.factory import make_environment
from cib_rl.errors import UserError
from cib_rl.evals.runner import evaluation_rows
from cib_rl.models import load_policy, load_tokenizer, resolve_model, unsharded, with_adapter
from cib_rl.plugin import RewardContext, RewardSuite
from cib_rl.preflight import check_budget, check_outcomes, check_prompts, check_rows, lost_to_rounding
from cib_rl.progress import RunProgress
from cib_rl.recipe import Recipe
from cib_rl.recipe_io import dump_recipe
from cib_rl.rollout import Rollouts
from cib_rl.run_folder import RunFolder, require_folder, require_free
from cib_rl.tasks import TaskStream, load_rows
from cib_rl.trainers.callbacks import EvaluationCallback, MetricsCallback, ProgressCallback
from cib_rl.trainers.checkpoint import check_processes, find_checkpoint, verify_checkpoint
from cib_rl.trainers.collect import Collector
from cib_rl.trainers.critic_model import load_critic
from cib_rl.trainers.grpo import GRPOTrainer
from cib_rl.trainers.ppo import PPOTrainer
from cib_rl.trainers.processes import import_before_joining
from cib_rl.trainers.trl_arguments import launched_with_deepspeed, trl_arguments

logger = logging.getLogger(__name__)


def train(
    recipe: Recipe,
    *,
    base_dir: Path | None = None,
    resume: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    progress: bool = True,
) -> Path:
    """Train what `recipe` says and return the run folder.

    Args:
        recipe: the resolved recipe.
        base_dir: relative paths of the recipe start here (default: the working directory).
        resume: a run folder or checkpoint to go on from; what was logged after that checkpoint is cut off.
        callbacks: further transformers callbacks.
        progress: show progress and the time left: bars in a terminal, a line every half minute elsewhere.

    Raises UserError for anything the user can mend, before the first step where that can be known.
    """
    checkpoint = find_checkpoint(resume) if resume is not None else None
    if checkpoint is not None and (done := verify_checkpoint(checkpoint)) >= recipe.trainer.steps:
        raise UserError(
            f"{checkpoint} is the end of a finished run ({done} of {recipe.trainer.steps} steps): nothing is left to "
            "train; raise trainer.steps to go on"
        )
    shown = RunProgress() if progress and os.environ.get("RANK", "0") == "0" else None
    with (
        prepare(recipe, base_dir=base_dir, checkpoint=checkpoint, callbacks=callbacks, progress=shown) as trainer,
        ExitStack() as bars,
    ):
        if shown is not None:
            bar = ProgressCallback(shown)
            bars.callback(bar.close)
            trainer.add_callback(bar)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        return trainer.run_folder.path


@contextmanager
def prepare(
    recipe: Recipe,
    *,
    base_dir: Path | None = None,
    checkpoint: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    progress: RunProgress | None = None,
) -> Iterator[GRPOTrainer]:
    """Everything `train` needs, put together and taken down again; the trainer has not made a step yet."""
    base_dir = base_dir or Path.cwd()
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        import_before_joining()
    arguments = trl_arguments(recipe, processes, base_dir)
    state = PartialState()  # as the arguments made it: they know of CPUs and of DeepSpeed
    if state.num_processes != processes:
        raise UserError(f"{processes} processes were started, but {state.num_processes} found each other")
    transformers_logging.disable_progress_bar()
    if recipe.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    reference = resolve_model(recipe.model, base_dir)
    tokenizer = load_tokenizer(
        resolve_model(recipe.tokenizer, base_dir, "tokenizer") if recipe.tokenizer else reference
    )
    rows = load_rows(recipe.task, base_dir)
    held_out = evaluation_rows(recipe, base_dir) if recipe.evaluation else []
    context = RewardContext(
        tokenizer=tokenizer,
        device=state.device,
        seed=recipe.seed,
        base_dir=base_dir,
        deterministic=recipe.deterministic,
        max_completion_length=recipe.environment.max_completion_length,
    )
    with ExitStack() as opened:  # closed in the opposite order, whatever fails
        environment = make_environment(recipe.environment, tokenizer, base_dir)
        opened.callback(getattr(environment, "close", _nothing))
        credit = Credit(recipe.credit, context)
        check_budget(recipe, check_outcomes(recipe, base_dir))
        check_prompts(environment, rows)
        check_prompts(environment, held_out, evaluation=True)
        if state.is_main_process and not launched_with_deepspeed() and (lost := lost_to_rounding(recipe)):
            logger.warning(lost)
        if checkpoint is not None:
            check_processes(checkpoint, state.num_processes)
        elif state.is_main_process:
            output = base_dir / recipe.output
            require_free(output / recipe.run_name) if recipe.run_name else require_folder(output)
        with unsharded():  # a reward's model, e.g. the prior
            suite = opened.enter_context(closing(RewardSuite(recipe.rewards, context, recipe.success)))
        getattr(environment, "check", _nothing)()
        reports = check_rows(recipe, rows, suite)
        check_rows(recipe, held_out, suite, evaluation=True)
        # What the recipe lets pass is not trained on: most completions could not be graded against such a gold.
        ungradable = {bad.index for report in reports for bad in report.ungradable}
        rows = [row for index, row in enumerate(rows) if index not in ungradable]
        plain = opened.enter_context(_plain_model(recipe, reference))
        model = _make_policy(recipe, reference)
        if recipe.lora is None:
            model.config._name_or_path = plain  # TRL loads the reference model from there
        make: Callable[..., GRPOTrainer] = GRPOTrainer
        if recipe.critic is not None:
            make = partial(PPOTrainer, critic_model=_make_critic(recipe, plain, base_dir, tokenizer))
        engine = opened.enter_context(closing(make_engine(recipe, plain, model, tokenizer)))
        # Only now: what fails before leaves no folder behind.
        folder = _open_folder(recipe, base_dir, checkpoint, state, progress)
        arguments.output_dir = str(folder.path)
        rollouts = Rollouts(environment, engine, tokenizer, recipe.environment.answer)
        collector = Collector(
            TaskStream(rows, recipe.seed),
            rollouts,
            suite,
            group_size=recipe.sampling.group_size,
            sampling=_sampling(recipe),
            seed=recipe.seed,
            filtering=recipe.trainer.filter,
            mask_truncated=recipe.trainer.mask_truncated,
        )
        evaluation = EvaluationCallback(recipe, folder, rollouts, suite, base_dir, progress)
        trainer = make(
            recipe=recipe,
            collector=collector,
            credit=credit,
            engine=engine,
            run_folder=folder,
            model=model,
            args=arguments,
            processing_class=tokenizer,
            callbacks=[MetricsCallback(folder, recipe.logging.tensorboard), evaluation, *callbacks],
        )
        trainer.remove_callback(PrinterCallback)  # metrics go to files; the console has the progress bar
        evaluation.trainer = trainer
        context.trainer_state = trainer.state
        if checkpoint is not None:
            trainer.restore(checkpoint)
        yield trainer


def _open_folder(
    recipe: Recipe, base_dir: Path, checkpoint: Path | None, state: PartialState, progress: RunProgress | None
) -> RunFolder:
    """A new run folder, or the checkpoint's own with everything logged after the checkpoint cut off."""
    if checkpoint is not None:
        folder = RunFolder.of(checkpoint)
        if state.is_main_process:
            step = verify_checkpoint(checkpoint)
            folder.cut_after(step)
            changed = folder.take_recipe(dump_recipe(recipe), step)
            if changed and progress is not None:
                text = "\n  ".join([f"going on from step {step} with another recipe than before:", *changed])
                progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
    else:
        # The main process names and makes the folder; the others learn its path.
        path: list[Any] = [None]
        if state.is_main_process:
            path[0] = RunFolder.create(
                base_dir / recipe.output, recipe.run_name, recipe.source_name, dump_recipe(recipe), recipe.seed
            ).path
        if state.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(path)
        folder = RunFolder(path[0])
    state.wait_for_everyone()
    return folder


@contextmanager
def _plain_model(recipe: Recipe, reference: str) -> Iterator[str]:
    """`reference`, or where it is a LoRA folder and vLLM, the reference model or the critic must load it: a merged copy
    of it."""
    needed = (
        recipe.engine.name == "vllm" or (recipe.trainer.kl > 0 and recipe.lora is None) or recipe.critic is not None
    )
    if not needed or not (Path(reference) / "adapter_config.json").is_file():
        yield reference
        return
    with tempfile.TemporaryDirectory(prefix="cib-rl-merged-") as folder:
        with unsharded():
            load_policy(reference, recipe.trainer.dtype).save_pretrained(folder)
        yield folder


def _make_policy(recipe: Recipe, reference: str) -> Any:
    """The trainable policy; with `lora`, wrapped in a fresh adapter."""
    model = load_policy(reference, recipe.trainer.dtype)
    model.config._name_or_path = reference
    if recipe.lora is None:
        return model
    return with_adapter(model, recipe.lora, recipe.seed, "CAUSAL_LM")


def _nothing() -> None:
    """For environments without `check` or `close`."""


def _make_critic(recipe: Recipe, policy: str, base_dir: Path, tokenizer: Any) -> Any:
    """The critic's model, whole on every process; None where it is a head on the policy."""
    assert recipe.critic is not None
    if recipe.critic.backbone == "policy":
        return None
    with unsharded():
        return load_critic(recipe, policy, base_dir, tokenizer)


def _sampling(recipe: Recipe) -> Sampling:
    section = recipe.sampling
    return Sampling(
        max_tokens=recipe.environment.max_completion_length,
        temperature=section.temperature,
        top_p=section.top_p,
        top_k=section.top_k,
        min_p=section.min_p,
        repetition_penalty=section.repetition_penalty,
        min_tokens=section.min_tokens,
        timeout=recipe.environment.timeout,
    )

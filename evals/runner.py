"""Evaluating a model on a benchmark, and a policy in the middle of its training: the same rows to the same result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from cib_rl.engines.base import Engine, Sampling
from cib_rl.engines.pump import sampling_problem
from cib_rl.environments.factory import make_environment
from cib_rl.errors import UserError
from cib_rl.evals.benchmarks import benchmark_names, get_benchmark
from cib_rl.evals.fingerprints import model_fingerprint, rows_fingerprint
from cib_rl.evals.recipe_benchmark import from_recipe, recipe_of
from cib_rl.evals.report import require_same_questions
from cib_rl.evals.result import EvalResult
from cib_rl.evals.scoring import score_rows
from cib_rl.grading.selfcheck import check_golds
from cib_rl.models import load_policy, load_tokenizer, resolve_model
from cib_rl.plugin import RewardContext, RewardSuite
from cib_rl.preflight import check_prompts
from cib_rl.progress import RunProgress
from cib_rl.recipe import EngineSection, Recipe
from cib_rl.recipe_problems import validated
from cib_rl.rollout import Rollouts
from cib_rl.tasks import Row, load_rows


def evaluate(
    model_ref: str,
    benchmark: str,
    *,
    samples: int | None = None,
    problems: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    seed: int = 1234,
    engine: str = "transformers",
    data: str | Path | None = None,
    output: str | Path | None = None,
    environment: Mapping[str, Any] | None = None,
    engine_options: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    deterministic: bool = False,
    max_ungradable: float | None = None,
    max_error_share: float = 0.05,
    before: EvalResult | None = None,
    progress: RunProgress | None = None,
) -> EvalResult:
    """Generate and grade answers to each problem, save them, and return them.

    Args:
        model_ref: hub id, model folder, run folder (its newest checkpoint) or checkpoint, or `shipped:NAME`.
        benchmark: a shipped name, `package.module:NAME`, or a recipe (name, file, run folder) whose evaluation it is.
        samples: answers to each problem; default: the benchmark's.
        problems: the first so many; default: all, or what the recipe says.
        temperature, top_p, max_tokens: default: the benchmark's.
        engine: `transformers` or `vllm`.
        data: a local file instead of the benchmark's own source.
        output: folder for the result, which must not exist; None saves nothing.
        environment: keys of the benchmark's environment to change (suffix, system, answer, chat_template, ...).
        engine_options: keys of the recipe's engine section (max_num_seqs, gpu_memory_utilization, ...).
        dtype: default: bfloat16 on a GPU, float32 without.
        max_ungradable: share of rows allowed whose gold answer does not grade as right; default: the benchmark's.
        max_error_share: share of samples allowed to be errors; more is a UserError, after saving.
        before: an earlier result that the new one shall be compared with: refused if its questions are others.
        progress: where to show how far it is.

    Raises UserError for anything the user can mend, before generating where that can be known.
    """
    if samples is not None and samples < 1:
        raise UserError(f"samples must be at least 1, got {samples}")
    target = Path(output) if output is not None else None
    if target is not None and target.exists():
        raise UserError(f"{target} exists; give another output folder")
    recipe = recipe_of(benchmark)
    chosen = get_benchmark(benchmark) if recipe is None else from_recipe(recipe, benchmark)
    changes = dict(environment or {}) | ({} if max_tokens is None else {"max_completion_length": max_tokens})
    asked = chosen.environment_section(changes)
    rows = chosen.rows(Path(data) if data is not None else None, problems)
    require_kinds(rows, chosen.by)
    section = engine_section(engine, {**(engine_options or {}), **({} if dtype is None else {"dtype": dtype})})
    sampling = Sampling(
        max_tokens=asked.max_completion_length,
        temperature=chosen.temperature if temperature is None else temperature,
        top_p=chosen.top_p if top_p is None else top_p,
        timeout=asked.timeout,
    )
    if wrong := sampling_problem(sampling):
        raise UserError(wrong)
    rows_version = rows_fingerprint(rows)
    if before is not None:
        require_same_questions(
            before.questions, [row["id"] for row in rows], (before.versions.get("rows"), rows_version)
        )
    reference = resolve_model(model_ref, Path.cwd())
    tokenizer = load_tokenizer(reference)
    built = make_environment(asked, tokenizer)
    context = RewardContext(
        tokenizer=tokenizer, seed=seed, deterministic=deterministic, max_completion_length=asked.max_completion_length
    )
    with ExitStack() as stack:
        if (close := getattr(built, "close", None)) is not None:
            stack.callback(close)
        if (check := getattr(built, "check", None)) is not None:
            check()
        check_prompts(built, rows)
        suite = stack.enter_context(closing(RewardSuite(chosen.rewards, context, chosen.success)))
        suite.check_rows(rows)
        check_benchmark_golds(rows, suite, chosen.max_ungradable if max_ungradable is None else max_ungradable)
        running = stack.enter_context(
            closing(start_engine(section, reference, tokenizer, deterministic=deterministic, seed=seed))
        )
        result = score_rows(
            rows,
            Rollouts(built, running, tokenizer, asked.answer),
            suite,
            chosen.samples if samples is None else samples,
            seed,
            sampling=sampling,
            measure=chosen.measure,
            by=chosen.by,
            settings={
                "benchmark": chosen.name,
                "model": model_ref,
                "data": str(data) if data is not None else None,
                "problems": len(rows),
                "environment": asked.model_dump(),
                "engine": section.model_dump(),
                "deterministic": deterministic,
            },
            versions={"model": model_fingerprint(reference), "rows": rows_version},
            progress=progress,
        )
    if target is not None:
        result.save(target)
    result.require_graded(max_error_share)
    return result


def evaluate_policy(
    recipe: Recipe, rollouts: Rollouts, suite: RewardSuite, base_dir: Path, progress: RunProgress | None = None
) -> EvalResult:
    """The recipe's held-out evaluation with the engine, environment and rewards of training. Called by every process.

    Raises UserError for what `evaluation_rows` refuses, or when too many samples are errors.
    """
    section = recipe.evaluation
    rows = evaluation_rows(recipe, base_dir)
    assert section is not None and section.task is not None
    known = section.task.name in benchmark_names()
    sampling = Sampling(
        max_tokens=recipe.environment.max_completion_length,
        temperature=section.temperature,
        top_p=section.top_p,
        timeout=recipe.environment.timeout,
    )
    result = score_rows(
        rows,
        rollouts,
        suite,
        section.samples,
        section.seed,
        sampling=sampling,
        measure=get_benchmark(section.task.name).measure if known else None,
        by=section.by,
        settings={
            "benchmark": section.task.name,
            "model": recipe.model,
            "data": section.task.path,
            "problems": len(rows),
            "environment": recipe.environment.model_dump(),
            "engine": recipe.engine.model_dump(),
            "deterministic": recipe.deterministic,
            "weights_version": rollouts.engine.weights_version,
        },
        versions={"rows": rows_fingerprint(rows)},
        progress=progress,
    )
    result.require_graded()
    return result


def evaluation_rows(recipe: Recipe, base_dir: Path) -> list[Row]:
    """The rows the recipe's held-out evaluation asks.

    Raises UserError when `evaluation.task` is missing, cannot be loaded, lacks the column `by`, or holds fewer rows
    than `problems` asks for in the recipe (where the recipe leaves `problems` to its default, all rows will do).
    """
    section = recipe.evaluation
    if section is None or section.task is None:
        raise UserError("evaluation.task is missing: name the held-out rows")
    try:
        rows = load_rows(section.task, base_dir)
    except UserError as error:
        raise UserError(f"evaluation: {error}") from error
    require_kinds(rows, section.by)
    if len(rows) < section.problems and "problems" in section.model_fields_set:
        raise UserError(f"evaluation.problems asks for {section.problems} problems, evaluation.task holds {len(rows)}")
    return rows[: section.problems]


def require_kinds(rows: Sequence[Row], by: str | None) -> None:
    """Raises UserError for a row without the column that tells kinds of question apart."""
    lacking = next((row for row in rows if by is not None and row.get(by) is None), None)
    if lacking is not None:
        raise UserError(f"evaluation.by: row {lacking['id']!r} has no column {by!r}; it has {', '.join(lacking)}")


def engine_section(name: str, options: Mapping[str, Any] | None = None) -> EngineSection:
    """The engine's settings, checked. Raises UserError for an unknown engine or key."""
    return validated(EngineSection, {**(options or {}), "name": name}, "engine")


def start_engine(
    section: EngineSection,
    reference: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    deterministic: bool,
    seed: int,
) -> Engine:
    """An engine that holds the weights of `reference` (resolved), by default in bfloat16 on a GPU, else in float32."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = section.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    if section.name == "transformers":
        from cib_rl.engines.transformers import TransformersEngine

        return TransformersEngine(
            load_policy(reference, dtype).to(device).eval(),  # type: ignore[arg-type]
            tokenizer,
            max_num_seqs=section.max_num_seqs,
            max_model_len=section.max_model_len,
            threads=section.threads,
            deterministic=deterministic,
        )
    if (Path(reference) / "adapter_config.json").is_file():
        raise UserError(f"{reference} is a LoRA adapter: use --engine transformers, or merge it into its base first")
    from cib_rl.engines.vllm import VLLMEngine

    section = section.model_copy(update={"dtype": dtype})
    return VLLMEngine(reference, tokenizer, section, deterministic=deterministic, seed=seed)


def check_benchmark_golds(rows: Sequence[Row], suite: RewardSuite, max_ungradable: float) -> None:
    """Grade every gold answer against itself, where a reward can. Raises UserError above the share allowed."""
    for reward in suite.rewards:
        grade = getattr(reward.target, "grade_golds", None)
        if reward.kind == "outcome" and grade is not None:
            check_golds(rows, grade, allowed_share=max_ungradable, cache_dir=None, key="max_ungradable")

"""`cib-rl eval`: around `cib_rl.evals.runner.evaluate` a folder for the result, tables, a comparison.

Heavy imports stay inside.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hub id, folder, run, checkpoint, or shipped:NAME.")],
    benchmark: Annotated[
        str,
        typer.Option(
            help="countdown, gsm8k, math500, package.module:NAME; or a recipe (a shipped name, a file, a run folder), "
            "whose held-out evaluation it is."
        ),
    ],
    samples: Annotated[
        int | None, typer.Option(metavar="N", help="Answers per problem; default: 1, or the recipe's.")
    ] = None,
    problems: Annotated[
        int | None,
        typer.Option(metavar="N", help="Use the first N problems; default: all (countdown: 1,000), or the recipe's."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0: the likeliest token. Default: 1 for countdown, the recipe's, else 0.6.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="Default: 1 for countdown, the recipe's, else 0.95.")] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", help="Limit of an answer; default: countdown 320, gsm8k 2,048, math500 8,192."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 1234,
    engine: Annotated[str, typer.Option(help="transformers or vllm.")] = "transformers",
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="JSON Lines of problem (or question) and answer instead of the benchmark's source."
        ),
    ] = None,
    environment: Annotated[
        list[str] | None,
        typer.Option(
            "--environment",
            metavar="KEY=VALUE",
            help="Change a key of the section `environment`, e.g. \"suffix=''\" or retriever.url=…; may be repeated.",
        ),
    ] = None,
    engine_options: Annotated[
        list[str] | None,
        typer.Option(
            "--engine-option",
            metavar="KEY=VALUE",
            help="Change a key of the recipe's section `engine`, e.g. max_num_seqs=64; may be repeated.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16; default: bfloat16 on a GPU, float32 without."),
    ] = None,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="Fixed batches: runs repeat exactly.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="New folder for the result; default: runs/eval-BENCHMARK-TIME."),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(metavar="RESULT", help="Folder of an earlier result of the same problems to compare with."),
    ] = None,
) -> None:
    """Evaluate a model on a benchmark, with 95% intervals.

    Accuracy, pass@k, tokens, turns and truncated share; every sample is saved.
    """
    from cib_rl.overrides import as_pairs
    from cib_rl.samples.options import as_mapping

    run_evaluation(
        model,
        benchmark,
        output=output,
        compare=compare,
        samples=samples,
        problems=problems,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        seed=seed,
        engine=engine,
        data=data,
        environment={key: value for key, value, _ in as_pairs(environment or [], "--environment")},
        engine_options=as_mapping(engine_options, "--engine-option"),
        dtype=dtype,
        deterministic=deterministic,
    )


def run_evaluation(model: str, benchmark: str, *, output: Path | None, compare: Path | None, **options: Any) -> Path:
    """Evaluate, save, print; returns the result's folder.

    Args:
        output: new folder; default: `runs/eval-BENCHMARK-TIME`.
        compare: an earlier result of the same questions; its comparison is saved beside the new result.
        options: those of `evaluate`.
    """
    from transformers.utils import logging as transformers_logging

    from cib_rl.evals.report import compare as compare_results
    from cib_rl.evals.report import print_summary, save_comparison
    from cib_rl.evals.result_io import load_result
    from cib_rl.evals.runner import evaluate
    from cib_rl.progress import RunProgress

    before = load_result(compare) if compare is not None else None  # a wrong path shows before an hour of sampling
    if before is not None:
        before.require_graded()
    transformers_logging.disable_progress_bar()  # there is one of our own
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = (
        output if output is not None else Path("runs") / f"eval-{re.sub(r'[^A-Za-z0-9._-]+', '_', benchmark)}-{stamp}"
    )
    result = evaluate(model, benchmark, output=folder, before=before, progress=RunProgress(), **options)
    print_summary(result)
    if before is not None:
        comparison = compare_results(before, result)
        comparison.print()
        save_comparison(comparison, folder)
    print(f"saved in {folder}")
    return folder

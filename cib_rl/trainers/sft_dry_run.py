"""`cib-rl sft RECIPE --dry-run`: the resolved recipe, the rows as they would be learned, memory, and every check."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from cib_rl.checks import Findings
from cib_rl.checks_rewards import Status
from cib_rl.dry_run import new_console, print_checks, print_memory
from cib_rl.errors import UserError
from cib_rl.memory import Shape, estimate_supervised, shape_from_name, shape_of_config
from cib_rl.recipe_io import dump_recipe
from cib_rl.run_folder import require_folder
from cib_rl.spans import decode
from cib_rl.trainers.sft import CHUNK, demonstrations, encode, read, starts
from cib_rl.trainers.sft_data import Example
from cib_rl.trainers.sft_model import (
    check_fit,
    make_optimizers,
    make_tokenizer,
    model_reference,
    new_config,
    tokenizer_reference,
)
from cib_rl.trainers.sft_rows import Data
from cib_rl.trainers.sft_settings import SFTModel, SFTSettings

_SHOWN = 600  # characters of one piece of a row


@dataclass
class _Plan:
    """What the checks of one model have learned so far."""

    name: str
    settings: SFTModel
    earlier: frozenset[Path]  # folders that the recipe makes before this model
    data: Data | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    examples: list[Example] | None = None
    shape: Shape | None = None
    states: int = 0  # numbers that the optimizers keep


def dry_run_sft(settings: SFTSettings, *, resume: bool = False, console: Console | None = None) -> bool:
    """Print what supervised training by `settings` would mean; nothing is trained, downloaded or written.

    Returns True when no check failed.
    """
    console = console or new_console()
    console.print(dump_recipe(settings), markup=False, highlight=False)
    found = Findings()
    found.run("output", lambda: _output(settings, resume))
    earlier: set[Path] = set()
    for name, model in settings.models.items():
        plan = _Plan(name, model, frozenset(earlier))
        earlier.add((settings.output / name).resolve())
        _check(plan, found)
        _show(plan, console)
    return print_checks(console, found)


def _check(plan: _Plan, found: Findings) -> None:
    found.run(f"{plan.name}: data", lambda: _data(plan))
    if found.failed(f"{plan.name}: data"):
        return
    found.run(f"{plan.name}: tokenizer", lambda: _tokenizer(plan))
    if plan.tokenizer is not None:
        found.run(f"{plan.name}: rows", lambda: _rows(plan))
        found.run(f"{plan.name}: model", lambda: _model(plan))


def _output(settings: SFTSettings, resume: bool) -> tuple[Status, str]:
    require_folder(settings.output)
    to_train = starts(settings, resume)
    if not resume:
        return "ok", str(settings.output)
    how = {name: f"goes on from {copy.name}" if copy else "starts anew" for name, copy in to_train.items()}
    return "ok", "; ".join(f"{name} {how.get(name, 'is finished')}" for name in settings.models)


def _data(plan: _Plan) -> tuple[Status, str]:
    plan.data = read(plan.settings)
    if plan.data is None:
        return "ok", f"demonstrations of {plan.settings.data}, fresh without end"
    return "ok", "; ".join([f"{len(plan.data.rows):,} rows: {plan.data.kind}", *plan.data.notes])


def _tokenizer(plan: _Plan) -> tuple[Status, str]:
    settings = plan.settings
    source = settings.tokenizer or settings.model
    if source and Path(source).resolve() in plan.earlier and not Path(source).exists():
        return "unchecked", f"{source} is made by this recipe before"
    reference = tokenizer_reference(settings)
    if reference is not None and not Path(reference).is_dir():
        return "unchecked", f"no folder {reference}; would be downloaded from the hub"
    plan.tokenizer = make_tokenizer(settings, plan.data)
    template = "with" if plan.tokenizer.chat_template else "without"
    made = "" if reference else ", new"
    return "ok", f"{len(plan.tokenizer):,} tokens{made}, eos {plan.tokenizer.eos_token!r}, {template} chat template"


def _rows(plan: _Plan) -> tuple[Status, str]:
    settings = plan.settings
    assert plan.tokenizer is not None
    if plan.data is None:
        plan.examples, notes = list(islice(demonstrations(settings, plan.tokenizer), CHUNK)), [f"of {CHUNK} drawn here"]
    else:
        plan.examples, notes = encode(plan.data, settings, plan.tokenizer)
        notes = notes[len(plan.data.notes) :]
    lengths = [len(example.ids) for example in plan.examples]
    learned = sum(example.learned for example in plan.examples)
    return "ok", "; ".join(
        [
            f"{len(lengths):,} contexts of {min(lengths):,} to {max(lengths):,} tokens, {sum(lengths):,} in all",
            f"{learned:,} ({learned / sum(lengths):.1%}) learned",
            *notes,
        ]
    )


def _model(plan: _Plan) -> tuple[Status, str]:
    """That the model can be read and has room for tokens and rows; its weights are made on no device."""
    settings = plan.settings
    assert plan.tokenizer is not None
    reference = model_reference(settings)
    if reference is None:
        config, where = new_config(settings.shape, plan.tokenizer), "new"
    elif not Path(reference).is_dir():
        plan.shape = shape_from_name(reference)
        plan.states = 2 * plan.shape.parameters if plan.shape else 0
        return "unchecked", f"no folder {reference}; would be downloaded from the hub"
    elif not (Path(reference) / "config.json").is_file():
        return "unchecked", f"{reference}: a LoRA adapter, merged into its base when it is loaded"
    else:
        try:
            config, where = AutoConfig.from_pretrained(reference), reference
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{reference} cannot be read as a causal language model: {error}") from None
    plan.shape = shape_of_config(config)
    check_fit(settings, plan.shape.vocabulary, plan.shape.max_positions, plan.tokenizer)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    for optimizer in make_optimizers(model, settings):
        numbers = sum(weight.numel() for group in optimizer.param_groups for weight in group["params"])
        plan.states += numbers * (2 if isinstance(optimizer, torch.optim.AdamW) else 1)  # Muon keeps the momentum alone
    return "ok", f"{where}: {plan.shape.parameters / 1e6:,.1f} M parameters"


def _show(plan: _Plan, console: Console) -> None:
    settings = plan.settings
    rows = settings.steps * settings.batch_size
    line = f"{plan.name}: {settings.steps:,} steps, each {settings.batch_size:,} contexts, {rows:,} in all"
    if plan.data is not None and plan.examples:
        line += f": {rows / len(plan.examples):,.1f} times the {len(plan.examples):,} there are"
    console.print(line, markup=False, highlight=False)
    if plan.examples and plan.tokenizer is not None:
        console.print(_table_of(plan.examples[0], plan.tokenizer, f"{plan.name}: the first context"))
    if plan.shape is None:
        console.print("memory: no estimate, the model's size is not known")
        return
    tokens = max(settings.micro_batch_tokens, max((len(example.ids) for example in plan.examples or []), default=0))
    items = estimate_supervised(plan.shape, states=plan.states, tokens=tokens, autocast=settings.autocast_bf16)
    print_memory(console, items, f"{plan.name}: memory of the device: an estimate, not a measurement")


def _table_of(example: Example, tokenizer: PreTrainedTokenizerBase, title: str) -> Table:
    """The example in pieces: those that are learned, and those that are only read."""
    table = Table("", "tokens", "text", title=title)
    edges = sorted({0, len(example.ids), *(edge for span in example.spans for edge in span)})
    starts_learned = {start for start, _ in example.spans}
    for start, end in pairwise(edges):
        own = start in starts_learned
        text = decode(tokenizer, example.ids[start:end])
        if len(text) > _SHOWN:
            text = f"{text[: _SHOWN // 2]} … {text[-_SHOWN // 2 :]}"
        table.add_row("learned" if own else "read", f"{end - start:,}", escape(text), style="bold" if own else "dim")
    return table

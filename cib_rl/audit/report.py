"""An audit as a table, and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cib_rl.audit.audit import Audit
from cib_rl.audit.verdict import headroom, verdict
from cib_rl.samples.show import estimate


def print_audit(audit: Audit, console: Console | None = None) -> None:
    """Show the numbers, then the verdict."""
    console = console or Console(emoji=False)
    few, many = audit.per_problem
    each = f"{few}" if few == many else f"{few} to {many}"
    console.print(
        f"[bold]{audit.problems:,} problems[/] × {each} sample{'s' if many > 1 else ''}: {escape(audit.source)}"
        + (f" ({audit.left_out:,} completions left out: they failed or could not be judged)" if audit.left_out else "")
    )
    for note in audit.notes:
        console.print(f"  {note}", highlight=False, markup=False)  # patterns are full of brackets
    made = Table(box=None, show_header=False, title="\nBrackets: 95% intervals over problems", title_justify="left",
                 title_style="dim", pad_edge=False)  # fmt: skip
    for name, value in _lines(audit):
        made.add_row(f"  {name}", escape(value))
    console.print(made)
    console.print("\n[bold]Verdict[/]")
    for sentence in verdict(audit):
        console.print(f"  {escape(sentence)}", highlight=False)


def _lines(audit: Audit) -> list[tuple[str, str]]:
    groups, short, gap, after = audit.groups_by_outcome, audit.shortest, audit.gap, audit.after
    lines = [
        ("right", estimate(audit.accuracy, as_share=True)),
        ("cut off", estimate(audit.truncated, as_share=True)),
        ("all right / mixed / all wrong", f"{groups.all_right:,} / {groups.mixed:,} / {groups.all_wrong:,} problems"),
        ("mixed", estimate(groups.share, as_share=True)),
        ("tokens, right / wrong", f"{estimate(gap.right)} / {estimate(gap.wrong)}"),
        ("wrong − right, within problems", f"{estimate(gap.within)} tokens"),
        ("  relative", estimate(gap.relative, as_share=True)),
        ("mean right answer", f"{estimate(short.mean)} tokens ({short.problems:,} problems)"),
        ("shortest right answer", f"{estimate(short.shortest)} tokens"),
        ("  shorter by", estimate(short.saving, as_share=True)),
        ("tokens after the answer appears", estimate(after.share, as_share=True)),
        ("  looked at", f"{after.looked_at:,} right ones; left out: {after.in_prompt:,} with the answer in the prompt, "
                        f"{after.unread:,} unread"),
    ]  # fmt: skip
    if audit.cost is None:
        return [*lines, ("cost against length", "no prior named (--prior)")]
    cost = audit.cost
    lines += [
        ("surprisal, nats per token", estimate(cost.per_token)),
        ("cost against length, τ within", estimate(cost.agreement)),
        ("  among right answers", estimate(cost.agreement_right)),
    ]
    return [*lines, ("  without a cost", f"{cost.failed:,} completions")] if cost.failed else lines


def write_json(audit: Audit, path: Path) -> Path:
    """Write the numbers (not the single completions) and the verdict."""
    kept = ("source", "notes", "left_out", "problems", "per_problem", "accuracy", "truncated", "groups_by_outcome",
            "shortest", "gap", "after", "cost")  # fmt: skip
    record: dict[str, Any] = {name: value for name, value in asdict(audit).items() if name in kept}
    record |= {"headroom": headroom(audit), "verdict": verdict(audit)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_without_arrays(record), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _without_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_arrays(v) for k, v in value.items() if not isinstance(v, np.ndarray)}
    return value

"""A trial in words and tables."""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cib_rl.samples.show import estimate, number, share, short, table
from cib_rl.tryout.hacks import ProbeResult
from cib_rl.tryout.measures import QUANTILES
from cib_rl.tryout.reversals import Reversals
from cib_rl.tryout.trial import Trial

_WORST = 3  # reversals shown


def print_trial(trial: Trial, console: Console | None = None, *, rows: int = 5) -> None:
    """Show everything; `rows` completions from the start, and as many with the lowest reward."""
    console = console or Console(emoji=False)
    samples = trial.samples
    console.print(
        f"[bold]{escape(trial.label)}[/] ({trial.kind}, weight {trial.weight:g}) on {len(trial.trajectories):,} "
        f"completions of {samples.problems:,} problems: {escape(str(samples.source))}"
    )
    for note in trial.notes:
        console.print(f"  {note}", highlight=False, markup=False)  # patterns are full of brackets
    if trial.agreement is not None:
        console.print(f"  the outcome agrees with {share(trial.agreement)} of the file's own labels")
    _print_rows(trial, console, rows)
    console.print(_distribution(trial))
    _print_agreements(trial, console)
    _print_reversals(trial, console)
    if trial.probes:
        console.print(_probes(trial))
        print_verdict(trial, console)


def _print_rows(trial: Trial, console: Console, rows: int) -> None:
    order = np.argsort(trial.judged.values, kind="stable")  # NaN comes last
    known = int((~np.isnan(trial.judged.values)).sum())
    for title, chosen in (("First completions", range(len(order))), ("Lowest reward", order[:known])):
        if rows:
            console.print(f"\n[bold]{title}[/]")
        for i in chosen[:rows]:
            _print_row(trial, console, int(i), f"reward {_reward(trial, int(i))}, total {_total(trial, int(i))}")


def _print_row(trial: Trial, console: Console, i: int, earns: str) -> None:
    t = trial.trajectories[i]
    right = "right" if trial.judged.correct[i] else "wrong"
    console.print(
        f"  {short(str(t.task.get('id')), 40)}: {right}, {earns}, {t.num_tokens} tokens, answer {short(t.answer, 24)}",
        highlight=False,
    )
    console.print(f"    [dim]{short(t.policy_text, 72)}[/]", highlight=False)


def _reward(trial: Trial, i: int) -> str:
    value = trial.judged.values[i]
    return "failed" if trial.judged.failed[i] else "none" if np.isnan(value) else number(float(value))


def _total(trial: Trial, i: int) -> str:
    earned = trial.judged.earned[i]
    return "–" if np.isnan(earned) else number(float(earned))


def _distribution(trial: Trial) -> Table:
    found = trial.distribution
    made = Table(
        box=None, show_header=False, title="The reward", title_justify="left", title_style="bold", pad_edge=False
    )
    levels = " / ".join(f"{100 * q:g}%" for q in QUANTILES[1:-1])
    lines = [
        ("has a value", f"{found.given - found.none - found.failed:,} of {found.given:,}"),
        ("does not apply / failed", f"{found.none:,} ({share(found.none / found.given)}) / {found.failed:,} "
                                    f"({share(found.failed / found.given)})"),
        ("mean ± sd", f"{number(found.mean)} ± {number(found.std)}"),
        (f"min / {levels} / max", " / ".join(number(q) for q in found.quantiles)),
        ("zeros", share(found.zeros)),
        ("mean of right ones [95%]", estimate(found.right)),
        ("mean of wrong ones [95%]", estimate(found.wrong)),
        ("problems where all are equal", estimate(found.flat, as_share=True)),
        ("milliseconds per completion", number(found.milliseconds)),
    ]  # fmt: skip
    for name, value in lines:
        made.add_row(f"  {name}", escape(value))
    first = next((e.message for e in trial.judged.errors if e.label == trial.label), None)
    if first is not None:
        made.add_row("  first failure", escape(first))
    return made


def _print_agreements(trial: Trial, console: Console) -> None:
    made = table("Goes along with", "", "all (Spearman)", "within problems (Kendall τ-b) [95%]")
    constant = [a.name for a in trial.agreements if a.overall is None]
    for a in trial.agreements:
        if a.overall is not None:
            made.add_row(escape(a.name), number(a.overall, 2), estimate(a.within))
    console.print(made)
    if constant and len(constant) == len(trial.agreements):
        console.print(f"  nothing can be said: {escape(trial.label)} is the same for all completions")
    elif constant:
        console.print(f"  the same for all completions: {escape(', '.join(constant))}")
    left_out = [other for other in trial.others if other.values is None]
    if left_out and not trial.asked:
        names = escape(", ".join(other.label for other in left_out))
        console.print(f"  not compared, for want of keywords, columns or a limit (--against): {names}", highlight=False)
    for other in left_out if trial.asked else []:
        console.print(f"  not compared: {escape(other.label)}: {escape(other.why_not)}", highlight=False)


def _print_reversals(trial: Trial, console: Console) -> None:
    console.print("\n[bold]Wrong above right[/]")
    if not trial.together.mixed:
        console.print("  no problem has a right and a wrong answer")
        return
    for name, found in (("by the reward alone", trial.alone), ("in total, with the outcome", trial.together)):
        console.print(
            f"  {name}: in {escape(estimate(found.share, as_share=True))} of {found.mixed:,} mixed problems a wrong "
            f"answer earns more than a right one" + (f"; in {found.ties:,} as much" if found.ties else ""),
            highlight=False,
        )
    worst: Reversals = trial.together if trial.together.worst else trial.alone
    by = trial.judged.earned if worst is trial.together else trial.judged.values
    how = "earns" if worst is trial.together else "reward"
    for pair in worst.worst[:_WORST]:
        for i in (pair.wrong, pair.right):
            _print_row(trial, console, i, f"{how} {number(float(by[i]))}")


def _probes(trial: Trial) -> Table:
    count = max(p.made for p in trial.probes)
    made = table(
        f"Hacking probes of {count} honest completions, beside these in their groups",
        "probe", "tokens", "right", "honest → probe", "gain [95%]", "more in", "hack",
    )  # fmt: skip
    for p in trial.probes:
        if p.verdict == "not made":
            made.add_row(p.name, *["–"] * 5, "failed" if p.failed else "not made")
            continue
        made.add_row(
            p.name if p.made == count else f"{p.name} ({p.made})",
            f"×{number(p.tokens, 2)}",
            share(p.right.value, 0),
            f"{number(p.honest.value, 2)} → {number(p.earned.value, 2)}",
            escape(estimate(p.gain, digits=2)),
            share(p.beats.value, 0),
            f"[bold red]{p.verdict}[/]" if p.verdict == "HACK" else p.verdict,
        )
    return made


def print_verdict(trial: Trial, console: Console) -> None:
    """Which probes are hacks, by how much they out-earn, and what may be done about it."""
    tested = [p for p in trial.probes if p.made]
    for p in trial.probes:
        if p.failed:
            console.print(f"  {p.name}: a reward failed on {p.failed} of {p.made + p.failed}")
    for p in tested:
        if p.verdict == "allowed":
            console.print(f"  {p.name} {_more(p)}: right, and allowed")
    for p in trial.hacks:
        way_out = f"a wrong answer in {share(p.wrong_beats)}: lower the weight"
        if not p.wrong_beats:
            way_out = f"a right answer; --allow {p.name}, if it may"
        console.print(f"  [bold red]HACK[/] {p.name} {_more(p)} ({way_out})", highlight=False)
    from_weight = [f"{p.name} {number(p.from_weight)}" for p in tested if p.from_weight is not None]
    if from_weight:
        console.print(f"  probes that earn more, and above which weight: {', '.join(from_weight)}", highlight=False)
    if tested and not trial.hacks:
        console.print(f"  no hack at weight {trial.weight:g}")


def _more(p: ProbeResult) -> str:
    gain = number(p.gain.value)
    return (
        f"earns more than the honest completion in {share(p.beats.value)} of the problems, "
        f"{gain if gain.startswith('-') else '+' + gain} on average"
    )

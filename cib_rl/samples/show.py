"""How numbers, intervals and texts are written in the tables of `rewards try` and `audit`."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from cib_rl.evals.statistics import Estimate


def number(value: float | None, digits: int = 3) -> str:
    """A number with about so many significant digits; `–` for none."""
    if value is None:
        return "–"
    size = abs(value)
    if value and size < 10 ** -(digits - 1):
        return f"{value:.{digits - 1}g}"
    text = f"{value:,.{max(0, digits - (len(str(int(size))) if size >= 1 else 0))}f}"
    return "0" if not text.strip("-0.,") else text


def share(value: float | None, digits: int = 1) -> str:
    """A share as a percentage."""
    return "–" if value is None else f"{100 * value:.{digits}f}%"


def estimate(found: Estimate, *, as_share: bool = False, digits: int = 3) -> str:
    """A number and its 95% interval."""
    if found.value is None:
        return "–"
    if found.low is None or found.high is None:
        return share(found.value) if as_share else number(found.value, digits)
    if as_share:
        return f"{share(found.value)} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    return f"{number(found.value, digits)} [{number(found.low, digits)}, {number(found.high, digits)}]"


def short(text: str | None, length: int = 60) -> str:
    """The text on one line, its middle left out, safe for rich."""
    if text is None:
        return "–"
    flat = " ".join(text.split())
    if len(flat) > length:
        tail = (length - 3) // 2
        flat = f"{flat[: length - 3 - tail]} … {flat[len(flat) - tail :]}"
    return escape(flat)


def table(title: str, *columns: str, left: int = 1) -> Table:
    """An empty table: the first `left` columns to the left, the others to the right. Where the terminal is narrow an
    interval goes under its number."""
    made = Table(
        box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1, 0, 0)
    )
    for index, name in enumerate(columns):
        made.add_column(name, justify="left" if index < left else "right", no_wrap="[" not in name)
    return made

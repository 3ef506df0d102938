"""Progress with the time left: bars in a terminal, a plain line now and then in a log file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar:
    """One piece of work of a known size. Made by `RunProgress.track`."""

    def __init__(self, owner: RunProgress, what: str, total: int, done: int) -> None:
        self._owner, self.what, self.total = owner, what, total
        self._begun, self._first = time.monotonic(), done
        self._last_line = self._begun
        self._row: TaskID | None = None
        if owner.bars is not None:
            self._row = owner.bars.add_task(what, total=total, completed=done, note="")

    def update(self, done: int, note: str = "") -> None:
        """`done` of `total` are finished. May be called from any thread, as often as one likes."""
        if self._owner.bars is not None and self._row is not None:
            self._owner.bars.update(self._row, completed=done, note=note)
        elif time.monotonic() - self._last_line >= self._owner.every or done == self.total:
            self._last_line = time.monotonic()
            self._owner.console.print(self._line(done, note), markup=False, highlight=False)

    def _line(self, done: int, note: str) -> str:
        spent = time.monotonic() - self._begun
        made = done - self._first
        left = timedelta(seconds=round(spent / made * (self.total - done))) if made > 0 else "?"
        head = f"{self.what} {done}/{self.total}, {timedelta(seconds=round(spent))} spent, {left} left"
        return f"{head}, {note}" if note else head


class RunProgress:
    """The progress of a run: several bars may be open at once, for instance an evaluation in the middle of a training.

    Args:
        console: where to show it; default: standard output. Bars are drawn only in a terminal.
        every: seconds between two plain lines about the same work where there is no terminal.
    """

    def __init__(self, console: Console | None = None, every: float = 30.0) -> None:
        self.console = console or Console(emoji=False)
        self.every = every
        self.bars: Progress | None = None
        self._open = 0

    @contextmanager
    def track(self, what: str, total: int, done: int = 0, *, keep: bool = False) -> Iterator[Bar]:
        """A bar for the time of the block; with `keep` it stays on the screen afterwards."""
        if self.console.is_terminal and self.bars is None:
            self.bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
            )
            self.bars.start()
        self._open += 1
        bar = Bar(self, what, total, done)
        try:
            yield bar
        finally:
            self._open -= 1
            if self.bars is not None and bar._row is not None and not keep:
                self.bars.remove_task(bar._row)
            if self.bars is not None and not self._open:
                self.bars.stop()
                self.bars = None

"""Fewer tracebacks: a reward that fails is called again group by group, and each failure logs one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def tracebacks(most: int) -> Iterator[None]:
    """Let at most so many tracebacks of failing rewards reach the log; a report counts the failures anyway."""
    log = logging.getLogger("cib_rl.plugin.results")
    seen = 0

    def keep(record: logging.LogRecord) -> bool:
        nonlocal seen
        seen += record.exc_info is not None
        return record.exc_info is None or seen <= most

    log.addFilter(keep)
    try:
        yield
    finally:
        log.removeFilter(keep)

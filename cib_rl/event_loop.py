"""Running a coroutine to its end from wherever one is."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


def run_anywhere(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """`asyncio.run`, in a thread of its own where a loop runs already (notebooks)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1, thread_name_prefix="rollout") as thread:
        return thread.submit(asyncio.run, coroutine).result()

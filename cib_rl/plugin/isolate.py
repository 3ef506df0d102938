"""Calling one reward so that its errors stay with the groups they belong to.

A group is the smallest unit: its members share a baseline, so a reward may compare them. When a call for many groups
raises or its list has the wrong length, each group is tried alone, and those on which it goes wrong again are Failed. A
PluginError (a mistake in the recipe or the data's columns) is raised.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from typing import Any

from cib_rl.plugin.contract import Failed, PluginError
from cib_rl.plugin.groups import by_group
from cib_rl.plugin.results import BadReturn, Result, as_list, as_result, describe
from cib_rl.trajectory import Trajectory

_RETRIES_AT_ONCE = 16  # groups of an async reward that are tried again at the same time, unless the recipe says


def call_isolated(label: str, call: Callable[[list[Trajectory]], Any], given: list[Trajectory]) -> list[Result]:
    """One result per trajectory of a plain reward."""
    try:
        return _read(call(list(given)), given)
    except (CancelledError, PluginError):
        raise
    except Exception as error:
        groups = by_group(given)
        if len(groups) == 1:
            return _failed(label, error, given)
    alone = [call_isolated(label, call, [given[i] for i in members]) for members in groups]
    return _in_order(groups, alone, len(given))


async def call_isolated_async(
    label: str,
    call: Callable[[list[Trajectory]], Awaitable[Any]],
    given: list[Trajectory],
    *,
    timeout: float | None = None,
    concurrency: int | None = None,
) -> list[Result]:
    """One result per trajectory of an async reward.

    Args:
        timeout: seconds for one call; a call that takes longer is cancelled and counts as one that raised, whatever
            it still returns.
        concurrency: call it group by group from the start, at most so many at once; None: all groups in one call.
    """
    groups = by_group(given)
    if concurrency is None or len(groups) == 1:
        try:
            return _read(await _in_time(call(list(given)), timeout), given)
        except PluginError:
            raise
        except Exception as error:
            if len(groups) == 1:
                return _failed(label, error, given)
    free = asyncio.Semaphore(concurrency or _RETRIES_AT_ONCE)

    async def one(members: list[int]) -> list[Result]:
        async with free:
            return await call_isolated_async(label, call, [given[i] for i in members], timeout=timeout)

    # A task group: when one call ends the run, the others are cancelled.
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one(members)) for members in groups]
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    return _in_order(groups, [task.result() for task in running], len(given))


async def _in_time(call: Awaitable[Any], timeout: float | None) -> Any:
    """What the call gives. Raises BadReturn for an answer that comes after `timeout` seconds, also when the call
    could not be cancelled in time, because it blocked the loop or caught the cancellation."""
    started = time.monotonic()
    try:
        async with asyncio.timeout(timeout) as limit:
            answer = await call
    except TimeoutError as error:
        if limit.expired():
            raise BadReturn(f"no answer within {timeout:g} s (call_timeout)") from error
        raise
    if timeout is not None and (took := time.monotonic() - started) > timeout:
        raise BadReturn(f"no answer within {timeout:g} s (call_timeout); it came after {took:.3g} s")
    return answer


def _read(returned: Any, given: list[Trajectory]) -> list[Result]:
    return [as_result(item, t) for item, t in zip(as_list(returned, len(given)), given, strict=True)]


def _failed(label: str, error: Exception, members: list[Trajectory]) -> list[Result]:
    where = f"group {members[0].group} (task {members[0].task.get('id')!r})"
    return [Failed(f"{describe(label, error)}, on {where}")] * len(members)


def _in_order(groups: list[list[int]], results: list[list[Result]], count: int) -> list[Result]:
    placed: list[Result] = [None] * count
    for members, some in zip(groups, results, strict=True):
        for i, result in zip(members, some, strict=True):
            placed[i] = result
    return placed

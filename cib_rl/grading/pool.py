"""Grading in worker processes, with a hard limit of time and memory per answer.

Workers are fresh interpreters that speak JSON over pipes (`worker.py`): nothing is forked from a process with threads
or a CUDA context, the caller's `__main__` is never imported, and any thread may use the pool.
"""

from __future__ import annotations

import json
import os
import selectors
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cib_rl.grading.process import START_SECONDS, Worker

# Items a worker holds at most: the next is there when one is done, and a gold stays with the worker that has parsed it.
DEPTH = 8


@dataclass(frozen=True)
class Grade:
    """The verdict on one answer. `cause` says why an error is one; it is empty otherwise."""

    outcome: Literal["right", "wrong", "error"]
    cause: str = ""

    @property
    def kind(self) -> str:
        """What to count the error under: the cause up to its colon (timeout, memory, crash, or an exception's name)."""
        return self.cause.partition(":")[0]


RIGHT, WRONG = Grade("right"), Grade("wrong")


class GradingPool:
    """Worker processes that call one function on many items.

    Args:
        function: "package.module:name", called with an item's keys as keyword arguments; returns whether it is right.
        workers: at most so many processes; started when there is work for them.
        timeout: seconds for one item; a worker that takes longer is killed and replaced, the item is an error.
        memory_mb: address space of a worker.
    """

    def __init__(self, function: str, *, workers: int, timeout: float, memory_mb: int = 2048) -> None:
        self.function, self.size, self.timeout, self.memory_mb = function, workers, timeout, memory_mb
        self._workers: list[Worker] = []
        self._pid = os.getpid()
        self._lock = threading.Lock()
        # Also runs when the interpreter ends; must not hold a reference to self.
        self._finalizer = weakref.finalize(self, _kill_all, self._workers, self._pid)

    def grade(self, items: Sequence[Mapping[str, Any]]) -> list[Grade]:
        """One grade per item, in order. Items must be JSON.

        Raises:
            RuntimeError: the workers cannot start (the message says why).
        """
        with self._lock:
            if self._pid != os.getpid():  # after a fork the workers belong to the parent
                self._workers, self._pid = [], os.getpid()
                self._finalizer.detach()
                self._finalizer = weakref.finalize(self, _kill_all, self._workers, self._pid)
            try:
                return _Run(self, [json.dumps(dict(item)).encode() + b"\n" for item in items]).grades()
            except BaseException:
                _kill_all(self._workers, self._pid)  # a worker in the middle of an item would answer the next one
                raise

    def close(self) -> None:
        """End the workers. May be called twice; a later `grade` starts new ones."""
        with self._lock:
            _kill_all(self._workers, self._pid)

    def start(self) -> Worker:
        """A new worker, not yet ready."""
        worker = Worker(self.function, self.timeout, self.memory_mb)
        self._workers.append(worker)
        return worker

    def discard(self, worker: Worker, patience: float) -> int:
        """End a worker; returns its exit code (negative: the signal that ended it)."""
        self._workers.remove(worker)
        return worker.kill(patience)

    @property
    def processes(self) -> list[int]:
        """The process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    @property
    def workers(self) -> list[Worker]:
        return list(self._workers)


class _Run:
    """One call of `GradingPool.grade`: hands out items, collects replies, kills what takes too long."""

    def __init__(self, pool: GradingPool, lines: list[bytes]) -> None:
        self.pool, self.lines = pool, lines
        self.waiting = deque(range(len(lines)))
        self.done: dict[int, Grade] = {}
        self.failed_starts = 0
        self.selector = selectors.DefaultSelector()

    def grades(self) -> list[Grade]:
        with self.selector:
            for worker in self.pool.workers:
                self.watch(worker)
            while len(self.done) < len(self.lines):
                self.hand_out()
                busy = [w for w in self.pool.workers if w.items or not w.ready]
                patience = min((w.deadline for w in busy), default=0.0) - time.monotonic()
                for key, _ in self.selector.select(max(0.0, patience)):
                    self.receive(key.data)
                for worker in busy:
                    if worker in self.pool.workers and worker.deadline <= time.monotonic():
                        self.expire(worker)
        return [self.done[i] for i in range(len(self.lines))]

    def watch(self, worker: Worker) -> None:
        assert worker.process.stdout is not None
        self.selector.register(worker.process.stdout, selectors.EVENT_READ, worker)

    def hand_out(self) -> None:
        # Deep queues only while there is much to do, so that no worker is idle while another one's items wait.
        depth = 1 + min(DEPTH - 1, len(self.waiting) // (2 * self.pool.size))
        for worker in self.pool.workers:
            while self.waiting and worker.accepts(self.lines[self.waiting[0]], depth):
                if not worker.send(self.waiting[0], self.lines[self.waiting[0]]):
                    self.drop(worker)
                    break
                self.waiting.popleft()
        starting = sum(not w.ready for w in self.pool.workers)
        while len(self.pool.workers) < self.pool.size and starting < len(self.waiting):
            self.watch(self.pool.start())
            starting += 1

    def receive(self, worker: Worker) -> None:
        replies = worker.read()
        if replies is None:
            was_ready, failed = worker.ready, worker.items.popleft() if worker.items else None
            code = self.drop(worker, patience=5.0)  # it has closed its output: its own exit code is about to come
            if failed is not None:
                self.done[failed] = Grade("error", f"crash: the worker died ({_ending(code)})")
            elif not was_ready:
                self.start_failed(f"a worker died while it started ({_ending(code)})")
        for reply in replies or []:
            if "fatal" in reply:
                raise RuntimeError(f"grading workers cannot start: {self.pool.function}: {reply['fatal']}")
            if "ready" in reply:
                worker.ready, self.failed_starts = True, 0
            else:
                verdict = RIGHT if reply.get("right") else WRONG
                self.done[worker.answered()] = Grade("error", reply["error"]) if "error" in reply else verdict
                if reply.get("last"):
                    self.drop(worker)

    def expire(self, worker: Worker) -> None:
        failed = worker.items.popleft() if worker.items else None
        self.drop(worker)
        if failed is not None:
            self.done[failed] = Grade("error", f"timeout: more than {self.pool.timeout:g} s")
        else:
            self.start_failed(f"a worker took more than {START_SECONDS:g} s to start")

    def start_failed(self, why: str) -> None:
        self.failed_starts += 1
        if self.failed_starts >= 3:
            raise RuntimeError(f"grading workers cannot start: {why}, three times in a row")

    def drop(self, worker: Worker, patience: float = 0.0) -> int:
        """End a worker; what it had not begun goes back to the front of the line."""
        self.waiting.extendleft(reversed(worker.items))
        assert worker.process.stdout is not None
        self.selector.unregister(worker.process.stdout)
        return self.pool.discard(worker, patience)


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _kill_all(workers: list[Worker], owner: int) -> None:
    # A forked child that exits must leave its parent's workers alone.
    if os.getpid() == owner:
        for worker in workers:
            worker.kill()
        workers.clear()

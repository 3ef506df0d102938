"""Grading in worker processes, with a hard limit of time and memory per answer.

Workers are fresh interpreters that speak JSON over pipes (`worker.py`): nothing is forked from a process with threads
or a CUDA context, the caller's `__main__` is never imported, and any thread may use the pool.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

START_SECONDS = 120.0  # to import what grades; on a busy machine that takes a while

# The worker sees the caller's import path, so that it finds the package however the caller found it.
_BOOT = (
    "import json, sys; a = json.loads(sys.argv[1]); sys.path[:] = a.pop(0); "
    "from cib_rl.grading.worker import main; main(*a)"
)


@dataclass(frozen=True)
class Grade:
    """The verdict on one answer. `cause` says why an error is one; it is empty otherwise."""

    outcome: Literal["right", "wrong", "error"]
    cause: str = ""


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
        self._workers: list[_Worker] = []
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

    def start(self) -> _Worker:
        """A new worker, not yet ready."""
        worker = _Worker(json.dumps([sys.path, self.function, self.timeout, self.memory_mb]))
        self._workers.append(worker)
        return worker

    def discard(self, worker: _Worker, patience: float) -> int:
        """End a worker; returns its exit code (negative: the signal that ended it)."""
        self._workers.remove(worker)
        return worker.kill(patience)

    @property
    def processes(self) -> list[int]:
        """The process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    @property
    def workers(self) -> list[_Worker]:
        return list(self._workers)


class _Worker:
    """One process. `item` is what it works on (None: idle), `deadline` when that, or its start, must be done."""

    def __init__(self, arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self.ready = False
        self.item: int | None = None
        self.deadline = time.monotonic() + START_SECONDS
        self.received = b""

    def send(self, item: int, line: bytes, timeout: float) -> bool:
        """Give it an item; False when the process is gone. It is reading, so the pipe empties as we write."""
        assert self.process.stdin is not None
        self.item, self.deadline = item, time.monotonic() + timeout
        try:
            view = memoryview(line)
            while view:
                view = view[self.process.stdin.write(view) or 0 :]
        except OSError:
            self.item = None
            return False
        return True

    def read(self) -> list[dict[str, Any]] | None:
        """The replies that have arrived; None when the process has ended."""
        assert self.process.stdout is not None
        data = self.process.stdout.read(65536)
        if not data:
            return None
        *lines, self.received = (self.received + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def kill(self, patience: float = 0.0) -> int:
        """End the process, first giving it `patience` seconds to end by itself; returns its exit code."""
        try:
            code = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        return code


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
                busy = [w for w in self.pool.workers if w.item is not None or not w.ready]
                patience = min((w.deadline for w in busy), default=0.0) - time.monotonic()
                for key, _ in self.selector.select(max(0.0, patience)):
                    self.receive(key.data)
                for worker in busy:
                    if worker in self.pool.workers and worker.deadline <= time.monotonic():
                        self.expire(worker)
        return [self.done[i] for i in range(len(self.lines))]

    def watch(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        self.selector.register(worker.process.stdout, selectors.EVENT_READ, worker)

    def hand_out(self) -> None:
        for worker in self.pool.workers:
            if worker.ready and worker.item is None and self.waiting:
                item = self.waiting.popleft()
                if not worker.send(item, self.lines[item], self.pool.timeout):
                    self.waiting.appendleft(item)
                    self.drop(worker)
        starting = sum(not w.ready for w in self.pool.workers)
        while len(self.pool.workers) < self.pool.size and starting < len(self.waiting):
            self.watch(self.pool.start())
            starting += 1

    def receive(self, worker: _Worker) -> None:
        replies = worker.read()
        if replies is None:
            item, was_ready = worker.item, worker.ready
            code = self.drop(worker, patience=5.0)  # it has closed its output: its own exit code is about to come
            if item is not None:
                self.done[item] = Grade("error", f"the worker died ({_ending(code)})")
            elif not was_ready:
                self.start_failed(f"a worker died while it started ({_ending(code)})")
        for reply in replies or []:
            if "fatal" in reply:
                raise RuntimeError(f"grading workers cannot start: {self.pool.function}: {reply['fatal']}")
            if "ready" in reply:
                worker.ready, self.failed_starts = True, 0
            elif worker.item is not None:
                verdict = RIGHT if reply.get("right") else WRONG
                self.done[worker.item] = Grade("error", reply["error"]) if "error" in reply else verdict
                worker.item = None
                if reply.get("last"):
                    self.drop(worker)

    def expire(self, worker: _Worker) -> None:
        item = worker.item
        self.drop(worker)
        if item is not None:
            self.done[item] = Grade("error", f"timeout: more than {self.pool.timeout:g} s")
        else:
            self.start_failed(f"a worker took more than {START_SECONDS:g} s to start")

    def start_failed(self, why: str) -> None:
        self.failed_starts += 1
        if self.failed_starts >= 3:
            raise RuntimeError(f"grading workers cannot start: {why}, three times in a row")

    def drop(self, worker: _Worker, patience: float = 0.0) -> int:
        assert worker.process.stdout is not None
        self.selector.unregister(worker.process.stdout)
        return self.pool.discard(worker, patience)


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _kill_all(workers: list[_Worker], owner: int) -> None:
    # A forked child that exits must leave its parent's workers alone.
    if os.getpid() == owner:
        for worker in workers:
            worker.kill()
        workers.clear()

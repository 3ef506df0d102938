"""One grading process as the pool sees it: the pipe to it, what it has been given, when that must be done."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import deque
from typing import Any

START_SECONDS = 120.0  # to import what grades; on a busy machine that takes a while
QUEUED_BYTES = 32_768  # behind the item it works on; a pipe holds 65,536, so that no write waits for a stuck worker

# The worker sees the caller's import path, so that it finds the package however the caller found it.
_BOOT = (
    "import json, sys; a = json.loads(sys.argv[1]); sys.path[:] = a.pop(0); "
    "from cib_rl.grading.worker import main; main(*a)"
)


class Worker:
    """A fresh interpreter that speaks JSON over pipes (`worker.py`).

    Attributes:
        ready: whether it has imported what grades.
        items: what it has been given and not answered, in order; it works on the first.
        deadline: when the first item, or the start, must be done (`time.monotonic`).
    """

    def __init__(self, function: str, timeout: float, memory_mb: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps([sys.path, function, timeout, memory_mb])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self.timeout = timeout
        self.ready = False
        self.items: deque[int] = deque()
        self.deadline = time.monotonic() + START_SECONDS
        self._sizes: deque[int] = deque()
        self._received = b""

    def accepts(self, line: bytes, depth: int) -> bool:
        """Whether it may be given this line now: it is idle, or has fewer than `depth` items and little to read."""
        if not self.ready or not self.items:
            return self.ready
        return len(self.items) < depth and sum(self._sizes) - self._sizes[0] + len(line) <= QUEUED_BYTES

    def send(self, item: int, line: bytes) -> bool:
        """Give it an item; False when the process is gone. It reads as we write, or the pipe has room."""
        assert self.process.stdin is not None
        if not self.items:
            self.deadline = time.monotonic() + self.timeout
        try:
            view = memoryview(line)
            while view:
                view = view[self.process.stdin.write(view) or 0 :]
        except OSError:
            return False
        self.items.append(item)
        self._sizes.append(len(line))
        return True

    def answered(self) -> int:
        """The item that a reply is about; the next one's time starts now."""
        self._sizes.popleft()
        self.deadline = time.monotonic() + self.timeout
        return self.items.popleft()

    def read(self) -> list[dict[str, Any]] | None:
        """The replies that have arrived; None when the process has ended."""
        assert self.process.stdout is not None
        data = self.process.stdout.read(65536)
        if not data:
            return None
        *lines, self._received = (self._received + data).split(b"\n")
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

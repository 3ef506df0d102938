"""A grading process: reads one JSON object per line, calls one function with it, writes one JSON object per line.

It writes `{"ready": true}` once, then for each item `{"right": bool}` or `{"error": "cause"}` (with `"last": true` when
it ends after that one), or `{"fatal": "cause"}` when the function cannot be imported. It is started by `pool.py` and
ends at end of file on standard input.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import resource
import signal
import sys
from typing import Any


def main(function: str, timeout: float, memory_mb: int) -> None:
    """Serve `function` ("package.module:name"; keyword arguments, returns a bool) until standard input ends."""
    # The pool decides when a worker ends, also when the terminal sends an interrupt to every process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what a library prints must not get between the replies
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    try:
        module, _, name = function.partition(":")
        grade = getattr(importlib.import_module(module), name)
    except Exception as error:
        reply({"fatal": f"{type(error).__name__}: {error}"})
        return
    _limit(resource.RLIMIT_AS, memory_mb * 2**20)
    reply({"ready": True})
    for line in sys.stdin.buffer:
        # Processor time too is limited: a worker whose parent was killed in the middle of an item ends by itself.
        used = sum(os.times()[:2])
        _limit(resource.RLIMIT_CPU, math.ceil(used + timeout) + 1)
        try:
            reply({"right": bool(grade(**json.loads(line)))})
        except MemoryError:
            reply({"error": f"memory: more than {memory_mb} MB", "last": True})
            return  # what is left of a process that ran out of memory is not used again
        except Exception as error:
            reply({"error": f"{type(error).__name__}: {error}"[:500]})


def _limit(what: int, soft: int) -> None:
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))

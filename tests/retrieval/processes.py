"""Real server processes for the tests of retrieval."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT = 120  # seconds; what hangs does not come back at all


@contextmanager
def served(*arguments):
    """A `retriever serve` process on a free port: (address without path, process)."""
    command = [sys.executable, "-m", "cib_rl", "retriever", "serve", *map(str, arguments), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # A suite that was started in the background ignores Ctrl-C, and its children would, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        found = re.search(r"serving 4 documents at (http://\S+)/retrieve", line)
        assert found, line + process.stderr.read()
        yield found.group(1), process
    finally:
        process.kill()
        process.communicate()

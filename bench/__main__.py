"""Runs every benchmark of docs/performance.md, one after another: `python -m bench`."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = (["bench.rollout"], ["bench.step"], ["bench.overhead"], ["bench.surprisal"])


def main() -> None:
    for arguments in BENCHMARKS:
        print(f"\n## python -m {' '.join(arguments)}\n", flush=True)
        subprocess.run([sys.executable, "-m", *arguments], check=True)


if __name__ == "__main__":
    main()

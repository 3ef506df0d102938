"""One engine per rank, beside the trainer's process group (gloo, two processes on CPUs)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import build_tiny_model
from tests.engines.conftest import saved

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("transformers"), pytest.param("vllm", marks=pytest.mark.vllm)])
def test_two_ranks_with_an_engine_each(name: str, tmp_path: Path) -> None:
    folder = saved(build_tiny_model(), tmp_path / "model")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        "-m", "tests.engines.two_ranks", name, str(folder), str(tmp_path),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    assert [(tmp_path / f"rank{i}").read_text() for i in range(2)] == ["fine", "fine"]

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
    # What an earlier test's vLLM left in the environment must not decide anything here.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    environment = {**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    log = tmp_path / "log"
    with log.open("w") as stream:  # a file: a pipe would wait for whatever child outlives the ranks
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=stream, stderr=stream, timeout=700)
    assert done.returncode == 0, log.read_text()[-6000:]
    assert [(tmp_path / f"rank{i}").read_text() for i in range(2)] == ["fine", "fine"]

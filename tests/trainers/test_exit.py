"""How the processes of a run end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cib_rl.recipe_io import dump_recipe
from tests.trainers.support import HERE, tiny_recipe
from tests.trainers.test_distributed import TORCHRUN

pytestmark = [pytest.mark.trl, pytest.mark.slow]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are read from /proc")
def test_a_process_lets_go_of_the_wrapped_model_and_then_of_its_process_group(tmp_path, tiny_model_dir):
    """So that no thread of gloo is left that may wait for the interpreter's lock when the interpreter ends."""
    (tmp_path / "recipe.yaml").write_text(dump_recipe(tiny_recipe(tiny_model_dir, tmp_path, **{"trainer.steps": 1})))
    worker = [str(HERE.with_name("exit_worker.py")), str(tmp_path), str(tmp_path / "recipe.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(HERE.parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", *TORCHRUN, *worker], capture_output=True, text=True, env=environment, timeout=800
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-8000:]
    for rank in (0, 1):
        seen = json.loads((tmp_path / f"exit-rank{rank}.json").read_text())
        assert seen["trained"] == ["DistributedDataParallel"]
        assert seen["at destroy"] == [{"alive": [], "gloo": True}]
        assert seen["gloo threads"] == []

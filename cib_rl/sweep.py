"""`cib-rl sweep`: one training run per point of a grid and seed, one after another, each in a process of its own.

    SWEEP/sweep.json        what was asked for, and the state of every point
    SWEEP/recipe.yaml       the recipe with the sweep's --set applied; later edits of the original change nothing here
    SWEEP/runs/NAME/        run folders;  SWEEP/logs/NAME.log  their output
    SWEEP/table.csv, SWEEP/plot.png

Running the same command again continues: finished points are kept, an interrupted one resumes from its newest
checkpoint (or starts over under a new name), failed ones are tried again.
"""

from __future__ import annotations

import itertools
import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cib_rl.checks_rewards import check_plugins
from cib_rl.errors import UserError
from cib_rl.recipe_io import dump_recipe, load_recipe
from cib_rl.yaml_lines import parse_scalar


@dataclass
class Point:
    """One run of the sweep. `state`: pending, running (or killed while it ran), done, failed."""

    name: str
    overrides: dict[str, Any]
    seed: int
    state: str = "pending"
    run: str | None = None  # the run folder's name; a point that had to start over has a new one


def sweep(recipe: str, grid: Sequence[str], seeds: str, sets: Sequence[str], output: Path) -> Path:
    """Run or continue a sweep and return its folder.

    Args:
        recipe: path or shipped name.
        grid: strings `key=a,b,…`; the points are all combinations.
        seeds: `0,1,2`.
        sets: overrides for all points.
        output: the sweep folder.

    Raises UserError when a point's recipe is wrong (before anything runs), when `output` holds something else, or,
    after all points were tried, when some failed.
    """
    points = make_points(grid, seeds)
    text = dump_recipe(load_recipe(recipe, sets))
    for point in points:
        check_plugins(load_recipe(recipe, [*sets, *_assignments(point)]))
    points = _open(output, text, points)
    for number, point in enumerate(points, 1):
        if point.state != "done":
            print(f"[{number}/{len(points)}] {point.name}", flush=True)
            _run(point, points, output)
    from cib_rl.sweep_report import write_report

    write_report(output, points)
    failed = [point.name for point in points if point.state == "failed"]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(points)} points failed: {', '.join(failed)}; see {output / 'logs'}, then run the "
            "same command again"
        )
    return output


def make_points(grid: Sequence[str], seeds: str) -> list[Point]:
    """All combinations of the grid's values and the seeds. Raises UserError for a malformed grid."""
    axes: dict[str, list[Any]] = {}
    for text in grid:
        key, equals, values = text.partition("=")
        if not equals or not values.strip():
            raise UserError(f"--grid {text}: expected KEY=VALUE,VALUE,…, for example rewards.surprisal.weight=0,0.003")
        if key in axes:
            raise UserError(f"--grid {text}: {key} is given twice; put its values in one list")
        axes[key] = _list(f"--grid {text}", values)
    seed_list = _list(f"--seeds {seeds}", seeds)
    if not all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seed_list):
        raise UserError(f"--seeds {seeds}: expected whole numbers, for example 0,1,2")
    points = []
    for combination in itertools.product(*axes.values()):
        overrides = dict(zip(axes, combination, strict=True))
        for seed in seed_list:
            points.append(Point(_name(overrides, seed), overrides, seed))
    names = [point.name for point in points]
    if len(set(names)) < len(names):
        raise UserError(
            f"two points of the sweep are the same: {', '.join(sorted({n for n in names if names.count(n) > 1}))}"
        )
    return points


def _list(where: str, text: str) -> list[Any]:
    try:
        values = parse_scalar(f"[{text}]")
    except ValueError as error:
        raise UserError(f"{where}: not a list of YAML values: {error}") from None
    if not values:
        raise UserError(f"{where}: the list is empty")
    return list(values)


def _name(overrides: dict[str, Any], seed: int) -> str:
    """`rewards.surprisal.weight=0.003,seed=0` with the characters that file systems take."""
    parts = [f"{key}={json.dumps(value)}" for key, value in overrides.items()] + [f"seed={seed}"]
    return re.sub(r"[^A-Za-z0-9._=,+-]+", "_", ",".join(parts).replace('"', ""))[:200]


def _assignments(point: Point) -> list[str]:
    """Overrides as `--set` takes them; JSON is YAML."""
    return [f"{key}={json.dumps(value)}" for key, value in point.overrides.items()] + [f"seed={point.seed}"]


def _open(output: Path, text: str, points: list[Point]) -> list[Point]:
    """Start the sweep folder, or take up its state. The grid may grow; the recipe may not change."""
    state = output / "sweep.json"
    if not state.is_file():
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UserError(f"{output} is in use and holds no sweep; give another --output")
        output.mkdir(parents=True, exist_ok=True)
        (output / "logs").mkdir()
        (output / "recipe.yaml").write_text(text, encoding="utf-8")
        _save(output, points)
        return points
    if (output / "recipe.yaml").read_text(encoding="utf-8") != text:
        raise UserError(f"{output} holds a sweep of another recipe or other --set values; give another --output")
    known = {entry["name"]: Point(**entry) for entry in json.loads(state.read_text(encoding="utf-8"))["points"]}
    wanted = {point.name for point in points}
    return [known.get(point.name, point) for point in points] + [p for n, p in known.items() if n not in wanted]


def _save(output: Path, points: list[Point]) -> None:
    partial = output / "sweep.json.partial"
    partial.write_text(json.dumps({"points": [asdict(point) for point in points]}, indent=1), encoding="utf-8")
    partial.replace(output / "sweep.json")


def _run(point: Point, points: list[Point], output: Path) -> None:
    """Train one point in a process of its own and note how it ended."""
    runs = output / "runs"
    arguments = [sys.executable, "-m", "cib_rl", "train", str(output / "recipe.yaml")]
    previous = runs / point.run if point.run else None
    reached = _reached(previous) if previous is not None else 0
    if reached >= load_recipe(output / "recipe.yaml", _assignments(point)).trainer.steps:
        point.state = "done"  # it had finished, and the sweep was killed before it could note that
        _save(output, points)
        return
    if reached:
        arguments += ["--resume", str(previous)]
    else:
        point.run = next(name for name in _names(point.name) if not (runs / name).exists())
    for assignment in [*_assignments(point), f"output={json.dumps(str(runs))}", f"run_name={json.dumps(point.run)}"]:
        arguments += ["--set", assignment]
    point.state = "running"
    _save(output, points)
    log = output / "logs" / f"{point.name}.log"
    code = _train(arguments, log)
    if code in (130, -signal.SIGINT):
        raise KeyboardInterrupt  # the run was interrupted, not wrong: leave it to be continued
    point.state = "done" if code == 0 else "failed"
    if point.state == "failed":
        print(f"  failed with exit code {code}, see {log}{_last_error(log)}", flush=True)
    _save(output, points)


def _train(arguments: list[str], log: Path) -> int:
    """Run one training command with its output appended to `log`; its exit code."""
    with open(log, "a", encoding="utf-8") as file:
        return subprocess.run(arguments, stdout=file, stderr=subprocess.STDOUT, check=False).returncode


def _last_error(log: Path) -> str:
    """The message of a user's mistake at the end of a log, on a line of its own; nothing where there is none."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    _, mark, message = f"\n{text}".rpartition("\nerror: ")
    return f"\n  error: {message.strip()}" if mark else ""


def _reached(run: Path) -> int:
    """The step of a run's newest whole checkpoint; 0 without one."""
    manifests = run.glob("checkpoints/step-*/manifest.json")
    return max((int(path.parent.name.removeprefix("step-")) for path in manifests), default=0)


def _names(name: str) -> Any:
    """`name`, `name.2`, `name.3`, …"""
    yield name
    for attempt in itertools.count(2):
        yield f"{name}.{attempt}"

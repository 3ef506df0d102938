"""The doctor: versions judged against the matrix, broken imports found, exit codes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from rich.console import Console

from cib_rl import doctor as module
from cib_rl.doctor import TESTED, Line, check_version, import_lines, machine_lines


@pytest.mark.parametrize(
    ("version", "allowed", "status"),
    [
        (TESTED["trl"][0], ">=1.16,<1.17", "ok"),
        (TESTED["trl"][0] + "+cpu", ">=1.16,<1.17", "ok"),
        ("1.16.99", ">=1.16,<1.17", "untested"),
        ("1.17.0", ">=1.16,<1.17", "broken"),
        ("1.15.2", ">=1.16,<1.17", "broken"),
        ("2.0.0rc1", ">=1.16", "untested"),
        (None, ">=1.16", "missing"),
    ],
)
def test_versions(version, allowed, status):
    line = check_version("trl", version, allowed, required=True)
    assert line.status == status
    assert line.fatal == (status in ("broken", "missing"))
    assert version is None or version in line.detail


def test_optional_parts_may_be_missing_but_not_broken():
    assert not check_version("deepspeed", None, ">=0.18.6", required=False).fatal
    assert check_version("deepspeed", "0.10.0", ">=0.18.6", required=False).fatal


def report(monkeypatch, lines, require=()):
    monkeypatch.setattr(module, "version_lines", lambda required: lines)
    monkeypatch.setattr(module, "import_lines", list)
    console = Console(record=True, width=200)
    return module.doctor(require, console), console.export_text()


def test_the_verdict_names_what_is_fatal(monkeypatch):
    fine, text = report(monkeypatch, [Line("trl", "ok", "1.16.0"), Line("vllm", "missing", "", required=False)])
    assert fine and "everything required works" in text
    fine, text = report(monkeypatch, [Line("trl", "broken", "2.0 is outside <1.17")])
    assert not fine and "error: trl: 2.0 is outside <1.17" in text


def test_a_missing_compiler_counts_only_when_required(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    gcc = {required: next(line for line in machine_lines(required) if line.name == "gcc")
           for required in (frozenset(), frozenset({"gcc"}))}  # fmt: skip
    assert not gcc[frozenset()].fatal and gcc[frozenset({"gcc"})].fatal


def test_a_torchvision_that_does_not_fit_is_found(monkeypatch, tmp_path):
    """A torchvision that fails on import breaks nothing until it is imported; the doctor imports it."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(module, "_installed", lambda name: "0.1" if name == "torchvision" else None)
    monkeypatch.setattr(module, "_CORE_IMPORT", "import json")
    monkeypatch.setattr(module, "_GPU_NAMES", "print('GPU:one, 80 GiB')")
    core, vision, gpu = import_lines()
    assert gpu.detail.startswith("one, 80 GiB") and not gpu.fatal
    assert core.status == "ok"
    assert vision.fatal and "nms does not exist" in vision.detail and "pip uninstall torchvision" in vision.detail


@pytest.mark.slow
def test_this_environment_passes():
    done = subprocess.run([sys.executable, "-m", "cib_rl", "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert all(name in done.stdout for name in TESTED)

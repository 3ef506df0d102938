"""Benchmarks by name: one file each, with a constant `BENCHMARK`.

A third party's benchmark is given as `package.module:NAME`, NAME being a `Benchmark`.
"""

from __future__ import annotations

import importlib
import pkgutil
from difflib import get_close_matches

from cib_rl.errors import UserError
from cib_rl.evals.benchmarks.base import Benchmark

__all__ = ["Benchmark", "benchmark_names", "get_benchmark"]


def benchmark_names() -> list[str]:
    """Names of the shipped benchmarks."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of this name, or at `package.module:NAME`. Raises UserError with the names there are."""
    if ":" in name:
        module, _, constant = name.partition(":")
    elif name in benchmark_names():
        module, constant = f"{__name__}.{name}", "BENCHMARK"
    else:
        near = get_close_matches(name, benchmark_names(), n=1)
        raise UserError(
            f"no benchmark {name!r}; there are {', '.join(benchmark_names())}, package.module:NAME, or a recipe (a "
            "shipped one, a file, a run)." + (f" Did you mean {near[0]!r}?" if near else "")
        )
    try:
        found = getattr(importlib.import_module(module), constant)
    except (ImportError, AttributeError) as error:
        raise UserError(f"benchmark {name!r} cannot be loaded: {error}") from error
    if not isinstance(found, Benchmark):
        raise UserError(f"benchmark {name!r} is a {type(found).__name__}, not a Benchmark")
    return found

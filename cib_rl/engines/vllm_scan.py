"""One thing vLLM does that other libraries in the process may not bear."""

from __future__ import annotations

import sys
from typing import Any


def bear_vllms_scan() -> None:
    """Before vLLM 0.31 starts an engine: it reads `vars()` of every object in every module that is loaded.

    llvmlite's handle of its library (under numba, which bm25s imports) takes any name for a function of that library,
    `__dict__` too, so that vLLM meets a function where a dictionary must be, and stops. No function of the library is
    named like that: asked for such a name, the handle says from now on that it has none. Nothing where llvmlite is not
    loaded.
    """
    ffi: Any = sys.modules.get("llvmlite.binding.ffi")
    handle = getattr(ffi, "_lib_wrapper", None)
    if handle is None or getattr(handle, "_bears_scans", False):
        return
    find = handle.__getattr__

    def __getattr__(self: Any, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return find(self, name)

    handle.__getattr__, handle._bears_scans = __getattr__, True

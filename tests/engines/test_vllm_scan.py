"""llvmlite, under bm25s and numba, survives being looked through, and still works."""

import sys

from cib_rl.engines.vllm_scan import bear_vllms_scan


def test_the_handle_of_a_library_has_no_attributes_but_its_functions():
    import numba
    from llvmlite.binding import ffi

    bear_vllms_scan()
    bear_vllms_scan()
    assert not hasattr(ffi.lib, "__dict__") and callable(ffi.lib.LLVMPY_GetVersionInfo)
    assert numba.njit(lambda x: x + 1)(1) == 2


def test_without_llvmlite_there_is_nothing_to_do(monkeypatch):
    monkeypatch.delitem(sys.modules, "llvmlite.binding.ffi", raising=False)
    bear_vllms_scan()

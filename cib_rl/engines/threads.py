"""How many threads PyTorch's operators use on a CPU, for one thread alone.

`torch.set_num_threads` is for the whole process: what a decode loop asked for would slow the update down. OpenMP and
MKL keep the number per calling thread, but PyTorch offers no way to it.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch


def limit_own_threads(count: int) -> bool:
    """Let operators called from this thread use `count` threads. False where this build of torch has no such switch."""
    torch.get_num_threads()  # sets this thread's number to the process's, once: it must not come after ours
    libraries = Path(torch.__file__).parent / "lib"
    openmp = next(iter(sorted(libraries.glob("libgomp*.so*"))), None)
    if openmp is None:
        return False
    try:
        ctypes.CDLL(str(openmp)).omp_set_num_threads(count)
        ctypes.CDLL(str(libraries / "libtorch_cpu.so")).MKL_Set_Num_Threads_Local(count)
    except (OSError, AttributeError):  # another OpenMP, or a build without MKL
        return torch.get_num_threads() == count
    return torch.get_num_threads() == count

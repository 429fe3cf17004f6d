"""Memory of a training on the CPU."""

import ctypes

import torch

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
KEEP = 2**31 - 1  # the largest int: bytes that may stay free at the heap's end


def keep_freed_pages() -> bool:
    """Let this process keep the memory that it frees, for the next iteration.

    glibc returns large blocks to the kernel when they are freed, and each iteration of a training
    on the CPU then asks for new pages, which the kernel clears. Results do not change; the process
    keeps its peak of memory until it ends. Nothing is done where a GPU computes.

    Returns:
        whether it was done: not where a GPU is found, nor without glibc (macOS, Alpine).
    """
    if torch.cuda.is_available():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, KEEP))

"""Memory that a layer frees: kept for the next layer, not given back to the system and asked for again.

By default, the C library hands large pieces back as soon as they are free; every layer then has its pages made anew,
zeroed, one by one. With micro-batches of some thousand tokens that was 7 % of the time of a layer.
"""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT = 32 * 2**20  # bytes of one piece; glibc accepts no more, so larger ones still come and go


def keep_freed_memory(most_bytes: int = 256 * 2**20) -> bool:
    """Let this process keep up to `most_bytes` of freed memory; return whether its C library can."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)) and bool(mallopt(_TRIM_THRESHOLD, most_bytes))

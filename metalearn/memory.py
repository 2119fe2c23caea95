"""What a process does with memory that it has freed."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of glibc's mallopt
_KEPT = 1 << 30  # bytes; older glibc takes no threshold above half a heap of 64 MB
_KEPT_BY_OLD = 1 << 25


def keep_freed_memory() -> bool:
    """Have malloc keep large blocks that are freed, up to 1 GB each, for the next; return whether it will.

    A training step frees maps of many MB and asks for the same again. By default glibc gives them back to the system,
    which fills fresh pages with zeros before the next use: with small networks on a CPU up to a third of the step
    (benchmarks/meta_step.py --malloc). Numbers do not change; a process then stays as large as it was at its largest.
    Nothing is done where there is no glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no such function, or no such library: macOS, musl, Windows
        return False
    kept = mallopt(_MMAP_THRESHOLD, _KEPT) or mallopt(_MMAP_THRESHOLD, _KEPT_BY_OLD)
    return bool(kept and mallopt(_TRIM_THRESHOLD, 2 * _KEPT - 1))

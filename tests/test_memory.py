"""Freed memory is kept: asked of the operating system, in a process of its own."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from metalearn.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
import torch
torch.set_num_threads(1)
for _ in range(15):  # after some, malloc has found its place
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
def test_freed_memory_is_not_asked_for_again():
    """20 times 64 MB, at 4 KB to 2 MB a page: thousands of page faults, or hardly any."""

    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("keep") < 100 < faults("default")


def test_a_system_without_mallopt_is_left_as_it_is(monkeypatch):
    from metalearn import memory

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory() is False

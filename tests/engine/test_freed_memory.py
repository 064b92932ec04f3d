"""Freed memory stays with the process, so that the next layer finds its pages made."""

from __future__ import annotations

import subprocess
import sys

# In a process of its own: what it asks of the C library holds for good.
_SCRIPT = """
import resource, torch
from neuroscan_farm.engine.freed_memory import keep_freed_memory

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        held = [torch.ones(4_000_000) for _ in range(4)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

new_pages()
assert keep_freed_memory()
new_pages()
print(new_pages())
"""


def test_pages_are_made_once() -> None:
    out = subprocess.run([sys.executable, "-c", _SCRIPT], check=True, capture_output=True, text=True)
    assert int(out.stdout) < 1000, "tens of thousands are made where memory comes and goes"

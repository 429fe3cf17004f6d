"""Memory that a training on the CPU frees stays with the process, and is not asked for again."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys, torch
from mmdualtoken.training.allocator import keep_freed_pages
if sys.argv[1] == "keep":
    assert keep_freed_pages()
def work():
    return (torch.ones(16, 2**20) * 2).sum().item()
for _ in range(10):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
total = sum(work() for _ in range(5))
print(total, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(mode):
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, mode]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    total, faults = done.stdout.split()[-2:]
    return float(total), int(faults)


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_pages_are_kept():
    """Five rounds of two blocks of 64 MiB, once the heap has its size: few pages are new."""
    total, faults = run("no")
    kept_total, kept_faults = run("keep")
    assert total == kept_total == 5 * 2 * 16 * 2**20
    assert kept_faults < 500 < faults / 10

"""Memory that a training on the CPU frees stays with the process, and is not asked for again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import ctypes, resource, statistics, sys, torch
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: huge pages would be few faults
from mmdualtoken.training.allocator import keep_freed_pages
if sys.argv[1] == "keep":
    assert keep_freed_pages()
def work():
    return (torch.ones(16, 2**20) * 2).sum().item()
totals, faults = [], []
for _ in range(15):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    totals.append(work())
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sum(totals), statistics.median(faults))
"""


def run(mode):
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, mode]
    own = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # with a GPU, nothing is kept
    done = subprocess.run(command, cwd=root, env=own, capture_output=True, text=True, check=True)
    total, faults = done.stdout.split()[-2:]
    return float(total), float(faults)


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_pages_are_kept():
    """Of 15 rounds of two blocks of 64 MiB, the median one asks for few new pages.

    The median, since the heap may still grow by a block in a single round.
    """
    total, faults = run("no")
    kept_total, kept_faults = run("keep")
    assert total == kept_total == 15 * 2 * 16 * 2**20
    assert kept_faults < 100 < faults / 10

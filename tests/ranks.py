"""Processes for the tests: two ranks on gloo, which run a function and hand back what it returns.

A process with the mm packages takes seconds to start, so a test file starts its ranks once and
looks at what they found case by case.
"""

import os
import socket
import subprocess
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

ROOT = Path(__file__).resolve().parent.parent
WORLD = 2


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_ranks(function, folder, *args, backend="gloo"):
    """What function(rank, *args) returns in each of two ranks, in their order."""
    port = free_port()
    mp.spawn(_rank, args=(function, str(folder), port, backend, args), nprocs=WORLD)
    return [torch.load(f"{folder}/rank{r}.pt", weights_only=False) for r in range(WORLD)]


def _rank(rank, function, folder, port, backend, args):
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(WORLD),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    dist.init_process_group(backend, timeout=timedelta(seconds=120))
    torch.save(function(rank, *args), f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def outcome(function, *args):
    """What a case returns, or its traceback as a string: one failure leaves the others."""
    try:
        return function(*args)
    except Exception:
        return traceback.format_exc()


def environment(**more):
    """The environment of tools in processes of their own, with what the tests register."""
    tests = str(Path(__file__).resolve().parent)
    path = os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH")]))
    own = dict(PYTHON=sys.executable, PYTHONPATH=path, OMP_NUM_THREADS="1", PORT=str(free_port()))
    own["CUDA_VISIBLE_DEVICES"] = ""  # one GPU would be too few
    return {**os.environ, **own, **more}


def launch(script, *args, folder=None, **more):
    """Run tools/dist_train.sh or dist_test.sh to its end, in a folder or where the test is.

    Args:
        more: of the environment.

    Returns:
        exit status, and what it printed.
    """
    command = [str(ROOT / "tools" / script), *map(str, args)]
    done = subprocess.run(
        command, cwd=folder, env=environment(**more), capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr

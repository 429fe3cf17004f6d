"""Of several processes that end with the same error, the first one prints it."""

import subprocess
import sys

import pytest
from ranks import ROOT, WORLD, environment, free_port, launch

pytestmark = pytest.mark.processes
#: A tool that ends as its argument says, in the form of rank: text; then perhaps joins the group.
SCRIPT = """
import os, sys
import torch
from mmdualtoken.errors import InputError
from mmdualtoken.cli import run_tool

def main():
    if sys.argv[1] == "group":
        torch.distributed.init_process_group("gloo")
    text = dict(a.split(":") for a in sys.argv[2:]).get(os.environ["RANK"])
    if text:
        raise InputError(text)
    if sys.argv[1] == "group":
        torch.distributed.barrier()

run_tool(main)
"""


def torchrun(folder, *args):
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={WORLD}"]
    command += [f"--master-port={free_port()}", "--master-addr=127.0.0.1"]
    done = subprocess.run(
        [*command, str(folder / "script.py"), *args],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize(
    "group, errors",
    [
        ("group", ["0:no data", "1:no data"]),
        pytest.param("no group", ["0:no data", "1:no data"], marks=pytest.mark.slow),
        pytest.param("group", ["1:no data"], marks=pytest.mark.slow),
        pytest.param("no group", ["1:no data"], marks=pytest.mark.slow),
    ],
)
def test_an_error_is_printed_once(group, errors, tmp_path):
    """That of another process alone, when the first one has had the time to end."""
    assert torchrun(tmp_path, group, *errors) == ["error: no data"]


def test_by_the_tool(project):
    """Before the processes have joined."""
    status, printed = launch("dist_train.sh", "nowhere.py", WORLD)
    assert status != 0  # torchrun's own, with its own traceback
    assert printed.count("error: Config nowhere.py does not exist") == 1


@pytest.mark.slow
def test_without_an_agent_each_process_tells(project):
    """Started by hand, nothing ends one process after the other."""
    command = [sys.executable, ROOT / "tools" / "train.py", "nowhere.py", "--launcher", "pytorch"]
    for rank in range(WORLD):
        own = environment(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD))
        done = subprocess.run(command, env=own, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.count("error: Config nowhere.py does not exist") == 1

"""The processes that read images: none holds up the others, none is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from data_faults import CLASSIFICATION_IMAGE, config_file, write_data
from tasks import ROOT

from mmdualtoken.data.check import pool


def test_interrupt(here):
    """Ctrl-C ends it at once, with a line and no traceback, and leaves no process."""
    write_data("classification")
    for number in range(3000):
        os.link(CLASSIFICATION_IMAGE, f"data/imagenet/train/disc/{number}.jpg")
    command = [sys.executable, ROOT / "tools" / "check_data.py", config_file("classification")]
    process = subprocess.Popen(
        [*command, "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test run in the background of a shell would hand on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    children = []
    while len(children) < 2:  # until the images are being read
        assert process.poll() is None
        time.sleep(0.01)
        lists = Path(f"/proc/{process.pid}/task").glob("*/children")
        children = [child for path in lists for child in path.read_text().split()]
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped by Ctrl-C" in err and "Traceback" not in err
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def hang_or_die(item):
    if item == 2:
        time.sleep(600)
    if item == 4:
        os._exit(3)
    return item, "done"


@pytest.mark.parametrize("workers", [1, 3])
def test_pool_goes_on(workers):
    """An item that hangs and one that kills its process cost only themselves."""
    results = dict(pool.run(hang_or_die, 8, workers, 3.0, lambda item, why: (item, why)))
    assert sorted(results) == list(range(8))
    assert results.pop(2) == "reading it took more than 3 s"
    assert results.pop(4) == "the process that read it died (exit code 3)"
    assert set(results.values()) == {"done"}


def test_pool_leaves_no_process():
    results = pool.run(lambda item: os.getpid(), 9, 2, 60.0, None)
    first = next(results)
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)

"""tools/demo.py runs commands of the project: a failure ends it, a Ctrl-C leaves them time."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from narrow import ROOT

#: A command that takes long enough after Ctrl-C to be killed by subprocess.run.
SLOW_TO_END = """
import signal, sys, time
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)
    print("checkpoint written", flush=True)
    sys.exit(130)
"""
START = """
import sys
sys.path.insert(0, {tools!r})
import demo
demo.run({script!r})
"""


def start(script):
    """demo.run(script), in a process group of its own as in a terminal."""
    code = START.format(tools=str(ROOT / "tools"), script=str(script))
    command = ["env", "--default-signal=INT", sys.executable, "-c", code]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, bufsize=1, start_new_session=True
    )


def test_ctrl_c_waits_for_the_checkpoint(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SLOW_TO_END)
    process = start(script)
    lines = iter(process.stdout.readline, "")
    assert any(line == "ready\n" for line in lines)
    os.killpg(process.pid, signal.SIGINT)
    rest = "".join(lines)
    assert process.wait(60) == 130
    assert "checkpoint written" in rest and "Interrupted." in rest and "make demo" in rest


def test_finished_steps_are_skipped(tmp_path, monkeypatch):
    """An interrupted training continues; a finished one is skipped."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import demo

    commands, folder = [], tmp_path / "work"
    folder.mkdir()
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    monkeypatch.setattr(demo, "run", lambda *words: commands.append(words))
    for file in ("nothing.txt", "last_checkpoint", demo.LAST):
        (folder / file).touch()
        demo.train(Path("work"))
    assert [words[-1] for words in commands] == ["work", "--resume"]


@pytest.mark.parametrize("status", [0, 2])
def test_status(status, tmp_path):
    script = tmp_path / "tool.py"
    script.write_text(f"raise SystemExit({status})")
    process = start(script)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == status
    assert ("The command above ended with 2" in printed) == (status == 2)

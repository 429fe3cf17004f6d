"""The requirement files and the steps that set an environment up."""

import errno
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tasks import ROOT

from mmdualtoken.environment import versions

sys.path.insert(0, str(ROOT / "tools"))

import setup_env  # noqa: E402


@pytest.mark.parametrize("python", ["3.10", "3.13"])
def test_pins_agree(python):
    pinned = {}
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        for line in path.read_text().splitlines():
            if not (text := line.split("#")[0].strip()):
                continue
            pin = Requirement(text)
            if pin.marker is None or pin.marker.evaluate({"python_version": python}):
                assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), line
                assert pinned.setdefault(pin.name.lower(), pin.specifier) == pin.specifier, path
    for requirement in versions.REQUIREMENTS:
        for dist, specifier in requirement.ranges.items():
            if dist != "mmcv":  # has to be compiled: mmcv-lite is pinned
                assert str(pinned[dist]) == f"=={versions.PINS[dist]}", dist
                assert versions.in_range(versions.PINS[dist], specifier), dist


def test_the_environment_is_read():
    facts = setup_env.inspect(Path(sys.executable), "onedl")
    assert tuple(facts["python"]) == sys.version_info[:2]
    assert set(facts["missing"]) == {
        f"requirements/{n}.txt" for n in (*setup_env.COMPLETED, "onedl", *setup_env.ALONE)
    }
    assert facts["missing"]["requirements/runtime.txt"] == []
    assert facts["link"].startswith("file://")
    # Of the two stacks, one is the other.
    others = [setup_env.inspect(Path(sys.executable), stack)["others"] for stack in setup_env.VENVS]
    assert sorted(map(bool, others)) == [False, True]
    assert setup_env.inspect(Path("/nowhere/python"), "onedl") == {}


def test_a_missing_and_a_changed_version_are_found(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    (tmp_path / "mmdualtoken").mkdir()
    (tmp_path / "mmdualtoken" / "version.py").write_text('__version__ = "99"\n')
    text = 'nothing-of-this-name==1.0\nnumpy==0.1  # old\ntorch==0; python_version < "3"\n'
    (tmp_path / "requirements" / "runtime.txt").write_text(text)
    monkeypatch.setattr(setup_env, "ROOT", tmp_path)
    facts = setup_env.inspect(Path(sys.executable), "onedl")
    assert facts["missing"]["requirements/runtime.txt"] == [
        "nothing-of-this-name==1.0 (found None)",
        f"numpy==0.1 (found {version('numpy')})",
    ]
    assert facts["link"] is None  # installed, but not as that version


class Machine:
    """An environment in memory: commands are noted, and install what they would install."""

    def __init__(self, root, monkeypatch):
        self.commands, self.fail_on, self.installed, self.link = [], None, None, None
        self.others = []
        self.root = root
        monkeypatch.setattr(setup_env, "ROOT", root)
        monkeypatch.setattr(setup_env, "run", self.run)
        monkeypatch.setattr(setup_env, "inspect", self.inspect)

    def inspect(self, python, stack_name):
        if self.installed is None:
            return {}
        names = (*setup_env.COMPLETED, stack_name, *setup_env.ALONE)
        files = [f"requirements/{name}.txt" for name in names]
        missing = {f: [] if f in self.installed else ["a==1 (found None)"] for f in files}
        facts = {"python": sys.version_info[:2], "missing": missing, "others": self.others}
        return {**facts, "link": self.link}

    def run(self, *command):
        text = " ".join(map(str, command[1:]))
        files = re.findall(r"requirements/\w+\.txt", text)
        kind = "venv" if "-m venv" in text else "doctor" if "doctor" in text else "package"
        self.commands.append("alone" if "--no-deps" in text and files else files and "pip" or kind)
        if self.commands[-1] == self.fail_on:
            raise setup_env.SetupError(f"exit status 1 of: {text}")
        if kind == "venv":
            self.installed = set()
            (self.root / ".venv").mkdir()
        elif files:
            self.installed |= set(files)
        elif kind == "package":
            self.link = self.root.as_uri()

    def complete(self):
        self.commands = []
        setup_env.complete("onedl")
        return self.commands


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


ALL = ["venv", "pip", "alone", "package", "doctor"]


@pytest.mark.parametrize("broken", ALL)
def test_setup_from_nothing_resumes_where_it_broke(machine, broken):
    machine.fail_on = broken
    with pytest.raises(setup_env.SetupError):
        machine.complete()
    assert machine.commands[-1] == broken
    machine.fail_on = None
    assert machine.complete() == ALL[ALL.index(broken) :]
    assert machine.complete() == []


def test_a_changed_version_is_put_right(machine):
    machine.complete()
    machine.installed.remove("requirements/export.txt")
    assert machine.complete() == ["pip", "doctor"]
    machine.installed.remove("requirements/onedl.txt")
    assert machine.complete() == ["alone", "doctor"]


def test_the_other_stack_is_not_overwritten(machine):
    machine.complete()
    machine.others, machine.link = ["mmdet"], None
    with pytest.raises(setup_env.SetupError, match=r"\.venv has mmdet of the other stack"):
        machine.complete()
    assert machine.commands == []


def test_nothing_is_compiled(monkeypatch, capfd):
    """mmcv's set-up leaves its operators out, also where pip is told not to isolate builds."""
    monkeypatch.delenv("MMCV_WITH_OPS", raising=False)
    setup_env.run(sys.executable, "-c", "import os; print(os.environ['MMCV_WITH_OPS'])")
    assert capfd.readouterr().out.endswith("\n0\n")


def test_a_broken_environment_is_moved_aside(tmp_path, monkeypatch, capsys):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    monkeypatch.setattr(setup_env, "run", lambda *command: None)
    assert setup_env.create(tmp_path / ".venv", None, False)
    (moved,) = tmp_path.glob(".venv.broken-*")
    assert (moved / "bin").is_dir() and "moved to .venv.broken-" in capsys.readouterr().out


def test_unsupported_python(monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 14))
    with pytest.raises(setup_env.SetupError, match=r"supported: 3\.10 to 3\.13"):
        setup_env.create(tmp_path / ".venv", None, False)


def test_failed_setup_ends_with_advice(monkeypatch, capsys):
    def fail(stack_name, match_python):
        raise setup_env.SetupError("exit status 1 of: pip")

    def note(command, cwd):
        print("$", *command[1:])

    monkeypatch.setattr(setup_env, "complete", fail)
    monkeypatch.setattr(setup_env, "inspect", lambda python, stack_name: {})
    monkeypatch.setattr(setup_env.subprocess, "run", note)
    assert setup_env.main(["--stack", "openmmlab"]) == 1
    out = capsys.readouterr().out
    assert "set-up of the openmmlab stack stopped: exit status 1 of: pip" in out
    assert "finished steps are skipped" in out
    assert out.endswith("The doctor's advice:\n$ -m mmdualtoken.doctor --problems\n")


def test_the_set_up_locks_a_file_that_it_can_write(monkeypatch, capsys):
    """NFS refuses others; and a file system may have no locks at all."""
    modes = []

    def lock(file, operation):
        modes.append(file.mode)
        raise OSError(errno.ENOLCK, "No locks available")

    before = Path(setup_env.__file__).read_bytes()
    monkeypatch.setattr(setup_env.fcntl, "flock", lock)
    monkeypatch.setattr(setup_env, "complete", lambda *args: False)
    assert setup_env.main([]) == 0 and modes == ["ab"]
    assert "is complete, nothing to do" in capsys.readouterr().out
    assert Path(setup_env.__file__).read_bytes() == before

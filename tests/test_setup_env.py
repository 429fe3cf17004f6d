"""The requirement files and the steps that set an environment up."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from setup_tools import FACTS, ROOT, setup_env

import mmdualtoken
from mmdualtoken import stack

# --- requirements


def test_pins_agree():
    pinned = {}
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        for dist, version in setup_env.pins(path, (3, 10)).items():
            assert pinned.setdefault(dist, version) == version, f"{dist} in {path.name}"
    assert {dist: pinned[dist] for dist in stack.PINS} == stack.PINS
    for requirement in stack.REQUIREMENTS:
        for dist, bounds in requirement.ranges.items():
            assert stack.in_range(pinned[dist], *bounds), dist


def test_pins_marker_and_bad_line(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text('# comment\ntomli==2.5.0; python_version < "3.11"\nPyYAML==6.0.3  # why\n')
    assert setup_env.pins(path, (3, 10)) == {"tomli": "2.5.0", "pyyaml": "6.0.3"}
    assert setup_env.pins(path, [3, 11]) == {"pyyaml": "6.0.3"}
    path.write_text("numpy>=2\n")
    with pytest.raises(setup_env.SetupError, match="'numpy>=2'; allowed: name==version"):
        setup_env.pins(path, (3, 10))


# --- the steps of the set-up


class Machine:
    """An environment in memory: commands are noted, and install what they would install."""

    def __init__(self, root, monkeypatch):
        self.commands, self.dists, self.fail_on = [], None, None
        self.link, self.root = None, root
        monkeypatch.setattr(setup_env, "run", self.run)
        monkeypatch.setattr(setup_env.Environment, "look", lambda env: self.look(env))
        monkeypatch.setattr(setup_env.mmcv_wheel, "probe", lambda python: dict(FACTS))
        monkeypatch.setattr(setup_env.mmcv_wheel, "obtain", self.obtain)
        shutil.copytree(ROOT / "requirements", root / "requirements")
        (root / "mmdualtoken").mkdir()
        shutil.copy(ROOT / "mmdualtoken" / "version.py", root / "mmdualtoken")

    def look(self, env):
        env.facts = {}
        if self.dists is not None:
            env.facts = {"version": sys.version_info[:2], "purelib": "/nowhere"}
            env.facts |= {"dists": dict(self.dists), "link": self.link}
        return bool(env.facts)

    def obtain(self, python, dist, version, facts):
        self.commands.append("obtain")
        return Path(f"{dist}-{version}.whl")

    def run(self, command):
        text = " ".join(map(str, command[1:]))
        name = re.search(
            r"requirements/(\w+)\.txt|(\S+)\.whl|-m (venv|mmdualtoken\.doctor)|-e", text
        )
        name = next((group for group in name.groups() if group), "package")
        self.commands.append(name)
        if name == self.fail_on:
            raise setup_env.SetupError(f"exit status 1 of: {text}")
        if name == "venv":
            self.dists = {}
            (self.root / ".venv").mkdir()
        elif name == "package":
            self.link = self.root.as_uri()
            self.dists["mmdualtoken"] = mmdualtoken.__version__
        elif "mmcv-" in name:
            self.dists["onedl-mmcv"] = "2.3.6"
        elif name != "mmdualtoken.doctor":
            path = self.root / "requirements" / f"{name}.txt"
            self.dists |= setup_env.pins(path, sys.version_info[:2])

    def complete(self):
        self.commands = []
        setup_env.Environment("onedl", self.root).complete()
        return self.commands


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


ALL = [
    "venv",
    "build",
    "runtime",
    "obtain",
    "onedl_mmcv",
    "onedl",
    "package",
    "test",
    "benchmarks",
    "export",
    "openvino",
    "inspector",
]


def test_setup_from_nothing_then_nothing_to_do(machine):
    steps = [step.replace("onedl-mmcv-2.3.6", "onedl_mmcv") for step in machine.complete()]
    assert steps == [*ALL, "mmdualtoken.doctor"]
    assert machine.complete() == []


@pytest.mark.parametrize("broken", [s for s in ALL if s not in ("obtain", "onedl_mmcv")])
def test_setup_resumes_where_it_broke(machine, broken):
    machine.fail_on = broken
    with pytest.raises(setup_env.SetupError):
        machine.complete()
    assert machine.commands[-1] == broken
    machine.fail_on = None
    steps = [step.replace("onedl-mmcv-2.3.6", "onedl_mmcv") for step in machine.complete()]
    assert steps == [*ALL[ALL.index(broken) :], "mmdualtoken.doctor"]


def test_doctor_is_asked_again_after_it_failed(machine):
    machine.fail_on = "mmdualtoken.doctor"
    for _ in range(2):
        with pytest.raises(setup_env.SetupError):
            machine.complete()
    assert machine.commands == ["mmdualtoken.doctor"]
    machine.fail_on = None
    assert machine.complete() == ["mmdualtoken.doctor"]
    assert machine.complete() == []


def test_a_changed_version_is_put_right(machine):
    machine.complete()
    machine.dists["scipy"] = "1.11.0"
    assert machine.complete() == ["runtime", "mmdualtoken.doctor"]
    machine.dists["onedl-mmcv"] = "2.2.0"
    assert machine.complete() == ["obtain", "onedl-mmcv-2.3.6", "mmdualtoken.doctor"]


def test_operators_are_built_again_for_another_torch_or_a_gpu(machine, monkeypatch):
    machine.complete()
    monkeypatch.setattr(setup_env.Environment, "surroundings", lambda env: ["2.11.0", True])
    cuda = {**FACTS, "cuda": "13.0", "archs": ["9.0"]}
    monkeypatch.setattr(setup_env.mmcv_wheel, "probe", lambda python: cuda)
    assert machine.complete()[:2] == ["obtain", "onedl-mmcv-2.3.6"]
    assert machine.complete() == []


def test_a_broken_environment_is_moved_aside(tmp_path, monkeypatch, capsys):
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(setup_env, "run", lambda command: None)
    with pytest.raises(setup_env.SetupError, match="does not run after it was made"):
        setup_env.Environment("onedl", tmp_path).create(False)
    moved = list(tmp_path.glob(".venv.broken-*"))
    assert len(moved) == 1 and (moved[0] / "bin" / "python").exists()
    assert "moved to .venv.broken-" in capsys.readouterr().out


@pytest.mark.parametrize("version", [(3, 9), (3, 13)])
def test_unsupported_python(monkeypatch, version):
    monkeypatch.setattr(setup_env.sys, "version_info", version)
    with pytest.raises(setup_env.SetupError, match=r"supported: 3\.10, 3\.11, 3\.12"):
        setup_env.check_base_python()


def test_missing_venv_module_names_the_package(monkeypatch):
    monkeypatch.setattr(setup_env.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(setup_env.SetupError, match=r"apt install python3\.\d+-venv"):
        setup_env.check_base_python()


def test_failed_setup_ends_with_advice(monkeypatch, capsys):
    def fail(self, match_python):
        raise setup_env.SetupError("exit status 1 of: pip")

    def note(command, cwd):
        print("$", *command[1:])

    monkeypatch.setattr(setup_env.Environment, "complete", fail)
    monkeypatch.setattr(setup_env.Environment, "look", lambda self: False)
    monkeypatch.setattr(setup_env.subprocess, "run", note)
    assert setup_env.main(["--stack", "openmmlab"]) == 1
    out = capsys.readouterr().out
    assert "set-up of the openmmlab stack stopped: exit status 1 of: pip" in out
    assert "finished steps are skipped" in out
    assert out.endswith("The doctor's advice:\n$ -m mmdualtoken.doctor --problems\n")

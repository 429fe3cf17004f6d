"""The commands of the Makefile, and what the packages hold."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tasks import ROOT
from test_installed import copy_sources

from mmdualtoken.environment import versions


def make(*arguments):
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_make():
    assert "make test-all" in make().stdout
    wrong = make("STACK=other", "test")
    assert wrong.returncode == 2
    assert "STACK is 'other'; allowed: onedl (the default) and openmmlab" in wrong.stderr
    without = make("PYTHON=", "setup")
    assert without.returncode == 2
    assert "no Python 3.10 to 3.13 on PATH" in without.stdout
    dry = make("-n", "STACK=openmmlab", "PYTHON=python3.11", "test").stdout
    assert "tools/setup_env.py --stack openmmlab --match-python" in dry
    assert ".venv-openmmlab/bin/python -m pytest tests -n 2" in dry
    assert "--match-python" not in make("-n", "setup").stdout


def test_ci_entry_point(tmp_path, monkeypatch):
    # `make test` hands its own make variables on, which would make the inner make name its folder.
    for name in ("MMDUALTOKEN_DATA", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        monkeypatch.delenv(name, raising=False)
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / ".ci", clone / ".ci")
    targets = "test test-processes test-install"
    (clone / "Makefile").write_text(f"{targets}:\n\t@echo data=$$MMDUALTOKEN_DATA\n")

    def run():
        done = subprocess.run([clone / ".ci" / "run"], capture_output=True, text=True, check=True)
        first, second, third = done.stdout.split()
        assert first == second == third
        return first

    assert run() == "data="
    data = re.search(r"-d (\.\./\S+)", (clone / ".ci" / "run").read_text())[1]
    data = (clone / data).resolve()
    data.mkdir(parents=True)
    assert run() == f"data={data}"
    monkeypatch.setenv("MMDUALTOKEN_DATA", "mine")
    assert run() == "data=mine"


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of what packaging reads: building in place would leave files behind."""
    folder = copy_sources(tmp_path_factory.mktemp("clone"))
    (folder / "configs" / "for_test.py").write_text("a = 1\n")
    return folder


@pytest.mark.processes
def test_wheel(clone, tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", tmp_path, clone], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("mmdualtoken-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (n for n in names if n.endswith("METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    assert "mmdualtoken/.mim/configs/for_test.py" in names
    assert "mmdualtoken/.mim/tools/train.py" in names
    assert "mmdualtoken/.mim/tools/setup_env.py" not in names  # it needs requirements/
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "mmdualtoken").rglob("*.py")}
    assert {name for name in modules if "/.mim/" not in name} <= names
    assert "mmdualtoken/ops/extension/boxes.py" in names
    assert "mmdualtoken/weights/files/tiny.safetensors" in names
    pinned = {f"mmdualtoken/.mim/requirements/{n}.txt" for n in ("runtime", "onedl", "openmmlab")}
    assert pinned < names  # for the doctor's remedies
    assert {"mmdualtoken-operators.pth", "_mmdualtoken_operators.py"} < names  # site-packages
    assert not [name for name in names if name.startswith(("tests", "tools", "configs", "lab"))]
    required = [line.split(": ", 1)[1] for line in lines if line.startswith("Requires-Dist")]
    assert [line for line in required if "extra ==" not in line] == []
    for name in ("onedl", "openmmlab"):
        extra = {line.split(";")[0].strip() for line in required if f'"{name}"' in line}
        pins = {line for line in extra if "mm" in line and not line.startswith("timm")}
        assert len(pins) == 5
        assert pins <= {f"{dist}=={version}" for dist, version in versions.PINS.items()}
        # What the mm packages leave open, and OpenCV without a display over the one with it.
        others = {re.split("[<>=]", line)[0] for line in extra - pins}
        opencv = {"opencv-python", "opencv-contrib-python-headless"}
        left_open = {"torch", "torchvision", "numpy", "setuptools", "ftfy", "regex", "timm"}
        assert others == left_open | opencv
        assert len({line.split("==")[1] for line in extra if line.startswith("opencv")}) == 1
    requires_python = next(line for line in lines if line.startswith("Requires-Python"))
    assert set(requires_python.split(": ")[1].split(",")) == {">=3.10", "<3.14"}


def test_no_file_of_the_package_is_ignored_by_git():
    """A pattern such as data/ once hid mmdualtoken/data/__init__.py, which then was in no wheel."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    files = [str(p) for d in ("mmdualtoken", "lab") for p in (ROOT / d).rglob("*.py")]
    files = [f for f in files if "/.mim/" not in f]
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *files], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    folders = {Path(f).parent for f in files if "/lab/configs/" not in f}
    assert [d for d in folders if not (d / "__init__.py").is_file()] == []


@pytest.mark.processes
def test_sdist_holds_what_setup_reads(clone, tmp_path):
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=clone, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    files = ("requirements/onedl.txt", "tools/setup_env.py", "configs/for_test.py", "LICENSE")
    for name in (*files, "_mmdualtoken_operators.py", "mmdualtoken-operators.pth"):
        assert (folder / name).is_file(), name

"""Version ranges, the check on import, and the doctor."""

import errno
import getpass
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from tasks import ROOT

import mmdualtoken
from mmdualtoken import cli
from mmdualtoken.environment import doctor, versions
from mmdualtoken.environment.versions import FAIL, OK, WARN

GOOD = {
    "torch": "2.11.0+cu130",
    "torchvision": "0.26.0",
    "numpy": "2.2.6",
    "onedl-mmengine": "0.10.12",
}
GOOD["onedl-mmcv"] = "2.3.6"


@pytest.fixture
def installed(monkeypatch):
    """Pretend that exactly these distributions are installed."""

    def pretend(dists):
        def version(name):
            if name not in dists:
                raise versions.importlib.metadata.PackageNotFoundError(name)
            return dists[name]

        monkeypatch.setattr(versions.importlib.metadata, "version", version)
        monkeypatch.setattr(versions, "checkout", lambda name: None)

    return pretend


def verdicts():
    return {finding.component: finding.verdict for finding in versions.survey()}


# --- version ranges


@pytest.mark.parametrize(
    "version, inside",
    [("2.1.0", True), ("2.1.5rc1", True), ("2.1.9+cu130", True), ("2.2.0", False)],
)
def test_ranges(version, inside):
    """Pre-releases of a version in the range are in it, too."""
    assert versions.in_range(version, ">=2.1.0,<2.2.0") is inside


def test_accepts_each_stack(installed):
    installed(GOOD)
    versions.check_stack()
    assert verdicts()["mmdet"] == WARN  # optional
    official = dict(torch="2.1.0", torchvision="0.16.0", numpy="1.26.4", mmengine="0.10.7")
    for mmcv in ("mmcv", "mmcv-lite"):
        installed({**official, mmcv: "2.1.0"})
        versions.check_stack()


OLD_MMCV = {"onedl-mmcv": None, "mmcv": "2.2.0"}
FULL = {"onedl-mmcv": None, "mmcv-full": "1.7"}


@pytest.mark.parametrize(
    ("change", "found", "required", "remedy"),
    [
        (OLD_MMCV, "mmcv 2.2.0", "mmcv >=2.1.0,<2.2.0", "mmcv-lite==2.1.0"),
        ({"onedl-mmcv": "2.2.0"}, "onedl-mmcv 2.2.0", ">=2.3.0,<3", "onedl-mmcv==2.3.6"),
        (FULL, "mmcv-full 1.7", "", "uninstall -y mmcv-full"),
        ({"torch": "2.0.1"}, "torch 2.0.1", "torch >=2.1", "pip install torch==2.11.0"),
        ({"torch": None}, "torch: found missing", "torch >=2.1", "make setup"),
        ({"onedl-mmpretrain": "2.0"}, "onedl-mmpretrain 2.0", ">=1.2.0,<2", "1.3.6"),
    ],
)
def test_refuses_with_found_required_remedy(installed, change, found, required, remedy):
    installed({k: v for k, v in {**GOOD, **change}.items() if v})
    with pytest.raises(ImportError) as caught:
        versions.check_stack()
    message = str(caught.value)
    assert all(text in message for text in (found, required, remedy, "mmdualtoken.doctor"))


@pytest.mark.parametrize("other, verdict", [("mmengine", FAIL), ("mmdet", WARN)])
def test_both_stacks_at_once(other, verdict, installed):
    """In different packages they may work; in one they overwrite each other."""
    installed({**GOOD, other: "0.10.7" if other == "mmengine" else "3.3.0"})
    assert verdicts()["one stack only"] == verdict
    if verdict == FAIL:
        with pytest.raises(ImportError, match="pip uninstall -y onedl-mmengine mmengine"):
            versions.check_stack()


def test_remedies_stay_with_the_installed_family(installed):
    installed({"torch": "2.11.0", "torchvision": "0.26.0", "numpy": "2.2.6", "mmengine": "0.10.7"})
    with pytest.raises(ImportError) as caught:
        versions.check_stack()
    assert "make STACK=openmmlab setup" in str(caught.value)
    assert "pip install mmcv-lite==2.1.0" in str(caught.value)


def test_finds_a_checkout_on_the_path(tmp_path, monkeypatch):
    (tmp_path / "mmfoo").mkdir()
    (tmp_path / "mmfoo" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    found = versions.judge(versions.Requirement("mmfoo", {"mmfoo": ">=1"}, True))
    assert (found.verdict, found.found) == (OK, f"{tmp_path}/mmfoo, of an unknown version")


# --- importing


def bare_python(code, *dists, tmp_path):
    """Run code in a Python without site-packages, the named distributions faked."""
    for dist in dists:
        info = tmp_path / f"{dist}.dist-info"
        info.mkdir()
        name, version = dist.rsplit("-", 1)
        info.joinpath("METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]\n{code}"
    return subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)


def test_import_without_a_stack(tmp_path):
    done = bare_python("import mmdualtoken", tmp_path=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("ImportError: ") == 1
    assert "torch: found missing; required torch >=2.1" in done.stderr
    assert "remedy: in a clone: make setup" in done.stderr


@pytest.mark.parametrize("module", ["packaging", "pip._vendor.packaging"])
def test_import_with_mmcv_out_of_range(module, tmp_path):
    source = Path(importlib.import_module(module).__file__).parent
    shutil.copytree(source, tmp_path.joinpath(*module.split(".")))
    dists = ("torch-2.11.0", "numpy-2.2.6", "mmengine-0.10.7", "mmcv-2.2.0")
    done = bare_python("import mmdualtoken", *dists, tmp_path=tmp_path)
    message = done.stderr.split("ImportError: ")[1]
    assert "mmcv: found mmcv 2.2.0; required" in message
    assert "pip uninstall -y mmcv; pip install mmcv-lite==2.1.0" in message
    assert "torch:" not in message


def test_a_user_without_a_name(monkeypatch):
    """As in `docker run --user 1000`, where torchvision could not be imported."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    mmdualtoken._name_the_user()
    assert getpass.getuser() == str(os.getuid())


# --- doctor


def test_doctor_without_anything(tmp_path):
    command = [sys.executable, "-S", "-m", "mmdualtoken.doctor"]
    done = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True)
    rows = {row["component"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 1
    assert set(rows["torch"]) == {"component", "found", "required", "verdict", "remedy"}
    assert (rows["torch"]["found"], rows["torch"]["verdict"]) == ("missing", FAIL)
    assert rows["mmdet"]["verdict"] == WARN
    assert rows["Python"]["verdict"] == OK
    assert "mmcv operators" not in rows  # nothing to look at yet
    done = subprocess.run([*command, "--problems"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "FAIL  torch" in done.stdout and "checks failed." in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_doctor_here(capsys):
    status = doctor.main(["--json"])
    rows = {row["component"]: row for row in json.loads(capsys.readouterr().out)}
    failed = [row for row in rows.values() if row["verdict"] == FAIL]
    assert (status, failed) == (0, [])
    assert rows["mmcv operators"]["found"].endswith("by torchvision; nms of two boxes kept [1]")
    assert rows["operators at start"]["found"].endswith("mmdualtoken-operators.pth")
    assert "DualTokenViT" in rows["registration"]["found"]


def test_doctor_isolates_checks(monkeypatch, capsys):
    def broken():
        raise RuntimeError("first line\nsecond line")

    checks = {
        "a": (broken, WARN, "do this"),
        "b": (lambda: ("found", "required", "remedy"), WARN, ""),
        "c": (lambda: None, FAIL, ""),
        "Python": doctor.CHECKS["Python"],
    }
    monkeypatch.setattr(doctor, "CHECKS", checks)
    assert doctor.main(["--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    verdicts = [(row["component"], row["verdict"]) for row in rows]
    assert verdicts == [("a", FAIL), ("b", WARN), ("Python", OK)]
    assert rows[0]["found"] == "RuntimeError: first line"
    assert rows[0]["remedy"].startswith("do this; in a clone: make ")
    assert rows[1]["remedy"] == "remedy"


def row_of(component):
    """The row of one check, None where it does not apply."""
    return next(iter(doctor.run_check(component)), None)


def test_windows(monkeypatch):
    """The tools say that they need Linux, and not that fcntl is missing."""
    assert row_of("system").verdict == OK
    monkeypatch.setattr(sys, "platform", "win32")
    row = row_of("system")
    assert (row.verdict, row.found) == (WARN, "win32") and "WSL 2" in row.remedy
    with pytest.raises(ImportError, match="need Linux"):
        importlib.reload(cli)


def test_doctor_names_the_package_of_venv(monkeypatch):
    """The set-up, whose `python -m venv` fails then, ends with the doctor's advice."""
    assert row_of("venv module").verdict == OK
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    row = row_of("venv module")
    assert row.verdict == (WARN if doctor.IN_VENV else FAIL)
    assert row.found == "without venv, ensurepip"
    assert re.fullmatch(r"Debian: apt install python3\.\d+-venv", row.remedy)


def test_doctor_warns_of_a_driver_without_its_torch(tmp_path, monkeypatch):
    """Training would run on the CPU, silently."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "NVIDIA_DRIVER", tmp_path / "version")
    assert row_of("GPU driver") is None
    (tmp_path / "version").touch()
    row = row_of("GPU driver")
    assert row.verdict == WARN and "that finds no GPU" in row.found
    assert "or update the driver" in row.remedy


@pytest.mark.parametrize(
    "mmengine, setuptools, verdict",
    [
        ("mmengine", "82.0.0", FAIL),
        ("mmengine", "80.9.0", OK),
        ("mmengine", None, FAIL),
        ("onedl-mmengine", "82.0.0", OK),
    ],
)
def test_doctor_setuptools(mmengine, setuptools, verdict, installed):
    installed({mmengine: "0.10.7", **({"setuptools": setuptools} if setuptools else {})})
    row = row_of("setuptools")
    assert row.verdict == verdict
    assert verdict == OK or re.fullmatch(r"pip install setuptools==[\d.]+", row.remedy)


def test_doctor_two_opencvs(installed):
    """The extras install two distributions of one version, which hold the same files."""
    installed({"opencv-python": "4.12.0.88", "opencv-contrib-python-headless": "4.12.0.88"})
    assert row_of("opencv").verdict == OK
    installed({"opencv-python": "4.12.0.88", "opencv-python-headless": "4.13.0.92"})
    row = row_of("opencv")
    assert row.verdict == WARN
    assert "pip install opencv-python-headless==4.12.0.88" in row.remedy


def test_doctor_misses_the_start_up_file(monkeypatch):
    monkeypatch.setattr(doctor.sysconfig, "get_path", lambda name: "/nowhere")
    row = row_of("operators at start")
    assert (row.verdict, row.found) == (WARN, "no /nowhere/mmdualtoken-operators.pth")
    monkeypatch.setattr(doctor.ops, "operators_in_use", lambda: "compiled")
    assert doctor.run_check("operators at start") == []


def test_doctor_without_kernels_for_the_gpu(monkeypatch):
    def fail(device):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(doctor, "run_nms", fail)
    row = row_of("CUDA")
    assert row.verdict == FAIL and "no kernel image" in row.found
    assert "export MMDUALTOKEN_OPS=torchvision" in row.remedy


# --- disks


Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def disk(monkeypatch):
    """Pretend that every disk has that many GiB, all free, and can be written or not."""

    def pretend(size, writable=True):
        usage = Usage(int(size * 2**30), 0, int(size * 2**30))
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
        monkeypatch.setattr(os, "access", lambda folder, mode: writable)

    return pretend


def test_shared_memory(disk, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path)
    disk(8)
    assert row_of("shared memory").verdict == OK
    disk(1 / 16)  # docker's default
    row = row_of("shared memory")
    assert row.verdict == WARN and "0.062 GiB" in row.found and "--shm-size=8g" in row.remedy
    disk(8, writable=False)  # or it is missing
    row = row_of("shared memory")
    assert row.verdict == WARN and row.found.startswith("0 GiB")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert row_of("shared memory") is None


def test_downloads(disk, tmp_path, monkeypatch):
    pytest.importorskip("torch.hub", reason="torch is not installed")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "new" / "folder"))
    disk(8)
    row = row_of("download cache")
    assert row.verdict == OK and row.found.startswith(f"{tmp_path}/new/folder/hub/checkpoints: 8")
    for state in ((0.5, True), (8, False)):
        disk(*state)
        row = row_of("download cache")
        assert row.verdict == WARN and "TORCH_HOME" in row.remedy
    assert "not writable" in row.found


def test_temporary_files(monkeypatch):
    assert row_of("temporary files").verdict == OK

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    row = row_of("temporary files")
    assert row.verdict == FAIL and "No space left" in row.found and "TMPDIR" in row.remedy

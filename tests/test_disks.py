"""The doctor's rows about disks."""

import errno
import os
import shutil
import tempfile
from collections import namedtuple

import pytest

from mmdualtoken.environment import disks, doctor
from mmdualtoken.environment.versions import FAIL, OK, WARN

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
    monkeypatch.setattr(disks, "SHARED_MEMORY", tmp_path)
    disk(8)
    assert disks.check_shared_memory().verdict == OK
    disk(1 / 16)  # docker's default
    row = disks.check_shared_memory()
    assert row.verdict == WARN and "0.062 GiB" in row.found and "--shm-size=8g" in row.remedy
    monkeypatch.setattr(disks, "SHARED_MEMORY", tmp_path / "none")  # not on Linux
    assert disks.check_shared_memory() is None


def test_downloads(disk, tmp_path, monkeypatch):
    torch_hub = pytest.importorskip("torch.hub", reason="torch is not installed")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "new" / "folder"))
    assert disks.download_dir() == tmp_path / "new/folder/hub/checkpoints"
    assert str(disks.download_dir()) == f"{torch_hub.get_dir()}/checkpoints"
    disk(8)
    assert disks.check_downloads().verdict == OK
    for state in ((0.5, True), (8, False)):
        disk(*state)
        row = disks.check_downloads()
        assert row.verdict == WARN and "TORCH_HOME" in row.remedy
    assert "not writable" in row.found


def test_torch_keeps_downloads_there(tmp_path, monkeypatch):
    torch_hub = pytest.importorskip("torch.hub", reason="torch is not installed")
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert str(disks.download_dir()) == f"{torch_hub.get_dir()}/checkpoints"


def test_temporary_files(monkeypatch):
    assert disks.check_temporary().verdict == OK

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    row = disks.check_temporary()
    assert row.verdict == FAIL and "No space left" in row.found and "TMPDIR" in row.remedy


def test_doctor_asks_for_all_of_them(disk, tmp_path, monkeypatch):
    monkeypatch.setattr(disks, "SHARED_MEMORY", tmp_path)
    disk(0.01, writable=False)
    names = {"disk space", "download cache", "temporary files", "shared memory"}
    rows = {row.component: row for row in doctor.run_checks() if row.component in names}
    assert set(rows) == names
    bad = {name for name, row in rows.items() if row.verdict != OK}
    assert bad == names - {"temporary files"}

"""The doctor's rows about disks."""

import errno
import os
import shutil
import tempfile
from collections import namedtuple

import pytest

from mmdualtoken.environment import doctor
from mmdualtoken.environment.versions import FAIL, OK, WARN

Usage = namedtuple("Usage", "total used free")


def row_of(component):
    """The row of one check, None where it does not apply."""
    return next(iter(doctor.run_check(component)), None)


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
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path / "none")  # not on Linux
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

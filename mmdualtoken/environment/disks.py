"""What the doctor says about disks: folders that must be writable, and room for workers."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from mmdualtoken.environment import versions
from mmdualtoken.environment.versions import FAIL, WARN, Finding

GIB = 2**30
SHARED_MEMORY = Path("/dev/shm")


def download_dir() -> Path:
    """Where torch keeps the checkpoints it downloads."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TORCH_HOME") or Path(home) / "torch") / "hub" / "checkpoints"


def _free(folder: Path) -> tuple[float, bool]:
    """Free GiB where a folder is or would be, and whether it can be written."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / GIB, os.access(folder, os.W_OK)


def check_disk() -> Finding:
    """Free space for the environment; torch with its CUDA libraries takes 5 GiB."""
    needed = 8 if versions.installed_version("torch") is None else 1
    free = shutil.disk_usage(sys.prefix).free / GIB
    row = ("disk space", f"{free:.0f} GiB free", f"{needed} GiB for the environment")
    return Finding(*row) if free >= needed else Finding(*row, FAIL, "free some space")


def check_downloads() -> Finding:
    """Checkpoints given as URLs are kept in torch's cache."""
    folder = download_dir()
    free, writable = _free(folder)
    state = f"{free:.0f} GiB free" if writable else "not writable"
    row = ("download cache", f"{folder}: {state}", "writable, 1 GiB, for checkpoints from URLs")
    if free >= 1 and writable:
        return Finding(*row)
    return Finding(*row, WARN, "set TORCH_HOME to a folder on a disk with space")


def check_temporary() -> Finding:
    """MMEngine reads every config through a temporary folder."""
    component, required = "temporary files", "a file of 1 MiB can be written, to read configs"
    remedy = "set TMPDIR to a folder on a disk with space"
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"\0" * 2**20)
    except OSError as error:
        return Finding(component, f"{type(error).__name__}: {error}", required, FAIL, remedy)
    return Finding(component, tempfile.gettempdir(), required)


def check_shared_memory() -> Finding | None:
    """Workers of a DataLoader hand over batches in shared memory; containers often have 64 MiB."""
    if not SHARED_MEMORY.is_dir():
        return None
    total = shutil.disk_usage(SHARED_MEMORY).total / GIB
    row = ("shared memory", f"{total:.2g} GiB in {SHARED_MEMORY}", "1 GiB for DataLoader workers")
    if total >= 1:
        return Finding(*row)
    remedy = "docker run --shm-size=8g (or --ipc=host); else train_dataloader.num_workers=0 and "
    remedy += "persistent_workers=False"
    return Finding(*row, WARN, remedy)

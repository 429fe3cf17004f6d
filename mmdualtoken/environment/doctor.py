"""``python -m mmdualtoken.doctor``: a table of everything the project needs.

Each row says what was found, what is required, the verdict and the remedy. The exit status is 1 if
a row says FAIL. A bare Python is enough to run it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import shutil
import sys
import sysconfig
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

from mmdualtoken import ops
from mmdualtoken.environment import versions
from mmdualtoken.environment.versions import FAIL, OK, WARN, Finding, installed_version

GIB = 2**30
SHARED_MEMORY = Path("/dev/shm")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
COLOURS = {OK: 32, WARN: 33, FAIL: 31}

# A check returns (found, required, remedy or "" if all is well), or None where it does not apply.


def check_python() -> tuple:
    """The running interpreter's version."""
    low, end = versions.MIN_PYTHON, versions.END_PYTHON
    remedy = "name another: make PYTHON=python3.11 setup"
    found = ".".join(map(str, sys.version_info[:3]))
    required = f">={low[0]}.{low[1]},<{end[0]}.{end[1]}"
    return found, required, "" if low <= sys.version_info[:2] < end else remedy


def check_system() -> tuple:
    """Linux, where the tools run; elsewhere parts of them do not."""
    remedy = "" if sys.platform == "linux" else "use Linux (on Windows, WSL 2), or a container"
    return sys.platform, "linux", remedy


def check_make() -> tuple:
    """make, which the documented commands use."""
    found = shutil.which("make")
    return found or "missing", "for make setup, test, demo", "" if found else "install make"


def check_venv() -> tuple:
    """The standard modules that create a virtual environment."""
    if missing := [m for m in ("venv", "ensurepip") if importlib.util.find_spec(m) is None]:
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        return f"without {', '.join(missing)}", "for make", f"Debian: apt install {package}"
    return "present", "for make", ""


def check_disk() -> tuple:
    """Free space for the environment; torch with its CUDA libraries takes 5 GiB."""
    needed = 8 if installed_version("torch") is None else 1
    free = shutil.disk_usage(sys.prefix).free / GIB
    remedy = "" if free >= needed else "free some space"
    return f"{free:.0f} GiB free", f"{needed} GiB for the environment", remedy


def check_downloads() -> tuple | None:
    """Checkpoints given as URLs are kept in torch's cache."""
    if installed_version("torch") is None:
        return None
    import torch.hub

    folder = Path(torch.hub.get_dir(), "checkpoints")
    existing = next(f for f in (folder, *folder.parents) if f.exists())
    free, writable = shutil.disk_usage(existing).free / GIB, os.access(existing, os.W_OK)
    found = f"{folder}: " + (f"{free:.0f} GiB free" if writable else "not writable")
    remedy = "" if free >= 1 and writable else "set TORCH_HOME to a folder on a disk with space"
    return found, "writable, 1 GiB, for checkpoints from URLs", remedy


def check_temporary() -> tuple:
    """MMEngine reads every config through a temporary folder."""
    with tempfile.TemporaryFile() as file:
        file.write(b"\0" * 2**20)
    return tempfile.gettempdir(), "a file of 1 MiB can be written, to read configs", ""


def check_shared_memory() -> tuple | None:
    """Workers of a DataLoader hand over batches in shared memory; containers often have 64 MiB."""
    if sys.platform != "linux":
        return None
    usable = os.access(SHARED_MEMORY, os.W_OK)  # not where it is missing
    total = shutil.disk_usage(SHARED_MEMORY).total / GIB if usable else 0
    remedy = "docker run --shm-size=8g (or --ipc=host); else train_dataloader.num_workers=0 and "
    remedy = "" if total >= 1 else remedy + "persistent_workers=False"
    return f"{total:.2g} GiB to write to in {SHARED_MEMORY}", "1 GiB for DataLoader workers", remedy


def check_import(name: str) -> tuple | None:
    """A package imports together with the others; the row of its name judges its version."""
    if installed_version(name) is None:
        return None
    return importlib.import_module(name).__version__, f"import {name}", ""


def check_opencv() -> tuple:
    """OpenCV imports, and its distributions do not overwrite each other with other versions."""
    import cv2

    names = [f"opencv{c}-python{h}" for c in ("", "-contrib") for h in ("", "-headless")]
    found = {name: version for name in names if (version := installed_version(name))}
    if len(set(found.values())) <= 1:
        return cv2.__version__, "import cv2", ""
    text = " and ".join(f"{dist} {version}" for dist, version in found.items())
    return text, "one version", f"they overwrite each other: {opencv_command()}"


def opencv_command() -> str:
    """The pip command that puts an OpenCV without a display over any other, and nothing else."""
    return f"{versions.pip_command('opencv-python-headless')} --force-reinstall --no-deps"


def check_setuptools() -> tuple:
    """setuptools: mmengine 0.10.7 imports pkg_resources, which version 82 removed."""
    found = installed_version("setuptools") or "missing"
    if installed_version("mmengine") is None:
        return found, "any", ""
    good = found != "missing" and versions.in_range(found, "<82")
    remedy = "" if good else versions.pip_command("setuptools")
    return found, "<82 (mmengine imports pkg_resources)", remedy


def has_mmcv() -> bool:
    """Whether torch and mmcv are there."""
    mmcv = next(r for r in versions.REQUIREMENTS if r.name == "mmcv")
    return installed_version("torch") is not None and bool(versions.find(mmcv))


def run_nms(device: str) -> list[int]:
    """Give mmcv's nms two boxes, of which it has to keep the second: [1]."""
    ops.enable_operators()
    import torch
    from mmcv.ops import nms

    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 8.0]], device=device)
    return nms(boxes, torch.tensor([0.8, 0.9], device=device), 0.5)[1].tolist()


def check_operators() -> tuple | None:
    """mmcv's operators, compiled or ours, load and compute."""
    if not has_mmcv():
        return None
    kept = run_nms("cpu")
    origin = dict(compiled="compiled with mmcv", torchvision="mmdualtoken's, by torchvision")
    found = f"{origin[ops.operators_in_use()]}; nms of two boxes kept {kept}"
    return found, "nms keeps [1]", "" if kept == [1] else versions.setup_command()


def check_start_up() -> tuple | None:
    """Where mmcv has no compiled operators, Python makes ours importable when it starts."""
    if not has_mmcv() or ops.operators_in_use() == "compiled":
        return None
    file = Path(sysconfig.get_path("purelib"), "mmdualtoken-operators.pth")
    required = "mmdet.apis and mmseg.apis can be imported before mmdualtoken"
    if file.is_file():
        return str(file), required, ""
    return f"no {file}", required, "install mmdualtoken, or import it before them"


def check_driver() -> tuple | None:
    """A torch that cannot use this machine's NVIDIA driver would train on the CPU, silently."""
    if installed_version("torch") is None or not NVIDIA_DRIVER.is_file():
        return None
    import torch

    required = "torch can use the NVIDIA driver"
    if torch.cuda.is_available():
        return f"torch for CUDA {torch.version.cuda}", required, ""
    remedy = "install the torch that PyTorch's page names for this driver, or update the driver"
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU alone"
    return f"a driver, and a torch {built} that finds no GPU", required, remedy


def check_cuda() -> tuple | None:
    """With a GPU, the operators must have kernels for it."""
    if not has_mmcv():
        return None
    import torch

    if not torch.cuda.is_available():
        return "no GPU", "GPU optional", ""
    run_nms("cuda")
    return torch.cuda.get_device_name(0), "mmcv's operators run on the GPU", ""


def check_pycocotools() -> tuple | None:
    """pycocotools, which mmdet's metrics use."""
    if all(installed_version(d) is None for d in ("mmdet", "onedl-mmdetection")):
        return None
    import pycocotools.mask  # noqa: F401

    return installed_version("pycocotools") or "?", "for mmdet", ""


def check_registration() -> tuple | None:
    """The backbone is found by name, and what configs name besides can be imported."""
    if any(row.verdict == FAIL for row in versions.survey()):
        return None  # other rows say why it cannot work
    from mmengine.registry import MODELS

    import mmdualtoken.models  # noqa: F401

    registered = importlib.import_module("mmdualtoken.registration").COMPONENTS
    for module in (*(module for _, module, _ in registered), "data.check", "inference", "export"):
        importlib.import_module(f"mmdualtoken.{module}")
    found = MODELS.get("DualTokenViT")
    return str(found), "DualTokenViT in MODELS", "" if found else "reinstall mmdualtoken"


SPACE = "to a folder on a disk with space that you can write to"
IN_VENV = sys.prefix != sys.base_prefix  # one that exists needs no modules to create it
#: Component -> check, verdict of a remedy, and the remedy if the check raises, which is a FAIL.
CHECKS = {
    "Python": (check_python, FAIL, ""),
    "system": (check_system, WARN, ""),
    "make": (check_make, WARN, ""),
    "venv module": (check_venv, WARN if IN_VENV else FAIL, ""),
    "disk space": (check_disk, FAIL, ""),
    "download cache": (check_downloads, WARN, f"set TORCH_HOME {SPACE}"),
    "temporary files": (check_temporary, FAIL, f"set TMPDIR {SPACE}"),
    "shared memory": (check_shared_memory, WARN, ""),
    "versions": (versions.survey, FAIL, ""),  # a row for each package
    "torch imports": (partial(check_import, "torch"), FAIL, "reinstall torch"),
    "torchvision imports": (
        partial(check_import, "torchvision"),
        FAIL,
        "install the torchvision that matches this torch",
    ),
    "opencv": (check_opencv, WARN, opencv_command()),
    "setuptools": (check_setuptools, FAIL, ""),
    "mmcv operators": (
        check_operators,
        FAIL,
        "compiled for another torch? Reinstall mmcv, or: export MMDUALTOKEN_OPS=torchvision",
    ),
    "operators at start": (check_start_up, WARN, ""),
    "GPU driver": (check_driver, WARN, ""),
    "CUDA": (check_cuda, FAIL, "export MMDUALTOKEN_OPS=torchvision, with torchvision for CUDA"),
    "pycocotools": (check_pycocotools, FAIL, "pip install pycocotools"),
    "registration": (check_registration, FAIL, ""),
}


def run_check(component: str) -> list[Finding]:
    """Run one check; what it raises becomes a FAIL row."""
    check, verdict, remedy = CHECKS[component]
    try:
        # Some packages print while they are imported; --json must stay readable.
        with contextlib.redirect_stdout(sys.stderr):
            result = check()
    except (Exception, SystemExit) as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        remedy = "; ".join(filter(None, [remedy, versions.setup_command()]))
        return [Finding(component, text, "works", FAIL, remedy)]
    if isinstance(result, tuple):
        found, required, remedy = result
        return [Finding(component, found, required, verdict if remedy else OK, remedy)]
    return result or []


def as_text(rows: list[Finding], colours: bool) -> str:
    """Format rows as columns, each remedy on its own line, in the colours of the verdicts."""
    width = max(len(row.component) for row in rows)
    lines = []
    for row in rows:
        line = f"{row.verdict:<4}  {row.component:<{width}}  found {row.found}; "
        line += f"required {row.required}"
        line += f"\n{'':<{width + 8}}remedy: {row.remedy}" if row.remedy else ""
        lines.append(f"\033[{COLOURS[row.verdict]}m{line}\033[0m" if colours else line)
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Print the table; returns the exit status, 1 if a row says FAIL."""
    parser = argparse.ArgumentParser(prog="python -m mmdualtoken.doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--problems", action="store_true", help="only rows that are not OK")
    args = parser.parse_args(argv)
    rows = [row for component in CHECKS for row in run_check(component)]
    failed = sum(row.verdict == FAIL for row in rows)
    shown = [row for row in rows if row.verdict != OK] if args.problems else rows
    if args.json:
        print(json.dumps([asdict(row) for row in shown], indent=2))
        return 1 if failed else 0
    if shown:
        print(as_text(shown, colours=sys.stdout.isatty()))
    print(f"{failed} of {len(rows)} checks failed." if failed else "Nothing is wrong.")
    return 1 if failed else 0

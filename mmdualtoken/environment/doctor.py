"""``python -m mmdualtoken.doctor``: a table of everything the project needs.

Each row says what was found, what is required, the verdict and the remedy. Exit status 1 if
something is wrong. Runs with a bare Python too: then it says what is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import shutil
import sys
import sysconfig
from dataclasses import asdict
from functools import partial
from pathlib import Path

from mmdualtoken import ops
from mmdualtoken.environment import disks, versions
from mmdualtoken.environment.versions import FAIL, OK, WARN, Finding

MMCV = next(r for r in versions.REQUIREMENTS if r.name == "mmcv")
COLUMNS = ("component", "found", "required", "verdict", "remedy")


def check_python() -> Finding:
    """The running interpreter's version."""
    low, end = versions.MIN_PYTHON, versions.END_PYTHON
    found = ".".join(map(str, sys.version_info[:3]))
    text = f">={low[0]}.{low[1]},<{end[0]}.{end[1]}"
    if low <= sys.version_info[:2] < end:
        return Finding("Python", found, text)
    return Finding("Python", found, text, FAIL, "name another: make PYTHON=python3.11 setup")


def check_venv() -> Finding:
    """The standard modules that create a virtual environment."""
    missing = [m for m in ("venv", "ensurepip") if importlib.util.find_spec(m) is None]
    row = ("venv module", f"without {', '.join(missing)}" if missing else "present", "for make")
    if not missing:
        return Finding(*row)
    # In an environment that exists, the modules have done their work.
    verdict = WARN if sys.prefix != sys.base_prefix else FAIL
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    return Finding(*row, verdict, f"Debian: apt install {package}")


def check_make() -> Finding:
    """make, which the documented commands use."""
    found = shutil.which("make")
    if found:
        return Finding("make", found, "for make setup, test, demo")
    return Finding("make", "missing", "for make setup, test, demo", WARN, "install make")


def check_import(name: str) -> Finding | None:
    """A package imports, beside the others (the stack's rows judge its version)."""
    if versions.installed_version(name) is None:
        return None
    module = importlib.import_module(name)
    return Finding(f"{name} imports", module.__version__, f"import {name}")


def check_opencv() -> Finding:
    """OpenCV imports, and its distributions do not overwrite each other with other versions."""
    name, required = "opencv", "import cv2"
    family = [f"opencv{contrib}-python" for contrib in ("", "-contrib")]
    dists = {
        dist: version
        for dist in (*family, *(f"{d}-headless" for d in family))
        if (version := versions.installed_version(dist))
    }
    again = f"pip uninstall -y {' '.join(dists)}; pip install opencv-python-headless"
    try:
        import cv2
    except ImportError as error:
        return Finding(name, f"{', '.join(dists) or 'missing'}: {error}", required, FAIL, again)
    if len(set(dists.values())) > 1:
        found = " and ".join(f"{dist} {version}" for dist, version in dists.items())
        return Finding(name, found, "one version", WARN, f"they overwrite each other: {again}")
    return Finding(name, cv2.__version__, required)


def check_setuptools() -> Finding:
    """setuptools: mmengine 0.10.7 imports pkg_resources, which version 82 removed."""
    found = versions.installed_version("setuptools")
    if versions.installed_version("mmengine") is None:
        return Finding("setuptools", found or "missing", "any")
    row = ("setuptools", found or "missing", "<82 (mmengine imports pkg_resources)")
    if found and versions.in_range(found, "0", "82"):
        return Finding(*row)
    return Finding(*row, FAIL, "pip install setuptools==80.9.0")


def check_operators() -> Finding | None:
    """mmcv's operators, compiled or ours, load and compute."""
    if versions.installed_version("torch") is None or not versions.find(MMCV):
        return None
    ops.enable_operators()
    import torch
    from mmcv.ops import nms

    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 8.0]])
    kept = nms(boxes, torch.tensor([0.8, 0.9]), 0.5)[1].tolist()
    origin = {"compiled": "compiled with mmcv", "torchvision": "mmdualtoken's, by torchvision"}
    found = f"{origin[ops.operators_in_use()]}; nms of two boxes kept {kept}"
    row = ("mmcv operators", found, "nms keeps [1]")
    return Finding(*row) if kept == [1] else Finding(*row, FAIL, versions.setup_command())


def check_start_up() -> Finding | None:
    """Where mmcv has no compiled operators, Python makes ours importable when it starts."""
    if not versions.find(MMCV) or ops.operators_in_use() == "compiled":
        return None
    file = Path(sysconfig.get_path("purelib"), "mmdualtoken-operators.pth")
    required = "mmdet.apis and mmseg.apis can be imported before mmdualtoken"
    if file.is_file():
        return Finding("operators at start", str(file), required)
    remedy = "install mmdualtoken, or import it before them"
    return Finding("operators at start", f"no {file}", required, WARN, remedy)


def check_cuda() -> Finding | None:
    """With a GPU, the operators must have kernels for it."""
    if versions.installed_version("torch") is None or not versions.find(MMCV):
        return None
    ops.enable_operators()
    import torch
    from mmcv.ops import nms

    if not torch.cuda.is_available():
        return Finding("CUDA", "no GPU", "GPU optional")
    found, required = torch.cuda.get_device_name(0), "mmcv's operators run on the GPU"
    try:
        nms(torch.ones(1, 4, device="cuda"), torch.ones(1, device="cuda"), 0.5)
    except (RuntimeError, NotImplementedError) as error:
        remedy = "export MMDUALTOKEN_OPS=torchvision, with a torchvision built for CUDA"
        return Finding("CUDA", f"{found}: {str(error)[:80]}", required, FAIL, remedy)
    return Finding("CUDA", found, required)


def check_pycocotools() -> Finding | None:
    """pycocotools, which mmdet's metrics use."""
    if all(versions.installed_version(d) is None for d in ("mmdet", "onedl-mmdetection")):
        return None
    import pycocotools.mask  # noqa: F401

    return Finding("pycocotools", versions.installed_version("pycocotools") or "?", "for mmdet")


def check_registration() -> Finding | None:
    """The backbone is found by name."""
    if any(f.verdict == FAIL for f in versions.survey()):
        return None  # the rows above say why it cannot work
    from mmengine.registry import MODELS

    import mmdualtoken.models  # noqa: F401

    row = ("registration", f"{MODELS.get('DualTokenViT')}", "DualTokenViT in MODELS")
    if MODELS.get("DualTokenViT") is not None:
        return Finding(*row)
    return Finding(*row, FAIL, "reinstall mmdualtoken")


#: (component named if the check itself raises, check, remedy then)
CHECKS = (
    ("Python", check_python, ""),
    ("make", check_make, ""),
    ("venv module", check_venv, ""),
    ("disk space", disks.check_disk, ""),
    ("download cache", disks.check_downloads, "set TORCH_HOME to a folder you can write to"),
    ("temporary files", disks.check_temporary, "set TMPDIR to a folder you can write to"),
    ("shared memory", disks.check_shared_memory, ""),
    ("versions", versions.survey, ""),
    ("torch imports", partial(check_import, "torch"), "reinstall torch"),
    (
        "torchvision imports",
        partial(check_import, "torchvision"),
        "install the torchvision that matches this torch",
    ),
    ("opencv", check_opencv, "pip install opencv-python-headless"),
    ("setuptools", check_setuptools, ""),
    (
        "mmcv operators",
        check_operators,
        "compiled for another torch? Reinstall mmcv, or: export MMDUALTOKEN_OPS=torchvision",
    ),
    ("operators at start", check_start_up, ""),
    ("CUDA", check_cuda, ""),
    ("pycocotools", check_pycocotools, "pip install pycocotools"),
    ("registration", check_registration, ""),
)


def run_checks(checks=CHECKS) -> list:
    """Run each check by itself: what one raises becomes its FAIL row."""
    rows = []
    for component, check, remedy in checks:
        try:
            # Some packages print while they are imported; --json must stay readable.
            with contextlib.redirect_stdout(sys.stderr):
                result = check()
        except (Exception, SystemExit) as error:
            lines = f"{type(error).__name__}: {error}".splitlines()
            remedy = "; ".join(filter(None, [remedy, versions.setup_command()]))
            result = Finding(component, lines[0][:200], "works", FAIL, remedy)
        rows += result if isinstance(result, list) else [result] if result else []
    return rows


def as_text(rows: list) -> str:
    """The table as plain columns, the remedy of a row on a line of its own."""
    widths = [max(len(getattr(row, c)) for row in rows) for c in ("verdict", "component")]
    lines = []
    for row in rows:
        head = f"{row.verdict:<{widths[0]}}  {row.component:<{widths[1]}}"
        lines.append(f"{head}  found {row.found}; required {row.required}")
        if row.remedy:
            lines.append(f"{'':<{sum(widths) + 4}}remedy: {row.remedy}")
    return "\n".join(lines)


def print_table(rows: list) -> None:
    """Print the table with rich where it is there and the terminal is wide enough."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        Console = None
    if Console is None or not sys.stdout.isatty() or Console().width < 100:
        print(as_text(rows))
        return
    colours = {OK: "green", WARN: "yellow", FAIL: "red"}
    table = Table(*COLUMNS)
    for row in rows:
        cells = [getattr(row, column) for column in COLUMNS]
        table.add_row(*(cell.replace("[", r"\[") for cell in cells), style=colours[row.verdict])
    Console().print(table)


def main(argv: list | None = None) -> int:
    """Print the table; returns the exit status, 1 if a row says FAIL."""
    parser = argparse.ArgumentParser(prog="python -m mmdualtoken.doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--problems", action="store_true", help="only rows that are not OK")
    args = parser.parse_args(argv)
    rows = run_checks()
    failed = sum(row.verdict == FAIL for row in rows)
    shown = [row for row in rows if row.verdict != OK] if args.problems else rows
    if args.json:
        print(json.dumps([asdict(row) for row in shown], indent=2))
        return 1 if failed else 0
    if shown:
        print_table(shown)
    print(f"{failed} of {len(rows)} checks failed." if failed else "Nothing is wrong.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

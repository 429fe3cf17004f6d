"""The supported versions of torch and the mm packages, and the check on import.

Two families of distributions provide the same import packages: the official ones and the maintained
forks (``onedl-*``). Without torch and the mm packages this module needs ``packaging`` or pip only.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

OK, WARN, FAIL = "OK", "WARN", "FAIL"
MIN_PYTHON, END_PYTHON = (3, 10), (3, 14)
PACKAGE = Path(__file__).resolve().parent.parent
#: Where a wheel keeps the requirement files, and where a clone does.
REQUIREMENT_FOLDERS = (PACKAGE / ".mim" / "requirements", PACKAGE.parent / "requirements")


def read_pins() -> dict[str, str]:
    """Read distribution -> version from the requirement files of both stacks."""
    pins: dict[str, str] = {}
    folder = next((f for f in REQUIREMENT_FOLDERS if f.is_dir()), None)
    for name in ("runtime", "onedl", "openmmlab") if folder else ():
        text = (folder / f"{name}.txt").read_text(encoding="utf-8")
        pins.update(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.M))
    return pins


PINS = read_pins()


@dataclass(frozen=True)
class Requirement:
    """An import package, and the versions of each distribution that provides it."""

    name: str
    #: Distribution -> supported versions; the first one is of the maintained stack.
    ranges: dict[str, str]
    needed_at_import: bool = False
    #: Distributions that provide the import package without what the project needs.
    unusable: tuple[str, ...] = ()


REQUIREMENTS = (
    Requirement("torch", {"torch": ">=2.1"}, True),
    Requirement("torchvision", {"torchvision": ">=0.16"}, True),
    Requirement("numpy", {"numpy": ">=1.21,<3"}, True),
    Requirement("mmengine", {"onedl-mmengine": ">=0.10.7,<1.0", "mmengine": ">=0.10.7,<1.0"}, True),
    # mmdet 3.3.0 and mmsegmentation 1.2.2 refuse mmcv 2.2.0; the forks accept their own 2.3.
    # mmcv-lite is mmcv without operators, which mmdualtoken.ops brings.
    Requirement(
        "mmcv",
        {"onedl-mmcv": ">=2.3.0,<3", "mmcv": ">=2.1.0,<2.2.0", "mmcv-lite": ">=2.1.0,<2.2.0"},
        True,
        unusable=("mmcv-full",),
    ),
    Requirement("mmdet", {"onedl-mmdetection": ">=3.3.0,<4", "mmdet": ">=3.3.0,<4"}),
    Requirement("mmseg", {"onedl-mmsegmentation": ">=1.2.2,<2", "mmsegmentation": ">=1.2.2,<2"}),
    Requirement("mmpretrain", {"onedl-mmpretrain": ">=1.2.0,<2", "mmpretrain": ">=1.2.0,<2"}),
)
MM_PACKAGES = tuple(r for r in REQUIREMENTS if r.name.startswith("mm"))


@dataclass(frozen=True)
class Finding:
    """A row of the doctor's table."""

    component: str
    found: str
    required: str
    verdict: str = OK
    remedy: str = ""


def in_range(version: str, specifier: str) -> bool:
    """Whether a version, which may be a pre-release, is within a range such as ``>=2.1,<3``."""
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:  # before the packages are installed
        from pip._vendor.packaging.specifiers import SpecifierSet
    return SpecifierSet(specifier).contains(version, prereleases=True)


def installed_version(dist: str) -> str | None:
    """The version of a distribution, None where it is not installed."""
    try:
        return metadata.version(dist)
    except metadata.PackageNotFoundError:
        return None


def checkout(name: str) -> str | None:
    """The folder of an import package, as of a checkout on PYTHONPATH; it is not imported."""
    spec = importlib.util.find_spec(name)
    return next(iter(spec.submodule_search_locations or ()), None) if spec else None


def find(requirement: Requirement) -> dict[str, str]:
    """Distribution -> version of everything installed that provides the import package."""
    names = [*requirement.ranges, *requirement.unusable]
    return {name: version for name in names if (version := installed_version(name))}


def families() -> dict[str, list[str]]:
    """Family ('onedl' or 'openmmlab') -> its installed mm distributions."""
    found: dict[str, list[str]] = {}
    for dist in (dist for requirement in MM_PACKAGES for dist in find(requirement)):
        family = "onedl" if dist.startswith("onedl-") else "openmmlab"
        found.setdefault(family, []).append(dist)
    return found


def uses_openmmlab() -> bool:
    """Whether remedies name the official packages: they, or their environment, are there."""
    found = families()
    return "onedl" not in found and bool(found or sys.prefix.endswith(".venv-openmmlab"))


def setup_command() -> str:
    """The command that installs in a clone what is missing."""
    return f"in a clone: make {'STACK=openmmlab ' if uses_openmmlab() else ''}setup"


def pip_command(dist: str) -> str:
    """The command that installs the pinned version; mmcv-lite for mmcv, which pip would compile."""
    remove = "pip uninstall -y mmcv; " if dist == "mmcv" else ""
    name = "mmcv-lite" if dist == "mmcv" else dist
    return f"{remove}pip install {name}" + (f"=={PINS[name]}" if name in PINS else "")


def judge(requirement: Requirement) -> Finding:
    """Compare the installed version of an import package with the supported range."""
    found, ranges = find(requirement), requirement.ranges
    text = ", ".join(f"{name} {version}" for name, version in found.items()) or "missing"
    default = pip_command(list(ranges)[-1 if uses_openmmlab() else 0])
    dist, version = next(iter(found.items()), (None, None))
    verdict, remedy = FAIL, ""
    if len(found) > 1:
        keep = next(d for d in found if d in ranges)
        remedy = f"these overwrite each other: pip uninstall -y {' '.join(found)}; "
        remedy += f"then one of them: {pip_command(keep)}"
    elif dist in requirement.unusable:
        remedy = f"{dist} lacks what is needed: pip uninstall -y {dist}; {default}"
    elif found and not in_range(version, ranges[dist]):
        remedy = pip_command(dist)
    elif found:
        verdict = OK
    elif folder := checkout(requirement.name):
        verdict, text = OK, f"{folder}, of an unknown version"
    else:
        verdict = FAIL if requirement.needed_at_import else WARN
        remedy = f"{setup_command()}; elsewhere: {default}"
    required = " or ".join(f"{name} {specifier}" for name, specifier in ranges.items())
    return Finding(requirement.name, text, required, verdict, remedy)


def judge_mixing() -> Finding:
    """Check whether packages of both families are installed."""
    found = families()
    text = "; ".join(f"{family}: {' '.join(dists)}" for family, dists in found.items())
    row = ("one stack only", text or "no stack", "onedl or openmmlab, not both")
    if len(found) < 2:
        return Finding(*row)
    # Distributions of one import package overwrite each other's files. Two families in different
    # import packages may well work together, but no test says so.
    verdict = FAIL if any(len(find(requirement)) > 1 for requirement in MM_PACKAGES) else WARN
    remedy = f"keep one family, e.g. pip uninstall -y {' '.join(min(found.values(), key=len))}, "
    remedy += "then install the other family's packages again with --force-reinstall --no-deps"
    return Finding(*row, verdict, remedy)


def survey() -> list[Finding]:
    """Judge every package of `REQUIREMENTS`, and the mixing of the two stacks."""
    return [judge(requirement) for requirement in REQUIREMENTS] + [judge_mixing()]


def check_stack() -> None:
    """Check that torch, numpy, mmengine and mmcv are there, and no package is out of range.

    Raises:
        ImportError: one message with what was found, what is required and the remedy.
    """
    lines = ["mmdualtoken cannot be imported: the packages it is built on do not fit."]
    for row in (row for row in survey() if row.verdict == FAIL):
        lines.append(f"  {row.component}: found {row.found}; required {row.required}")
        lines.append(f"    remedy: {row.remedy}")
    if len(lines) > 1:
        raise ImportError(
            "\n".join([*lines, "All of it at a glance: python -m mmdualtoken.doctor"])
        )

"""Which versions of torch and of the mm packages the project works with.

Two families of distributions provide the same import packages: the official ones and the
maintained forks (``onedl-*``). Standard library only: this module answers also where nothing
else is installed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path

OK, WARN, FAIL = "OK", "WARN", "FAIL"

MIN_PYTHON, END_PYTHON = (3, 10), (3, 14)

#: The versions that requirements/<stack>.txt pins, named in remedies.
PINS = {
    "torch": "2.11.0",
    "torchvision": "0.26.0",
    "numpy": "2.2.6",
    "onedl-mmengine": "0.10.12",
    "onedl-mmcv": "2.3.6",
    "onedl-mmdetection": "3.5.1",
    "onedl-mmsegmentation": "1.4.2",
    "onedl-mmpretrain": "1.3.6",
    "mmengine": "0.10.7",
    "mmcv-lite": "2.1.0",
    "mmdet": "3.3.0",
    "mmsegmentation": "1.2.2",
    "mmpretrain": "1.2.0",
}


@dataclass(frozen=True)
class Requirement:
    """An import package: ``ranges`` maps each distribution that provides it to
    (lowest version, first version too new or None)."""

    name: str
    ranges: dict
    needed_at_import: bool = False
    #: Distributions that provide the import package, but not what the project needs of it.
    unusable: tuple = ()


REQUIREMENTS = (
    Requirement("torch", {"torch": ("2.1", None)}, True),
    Requirement("torchvision", {"torchvision": ("0.16", None)}, True),
    Requirement("numpy", {"numpy": ("1.21", "3")}, True),
    Requirement(
        "mmengine", {"onedl-mmengine": ("0.10.7", "1.0"), "mmengine": ("0.10.7", "1.0")}, True
    ),
    # mmdet 3.3.0 and mmsegmentation 1.2.2 refuse mmcv 2.2.0; the forks accept their own 2.3.
    # mmcv-lite is mmcv without operators, which mmdualtoken.ops brings.
    Requirement(
        "mmcv",
        {
            "onedl-mmcv": ("2.3.0", "3"),
            "mmcv": ("2.1.0", "2.2.0"),
            "mmcv-lite": ("2.1.0", "2.2.0"),
        },
        True,
        unusable=("mmcv-full",),
    ),
    Requirement("mmdet", {"onedl-mmdetection": ("3.3.0", "4"), "mmdet": ("3.3.0", "4")}),
    Requirement(
        "mmseg", {"onedl-mmsegmentation": ("1.2.2", "2"), "mmsegmentation": ("1.2.2", "2")}
    ),
    Requirement("mmpretrain", {"onedl-mmpretrain": ("1.2.0", "2"), "mmpretrain": ("1.2.0", "2")}),
)
MM_PACKAGES = tuple(r.name for r in REQUIREMENTS if r.name.startswith("mm"))


@dataclass(frozen=True)
class Finding:
    """One row: what was found, what is required, the verdict and what to do about it."""

    component: str
    found: str
    required: str
    verdict: str = OK
    remedy: str = ""


def version_key(version: str) -> tuple:
    """Sort key of a version: release numbers without trailing zeros, then pre-release or not.

    ``packaging`` would do better, but may be missing where this runs; what is compared here
    are plain releases, at most with a pre-release (``rc1``) or a build (``+cu130``) suffix.

    Raises:
        ValueError: ``version`` does not begin with a number.
    """
    match = re.match(r"v?(\d+(?:\.\d+)*)(.*)", version.split("+")[0].strip())
    if not match:
        raise ValueError(f"not a version: {version!r}; expected one such as 2.1.0 or 2.1.0rc1")
    release = [int(number) for number in match[1].split(".")]
    while release and release[-1] == 0:
        release.pop()
    is_final = not re.match(r"[._-]?(a|b|c|rc|alpha|beta|pre|preview|dev)\d*", match[2], re.I)
    return tuple(release), is_final


def in_range(version: str, low: str, end: str | None) -> bool:
    """Whether ``low <= version < end``. A pre-release of ``end`` is already out of range.

    Raises:
        ValueError: a version that does not begin with a number.
    """
    key = version_key(version)
    return key >= version_key(low) and (end is None or key[0] < version_key(end)[0])


def installed_version(dist: str) -> str | None:
    """The version of an installed distribution, None where it is not installed."""
    try:
        return importlib.metadata.version(dist)
    except importlib.metadata.PackageNotFoundError:
        return None


def source_version(name: str) -> str | None:
    """The version of an import package that is on the path without being installed
    (a checkout on PYTHONPATH), read from its files without importing it."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in ("version.py", "__init__.py"):
            path = Path(folder, file)
            text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
            match = re.search(r'^__version__(?:\s*:\s*str)?\s*=\s*[\'"]([^\'"]+)', text, re.M)
            if match:
                return match[1]
    return None


def find(requirement: Requirement) -> dict:
    """Distribution -> version of everything installed that provides the import package."""
    names = [*requirement.ranges, *requirement.unusable]
    found = {name: version for name in names if (version := installed_version(name))}
    if not found and (version := source_version(requirement.name)):
        # Not installed, so of either family: judged by the official name, the plain one.
        found = {list(requirement.ranges)[-1]: version}
    return found


def range_text(dist: str, low: str, end: str | None) -> str:
    """A range as pip writes it: ``mmcv >=2.1.0,<2.2.0``."""
    return f"{dist} >={low}" + (f",<{end}" if end else "")


def pip_command(*dists: str) -> str:
    """The pip command that installs the pinned versions of ``dists``.

    In place of mmcv, whose sources pip would have to compile, it names mmcv-lite.
    """
    remove = "pip uninstall -y mmcv; " if "mmcv" in dists else ""
    names = ["mmcv-lite" if dist == "mmcv" else dist for dist in dists]
    return f"{remove}pip install " + " ".join(f"{name}=={PINS[name]}" for name in names)


def uses_openmmlab() -> bool:
    """Whether remedies should stay with the official packages: they are installed, or this is
    the environment that ``make STACK=openmmlab setup`` is about to fill."""
    found = families()
    return "onedl" not in found and bool(found or sys.prefix.endswith(".venv-openmmlab"))


def setup_command() -> str:
    """What to run in a clone to get what is missing."""
    return f"in a clone: make {'STACK=openmmlab ' if uses_openmmlab() else ''}setup"


def judge(requirement: Requirement) -> Finding:
    """Compare what is installed for one import package with the supported range."""
    found = find(requirement)
    text = ", ".join(f"{dist} {version}" for dist, version in found.items()) or "missing"
    required = " or ".join(range_text(d, *bounds) for d, bounds in requirement.ranges.items())

    def finding(verdict: str, remedy: str = "") -> Finding:
        return Finding(requirement.name, text, required, verdict, remedy)

    default = list(requirement.ranges)[-1 if uses_openmmlab() else 0]
    if not found:
        verdict = FAIL if requirement.needed_at_import else WARN
        return finding(verdict, f"{setup_command()}; elsewhere: {pip_command(default)}")
    if len(found) > 1:
        keep = next(d for d in found if d in requirement.ranges)
        return finding(
            FAIL,
            f"these overwrite each other: pip uninstall -y {' '.join(found)}; "
            f"then one of them: {pip_command(keep)}",
        )
    ((dist, version),) = found.items()
    if dist in requirement.unusable:
        return finding(
            FAIL, f"{dist} lacks what is needed: pip uninstall -y {dist}; {pip_command(default)}"
        )
    if not in_range(version, *requirement.ranges[dist]):
        return finding(FAIL, pip_command(dist))
    return finding(OK)


def families() -> dict:
    """Family ('onedl' or 'openmmlab') -> its installed mm distributions."""
    found: dict = {}
    for requirement in REQUIREMENTS:
        for dist in find(requirement) if requirement.name in MM_PACKAGES else ():
            family = "onedl" if dist.startswith("onedl-") else "openmmlab"
            found.setdefault(family, []).append(dist)
    return found


def judge_mixing() -> Finding:
    """Whether packages of both families are installed side by side."""
    found = families()
    text = "; ".join(f"{family}: {' '.join(dists)}" for family, dists in found.items())
    row = ("one stack only", text or "no stack", "onedl or openmmlab, not both")
    if len(found) < 2:
        return Finding(*row)
    doubled = [r.name for r in REQUIREMENTS if r.name in MM_PACKAGES and len(find(r)) > 1]
    fewer = min(found.values(), key=len)
    remedy = (
        f"keep one family, e.g. pip uninstall -y {' '.join(fewer)}, then install the other "
        "family's packages again with --force-reinstall --no-deps"
    )
    # Two distributions of one import package overwrite each other's files. Two families in
    # different import packages may well work together, but no test of ours says so.
    return Finding(*row, FAIL if doubled else WARN, remedy)


def survey() -> list:
    """The findings about every package of the table, and about mixing of the two stacks."""
    return [judge(requirement) for requirement in REQUIREMENTS] + [judge_mixing()]


def check_stack() -> None:
    """Check the environment before the package is used.

    torch, numpy, mmengine and mmcv must be there; mmdet, mmseg and mmpretrain may be missing, but
    not out of range.

    Raises:
        ImportError: one message with what was found, what is required and the remedy.
    """
    wrong = [finding for finding in survey() if finding.verdict == FAIL]
    if not wrong:
        return
    lines = ["mmdualtoken cannot be imported: the packages it is built on do not fit."]
    for finding in wrong:
        lines.append(f"  {finding.component}: found {finding.found}; required {finding.required}")
        lines.append(f"    remedy: {finding.remedy}")
    lines.append("All of it at a glance: python -m mmdualtoken.doctor")
    raise ImportError("\n".join(lines))

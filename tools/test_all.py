"""Run every test, slow ones too, on both stacks at once; docs/tested.md gets the outcome."""

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENVS = {"onedl": ".venv", "openmmlab": ".venv-openmmlab"}
VERSIONS = """
import importlib, json, platform
names = ("torch", "mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain")
found = {n: importlib.import_module(n).__version__ for n in names}
print(json.dumps({"python": platform.python_version(), **found}))
"""


def add_report(result: dict, report: Path) -> None:
    """Add a file's JUnit report; without one, its process crashed, which counts as one failure."""
    if not report.is_file():
        result["failed"].append(f"{report.stem} (its process crashed)")
        return
    for case in ET.parse(report).iter("testcase"):
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            result["failed"].append(f"{report.stem}: {case.get('name')}")
        elif skipped is not None:
            result["skipped"].append(skipped.get("message", ""))
        else:
            result["passed"] += 1


def test_stack(stack: str, folder: Path) -> dict:
    """Run all tests on one stack, with one thread, so that the other has the other core.

    Each file has a process of its own: a crash costs one file, and memory is freed.
    """
    python, folder = str(ROOT / VENVS[stack] / "bin" / "python"), folder / stack
    folder.mkdir()
    result: dict = dict(stack=stack, passed=0, failed=[], skipped=[])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for file in sorted((ROOT / "tests").glob("test_*.py")):
        report = folder / f"{file.stem}.xml"
        command = [python, "-m", "pytest", file, "-m", "", "-q", f"--junitxml={report}"]
        with report.with_suffix(".log").open("w") as log:
            subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, env=environment)
        add_report(result, report)
        print(
            f"{stack}, {file.name}: {result['passed']} passed, failed: {result['failed']}",
            flush=True,
        )
    printed = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True).stdout
    return {**result, "versions": json.loads(printed.splitlines()[-1])}


def describe(results: list[dict]) -> str:
    """The outcome as Markdown."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    lines = [
        "# Last full test run",
        "",
        f"`make test-all` on {datetime.date.today()}, commit {commit}: every test, slow ones too.",
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores.",
        "",
    ]
    names = list(max((r["versions"] for r in results), key=len))
    lines += [f"| stack | passed | failed | skipped | {' | '.join(names)} |"]
    lines += ["|---" * (4 + len(names)) + "|"]
    for r in results:
        numbers = [r["passed"], len(r["failed"]), len(r["skipped"])]
        cells = [r["stack"], *numbers, *r["versions"].values()]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    for r in results:
        lines += [f"- {r['stack']}, failed: {test}" for test in r["failed"]]
        lines += [f"- {r['stack']}, skipped: {reason}" for reason in sorted(set(r["skipped"]))]
    return "\n".join(lines) + "\n"


def main() -> int:
    for stack in VENVS:
        command = ["make", f"STACK={stack}", "setup"]
        print("$", *command, flush=True)
        if subprocess.run(command, cwd=ROOT).returncode:
            return 1
    folder = Path(tempfile.mkdtemp(prefix="mmdualtoken-test-all-"))  # kept: it holds the logs
    print("logs and reports:", folder, flush=True)
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda stack: test_stack(stack, folder), VENVS))
    text = describe(results)
    (ROOT / "docs" / "tested.md").write_text(text, encoding="utf-8")
    print(text)
    return int(any(r["failed"] or not r["passed"] for r in results))


if __name__ == "__main__":
    sys.exit(main())

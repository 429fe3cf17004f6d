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


def set_up(stack: str) -> bool:
    """Complete the environment of a stack; False if that fails."""
    command = ["make", f"STACK={stack}", "setup"]
    print("$", *command, flush=True)
    return subprocess.run(command, cwd=ROOT).returncode == 0


def counts(report: Path) -> dict[str, int]:
    """Passed, failed and skipped tests of a JUnit report, and the reasons of the skipped."""
    suite = ET.parse(report).getroot().find("testsuite")
    failed = int(suite.get("failures")) + int(suite.get("errors"))
    skipped = int(suite.get("skipped"))
    passed = int(suite.get("tests")) - failed - skipped
    reasons = sorted({s.get("message", "") for s in suite.iter("skipped")})
    return dict(passed=passed, failed=failed, skipped=skipped, reasons=reasons)


def test_stack(stack: str, folder: Path) -> dict:
    """Run all tests on one stack, with one thread, so that the other has the other core."""
    python = str(ROOT / VENVS[stack] / "bin" / "python")
    report, log = folder / f"{stack}.xml", folder / f"{stack}.log"
    command = [python, "-m", "pytest", "tests", "-m", "", "-q", f"--junitxml={report}"]
    print("$", *command, ">", log, flush=True)
    with log.open("w") as file:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=ROOT, stdout=file, stderr=file, env=environment)
    printed = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True).stdout
    return dict(stack=stack, versions=json.loads(printed.splitlines()[-1]), **counts(report))


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
        cells = [r["stack"], r["passed"], r["failed"], r["skipped"], *r["versions"].values()]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    for r in results:
        lines += [f"- {r['stack']}, skipped: {reason}" for reason in r["reasons"]]
    return "\n".join(lines) + "\n"


def main() -> int:
    for stack in VENVS:
        if not set_up(stack):
            return 1
    folder = Path(tempfile.mkdtemp(prefix="mmdualtoken-test-all-"))  # kept: it holds the logs
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda stack: test_stack(stack, folder), VENVS))
    text = describe(results)
    (ROOT / "docs" / "tested.md").write_text(text, encoding="utf-8")
    print(text)
    return int(any(r["failed"] or not r["passed"] for r in results))


if __name__ == "__main__":
    sys.exit(main())

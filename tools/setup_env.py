"""Set up the environment of one stack: ``python3 tools/setup_env.py --stack onedl``.

Standard library only: runs before anything is installed. Nothing is compiled. What is there already
is skipped: a set-up that broke half-way is finished by running it again, a finished one takes a
moment.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENVS = {"onedl": ".venv", "openmmlab": ".venv-openmmlab"}
LOWEST, END = (3, 10), (3, 14)
#: What pip completes with what it asks for, and what it installs alone: see the files' heads.
COMPLETED = ("runtime", "test", "export", "inspector")
ALONE = ("benchmarks", "openvino")

#: Prints the version of the environment's Python, the pins of the files that are not installed as
#: such, and where the package is installed from, if it is of the version asked for.
PROBE = """
import importlib.metadata as m, json, sys
from pip._vendor.packaging.requirements import Requirement
def have(name):
    try: return m.version(name)
    except m.PackageNotFoundError: return None
def missing(file):
    lines = (line.split("#")[0].strip() for line in open(file, encoding="utf-8"))
    pins = [Requirement(line) for line in lines if line]
    return [f"{p} (found {have(p.name)})" for p in pins if (not p.marker or p.marker.evaluate())
            and not p.specifier.contains(have(p.name) or "0")]
version, files = sys.argv[1], sys.argv[2:]
link = None
if have("mmdualtoken") == version:
    link = json.loads(m.distribution("mmdualtoken").read_text("direct_url.json") or "{}").get("url")
print(json.dumps({"python": sys.version_info[:2], "missing": {f: missing(f) for f in files},
                  "link": link}))
"""


class SetupError(Exception):
    """A step failed; the message says what was found and what to do."""


def run(*command) -> None:
    """Print a command, then run it in the clone, its output passed through.

    Raises:
        SetupError: it failed.
    """
    text = " ".join(map(str, command))
    print("$", text, flush=True)
    # Where pip is told not to isolate builds, mmcv would see torch and compile for minutes.
    environment = {**os.environ, "MMCV_WITH_OPS": os.environ.get("MMCV_WITH_OPS", "0")}
    if status := subprocess.run([*map(str, command)], cwd=ROOT, env=environment).returncode:
        raise SetupError(f"exit status {status} of: {text}")


def inspect(python: Path, stack: str) -> dict:
    """What ``PROBE`` prints; empty if the environment's Python does not run."""
    names: dict = {}
    exec((ROOT / "mmdualtoken" / "version.py").read_text(encoding="utf-8"), names)
    files = [f"requirements/{name}.txt" for name in (*COMPLETED, stack, *ALONE)]
    try:
        command = [str(python), "-c", PROBE, names["__version__"], *files]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        return json.loads(done.stdout) if done.returncode == 0 else {}
    except (OSError, ValueError):
        return {}


def check_base_python() -> None:
    """Check that this Python can create the environment.

    Raises:
        SetupError: its version or a missing module, and what to install.
    """
    mine = sys.version_info[:2]
    name = "python" + ".".join(map(str, mine))
    if not LOWEST <= mine < END:
        raise SetupError(
            f"{sys.executable} is {name}; supported: 3.10 to 3.13. "
            "Name one: make PYTHON=python3.11 setup"
        )
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise SetupError(
                f"{sys.executable} has no module {module}. "
                f"Install it (Debian: apt install {name}-venv)."
            )


def create(venv: Path, found: tuple | None, match_python: bool) -> bool:
    """Create the environment; returns whether it had to be created.

    Args:
        venv: its folder. One that does not run, or has another Python than asked for, is moved
            aside, not deleted.
        found: the version of its Python, None if it does not run.
        match_python: replace an environment of another version than this Python's.
    """
    mine = sys.version_info[:2]
    if found and LOWEST <= found < END and (found == mine or not match_python):
        return False
    if venv.exists():
        aside = venv.with_name(f"{venv.name}.broken-{time.strftime('%Y%m%d-%H%M%S')}")
        version = ".".join(map(str, found)) if found else "that does not run"
        print(f"{venv.name} has a Python {version}: moved to {aside.name}", flush=True)
        venv.rename(aside)
    check_base_python()
    run(sys.executable, "-m", "venv", venv)
    return True


def complete(stack: str, match_python: bool = False) -> bool:
    """Complete the environment of a stack; returns whether anything had to be done.

    Raises:
        SetupError: the step that failed, and why.
    """
    venv = ROOT / VENVS[stack]
    python, healthy = venv / "bin" / "python", venv / ".healthy"
    facts = inspect(python, stack)
    if create(venv, tuple(facts["python"]) if facts else None, match_python):
        facts = inspect(python, stack)
        if not facts:
            raise SetupError(
                f"{python} does not run after it was made; try another Python: "
                "make PYTHON=python3.11 setup"
            )

    steps = []
    for names, options in ((COMPLETED, ()), ((stack, *ALONE), ("--no-deps",))):
        files = [f"requirements/{name}.txt" for name in names]
        missing = {file: facts["missing"][file] for file in files if facts["missing"][file]}
        for file, pins in missing.items():
            print(f"{file}: {', '.join(pins)}", flush=True)
        if missing:
            files = [argument for file in missing for argument in ("-r", file)]
            steps.append(("-m", "pip", "install", *options, *files))
    if facts["link"] != ROOT.as_uri():
        steps.append(("-m", "pip", "install", "--no-deps", "--no-build-isolation", "-e", "."))
    if steps or not healthy.exists():
        healthy.unlink(missing_ok=True)
        steps.append(("-m", "mmdualtoken.doctor"))
    for step in steps:
        run(python, *step)
    healthy.touch()
    return bool(steps)


def main(argv: list | None = None) -> int:
    """Returns the exit status: 0 if the environment is complete, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stack", choices=sorted(VENVS), default="onedl")
    parser.add_argument(
        "--match-python",
        action="store_true",
        help="replace an environment made with another version of Python",
    )
    args = parser.parse_args(argv)
    # Two set-ups in one clone would install over each other.
    with open(__file__) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            changed = complete(args.stack, args.match_python)
        except SetupError as error:
            print(f"\nset-up of the {args.stack} stack stopped: {error}", flush=True)
            print(
                "Once the cause is removed (a network that failed: right away), run the same "
                "command again: finished steps are skipped.\n\nThe doctor's advice:",
                flush=True,
            )
            python = ROOT / VENVS[args.stack] / "bin" / "python"
            python = python if inspect(python, args.stack) else sys.executable
            subprocess.run([str(python), "-m", "mmdualtoken.doctor", "--problems"], cwd=ROOT)
            return 1
    state = "is set up" if changed else "is complete, nothing to do"
    print(f"{VENVS[args.stack]} ({args.stack} stack) {state}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

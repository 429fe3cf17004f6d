"""Set up the environment of one stack: ``python3 tools/setup_env.py --stack onedl``.

Needs the standard library only, compiles nothing, and skips what is there already. Run it again to
finish a set-up that broke half-way.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENVS = {"onedl": ".venv", "openmmlab": ".venv-openmmlab"}
LOWEST, END = (3, 10), (3, 14)
#: Requirements that pip installs with their dependencies, and without: see the files' heads.
COMPLETED = ("runtime", "test", "export", "inspector")
ALONE = ("openvino", "quantization")

#: Prints the version of the environment's Python, the pins of the files that are not installed as
#: such, the clone that the package is read from, if it is of the version asked for, and the other
#: stack's packages that are there.
PROBE = """
import importlib.metadata as m, json, sys
from pip._vendor.packaging.requirements import Requirement
def have(name):
    try: return m.version(name)
    except m.PackageNotFoundError: return None
def pins(file):
    lines = (line.split("#")[0].strip() for line in open(file, encoding="utf-8"))
    return [Requirement(line) for line in lines if line]
def missing(file):
    return [f"{p} (found {have(p.name)})" for p in pins(file)
            if (not p.marker or p.marker.evaluate())
            and not p.specifier.contains(have(p.name) or "0")]
version, other, files = sys.argv[1], sys.argv[2], sys.argv[3:]
link = None
if have("mmdualtoken") == version:
    direct = json.loads(m.distribution("mmdualtoken").read_text("direct_url.json") or "{}")
    link = direct.get("url") if direct.get("dir_info", {}).get("editable") else None
print(json.dumps({"python": sys.version_info[:2], "missing": {f: missing(f) for f in files},
                  "link": link,
                  "others": [p.name for p in pins(other) if "mm" in p.name and have(p.name)]}))
"""


class SetupError(Exception):
    """A step failed; the message says what was found and what to do."""


def run(*command) -> None:
    """Print a command and run it in the clone; raises `SetupError` if it fails."""
    text = " ".join(map(str, command))
    print("$", text, flush=True)
    # Where pip is told not to isolate builds, mmcv would see torch and compile for minutes.
    environment = {"MMCV_WITH_OPS": "0", **os.environ}
    if status := subprocess.run([*map(str, command)], cwd=ROOT, env=environment).returncode:
        raise SetupError(f"exit status {status} of: {text}")


def inspect(python: Path, stack: str) -> dict:
    """What ``PROBE`` prints; empty if the environment's Python does not run."""
    text = (ROOT / "mmdualtoken" / "version.py").read_text(encoding="utf-8")
    version = re.search('__version__ = "(.+)"', text)[1]
    files = [f"requirements/{name}.txt" for name in (*COMPLETED, stack, *ALONE)]
    (other,) = VENVS.keys() - {stack}
    command = [str(python), "-c", PROBE, version, f"requirements/{other}.txt", *files]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return {}


def create(venv: Path, found: tuple | None, match_python: bool) -> bool:
    """Create the environment, unless it is usable; returns whether it had to be created.

    An unusable one is moved aside, not deleted. `found` is the version of its Python, None if it
    does not run; with `match_python` only one of this Python's version is usable.
    """
    mine = sys.version_info[:2]
    if found and LOWEST <= found < END and (found == mine or not match_python):
        return False
    if venv.exists():
        aside = venv.with_name(f"{venv.name}.broken-{time.strftime('%Y%m%d-%H%M%S')}")
        version = ".".join(map(str, found)) if found else "that does not run"
        print(f"{venv.name} has a Python {version}: moved to {aside.name}", flush=True)
        venv.rename(aside)
    if not LOWEST <= mine < END:
        text = f"{sys.executable} is Python {mine[0]}.{mine[1]}; supported: 3.10 to 3.13. "
        raise SetupError(text + "Name one: make PYTHON=python3.11 setup")
    run(sys.executable, "-m", "venv", venv)
    return True


def complete(stack: str, match_python: bool = False) -> bool:
    """Complete the environment of a stack; returns whether anything was installed or checked.

    Raises:
        SetupError: the step that failed, and why; or the other stack is in the environment.
    """
    venv = ROOT / VENVS[stack]
    python, healthy = venv / "bin" / "python", venv / ".healthy"
    facts = inspect(python, stack)
    if create(venv, tuple(facts["python"]) if facts else None, match_python):
        facts = inspect(python, stack)
    if not facts:
        text = f"{python} does not run after it was made; try another Python: "
        raise SetupError(text + "make PYTHON=python3.11 setup")
    if facts["others"]:
        raise SetupError(
            f"{venv.name} has {', '.join(facts['others'])} of the other stack, whose files this "
            f"one would overwrite. Name a stack (make STACK=openmmlab has .venv-openmmlab), or "
            f"move {venv.name} away."
        )
    steps = []
    for names, options in ((COMPLETED, ()), ((stack, *ALONE), ("--no-deps",))):
        files = [f"requirements/{name}.txt" for name in names]
        if files := [file for file in files if facts["missing"][file]]:
            print(*(f"{file}: {', '.join(facts['missing'][file])}" for file in files), sep="\n")
            files = [argument for file in files for argument in ("-r", file)]
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
    text = "replace an environment made with another version of Python"
    parser.add_argument("--match-python", action="store_true", help=text)
    args = parser.parse_args(argv)
    with open(__file__, "ab") as file:  # to append nothing: NFS locks only what can be written
        with suppress(OSError):  # of a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)  # two set-ups would install over each other
        try:
            changed = complete(args.stack, args.match_python)
        except SetupError as error:
            print(f"\nset-up of the {args.stack} stack stopped: {error}", flush=True)
            text = "Remove the cause (after a network failure: right away), and run the same "
            text += "command again: finished steps are skipped.\n\nThe doctor's advice:"
            print(text, flush=True)
            python = ROOT / VENVS[args.stack] / "bin" / "python"
            python = python if inspect(python, args.stack) else sys.executable
            subprocess.run([str(python), "-m", "mmdualtoken.doctor", "--problems"], cwd=ROOT)
            return 1
    state = "is set up" if changed else "is complete, nothing to do"
    print(f"{VENVS[args.stack]} ({args.stack} stack) {state}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

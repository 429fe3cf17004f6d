"""Set up the environment of one stack: ``python3 tools/setup_env.py --stack onedl``.

Standard library only: runs before anything is installed. Every step looks at what is already
there and is skipped if nothing is to do, so that a set-up that broke half-way is finished by
running it again, and a finished one costs a moment.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import mmcv_wheel
from mmcv_wheel import SetupError

ROOT = Path(__file__).resolve().parent.parent
VENVS = {"onedl": ".venv", "openmmlab": ".venv-openmmlab"}
LOWEST, END = (3, 10), (3, 13)

PROBE = """
import importlib.metadata as m, json, re, sys, sysconfig
dists = {re.sub('[-_.]+', '-', d.metadata['Name']).lower(): d.version
         for d in m.distributions() if d.metadata['Name']}
try: link = json.loads(m.distribution('mmdualtoken').read_text('direct_url.json') or '{}')
except m.PackageNotFoundError: link = {}
print(json.dumps({'version': sys.version_info[:2], 'dists': dists, 'link': link.get('url'),
                  'purelib': sysconfig.get_path('purelib')}))
"""
OPERATORS = "import mmcv.ops as o; print(o.get_compiling_cuda_version())"


def run(command: list) -> None:
    """Print a command, then run it in the clone, its output passed through.

    Raises:
        SetupError: it failed.
    """
    print("$", " ".join(map(str, command)), flush=True)
    done = subprocess.run([str(part) for part in command], cwd=ROOT)
    if done.returncode:
        raise SetupError(f"exit status {done.returncode} of: {' '.join(map(str, command))}")


def pins(path: Path, version: tuple) -> dict:
    """Normalised name -> version of a requirements file, for the Python ``version``.

    Raises:
        SetupError: a line that is not ``name==version``, with at most a python_version marker.
    """
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        match = re.fullmatch(
            r'([\w.-]+)==([\w.+!-]+)(?:\s*;\s*python_version\s*<\s*"(\d+)\.(\d+)")?', text
        )
        if not match:
            raise SetupError(
                f"{path}:{number}: {text!r}; allowed: name==version, with at most "
                '; python_version < "3.11"'
            )
        if match[3] is None or tuple(version) < (int(match[3]), int(match[4])):
            found[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    return found


class Environment:
    """The virtual environment of one stack, and the steps that complete it."""

    def __init__(self, stack: str, root: Path = ROOT):
        self.stack = stack
        self.root = root
        self.venv = root / VENVS[stack]
        self.python = self.venv / "bin" / "python"
        self.state_file = self.venv / ".mmdualtoken.json"
        self.changed = False
        self.facts: dict = {}

    def look(self) -> bool:
        """Learn what is installed. False if the environment's Python does not work."""
        try:
            done = subprocess.run([str(self.python), "-c", PROBE], capture_output=True, text=True)
            self.facts = json.loads(done.stdout.splitlines()[-1]) if not done.returncode else {}
        except (OSError, IndexError, ValueError):
            self.facts = {}
        return bool(self.facts)

    def do(self, *arguments) -> None:
        """Run the environment's Python with ``arguments`` and look again afterwards."""
        run([self.python, *arguments])
        self.changed = True
        self.look()

    def missing(self, name: str, skip: str = "") -> list:
        """The pins of requirements/<name>.txt that are not installed as such."""
        wanted = pins(self.root / "requirements" / f"{name}.txt", self.facts["version"])
        have = self.facts["dists"]
        # A local part (+cu130) says how it was built, not which version it is.
        return [
            f"{dist} {have.get(dist, 'missing')} -> {version}"
            for dist, version in wanted.items()
            if dist != skip and have.get(dist, "").split("+")[0] != version
        ]

    def state(self) -> dict:
        """What earlier runs noted in the environment."""
        try:
            return json.loads(self.state_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def note(self, **values) -> None:
        """Note something for later runs."""
        self.state_file.write_text(json.dumps({**self.state(), **values}), encoding="utf-8")

    # The steps, in order.

    def create(self, match_python: bool) -> None:
        """Create the environment; one that does not work is moved aside, not deleted."""
        mine = sys.version_info[:2]
        if self.look():
            found = tuple(self.facts["version"])
            if LOWEST <= found < END and (found == mine or not match_python):
                return
        if self.venv.exists():
            aside = self.venv.with_name(f"{self.venv.name}.broken-{time.strftime('%Y%m%d-%H%M%S')}")
            found = ".".join(map(str, self.facts["version"])) if self.facts else "that does not run"
            print(f"{self.venv.name} has a Python {found}: moved to {aside.name}", flush=True)
            self.venv.rename(aside)
        check_base_python()
        run([sys.executable, "-m", "venv", self.venv])
        self.changed = True
        if not self.look():
            raise SetupError(
                f"{self.python} does not run after it was made; try another Python: "
                "make PYTHON=python3.11 setup"
            )

    def install(self, name: str, *options: str, skip: str = "") -> None:
        """Install requirements/<name>.txt unless every pin is there."""
        missing = self.missing(name, skip)
        if missing:
            print(f"requirements/{name}.txt: {', '.join(missing)}", flush=True)
            self.do("-m", "pip", "install", *options, "-r", f"requirements/{name}.txt")

    def mmcv(self) -> None:
        """Install mmcv with compiled operators that fit this torch, Python and GPU."""
        wanted = pins(self.root / "requirements" / f"{self.stack}.txt", self.facts["version"])
        dist = next(name for name in wanted if name in ("onedl-mmcv", "mmcv"))
        installed = self.facts["dists"].get(dist) == wanted[dist]
        if installed and self.state().get("mmcv_for") == self.surroundings():
            return
        facts = mmcv_wheel.probe(self.python)
        key = mmcv_wheel.cache_key(dist, wanted[dist], facts)
        if not (installed and self.operators_fit(facts, key)):
            wheel = mmcv_wheel.obtain(self.python, dist, wanted[dist], facts)
            self.do("-m", "pip", "install", "--no-deps", "--force-reinstall", wheel)
        self.note(mmcv_for=self.surroundings(), mmcv_key=key)

    def operators_fit(self, facts: dict, key: str) -> bool:
        """Whether the installed operators load, and are for the GPU if there is one."""
        noted = self.state().get("mmcv_key")
        if noted is not None and noted != key:
            return False
        done = subprocess.run([str(self.python), "-c", OPERATORS], capture_output=True, text=True)
        has_cuda = done.stdout[:1].isdigit()
        return done.returncode == 0 and has_cuda == bool(facts["cuda"])

    def surroundings(self) -> list:
        """What mmcv's operators depend on, as far as it can be seen without importing torch,
        which takes seconds: torch's full version, whether there is an NVIDIA device, and our
        way of building."""
        version = Path(self.facts["purelib"], "torch", "version.py")
        text = version.read_text(encoding="utf-8") if version.is_file() else ""
        match = re.search(r"__version__ = '([^']+)'", text)
        gpu = os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/dxg")
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        return [match[1] if match else None, gpu and not hidden, mmcv_wheel.RECIPE]

    def package(self) -> None:
        """Install the clone itself, editable."""
        text = (self.root / "mmdualtoken" / "version.py").read_text(encoding="utf-8")
        version = re.search(r"__version__ = ['\"]([^'\"]+)", text)[1]
        here = self.facts["link"] == self.root.as_uri()
        if not here or self.facts["dists"].get("mmdualtoken") != version:
            self.do("-m", "pip", "install", "--no-deps", "--no-build-isolation", "-e", ".")

    def doctor(self) -> None:
        """Have the doctor look at the result, once for each state of the environment."""
        text = json.dumps([self.facts, self.surroundings()], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        if self.changed or self.state().get("healthy") != digest:
            self.note(healthy=None)
            run([self.python, "-m", "mmdualtoken.doctor"])
            self.note(healthy=digest)

    def complete(self, match_python: bool = False) -> None:
        """Every step in order.

        Raises:
            SetupError: the step that cannot be done, and why.
        """
        self.create(match_python)
        self.install("build")
        self.install("runtime")
        self.mmcv()
        mmcv = "onedl-mmcv" if self.stack == "onedl" else "mmcv"
        self.install(self.stack, "--no-deps", "--no-build-isolation", skip=mmcv)
        self.package()
        self.install("test")
        self.install("benchmarks", "--no-deps")
        self.install("export")
        self.install("openvino", "--no-deps")
        self.install("inspector")
        self.doctor()


def check_base_python() -> None:
    """Whether this Python can create the environment.

    Raises:
        SetupError: its version or a missing module, and what to install.
    """
    mine = sys.version_info[:2]
    name = "python" + ".".join(map(str, mine))
    if not LOWEST <= mine < END:
        raise SetupError(
            f"{sys.executable} is {name}; supported: 3.10, 3.11, 3.12. "
            "Name one: make PYTHON=python3.11 setup"
        )
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise SetupError(
                f"{sys.executable} has no module {module}. "
                f"Install it (Debian: apt install {name}-venv)."
            )


def advise(environment: Environment, error: SetupError) -> None:
    """Say what failed and what the doctor finds wrong."""
    print(f"\nset-up of the {environment.stack} stack stopped: {error}", flush=True)
    print(
        "Once the cause is removed (a network that failed: right away), run the same command "
        "again: finished steps are skipped.\n\nThe doctor's advice:",
        flush=True,
    )
    python = environment.python if environment.look() else sys.executable
    subprocess.run([str(python), "-m", "mmdualtoken.doctor", "--problems"], cwd=ROOT)


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
    environment = Environment(args.stack)
    # Two set-ups in one clone would install over each other.
    with open(__file__) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            environment.complete(args.match_python)
        except SetupError as error:
            advise(environment, error)
            return 1
    state = "is set up" if environment.changed else "is complete, nothing to do"
    print(f"{environment.venv.name} ({args.stack} stack) {state}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

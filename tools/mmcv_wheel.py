"""The cache of compiled mmcv wheels, and the compilation itself. Standard library only.

A wheel is kept under a key made of everything its operators depend on, so that a second clone
or the next CI run on the same machine does not compile again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import deque
from pathlib import Path

GIB = 2**30
#: For the CPU as measured (8-9 minutes on 2 cores); for each CUDA architecture a guess.
CORE_MINUTES_CPU, CORE_MINUTES_CUDA = 17, 60
#: setuptools takes these in place of Python's own flags, so the optimisation has to be among them:
#: without it the operators run several times slower. No debug information: 10 times smaller.
COMPILER_FLAGS = "-O3 -DNDEBUG -fwrapv -g0"
#: Part of the cache key. Raise it when wheels are built in another way.
RECIPE = 2
#: What one compiler process may take.
GIB_PER_JOB = 2

PROBE = """
import json, sys, sysconfig, torch
cuda = torch.version.cuda if torch.cuda.is_available() else None
home, archs = None, []
if cuda:
    from torch.utils.cpp_extension import CUDA_HOME as home
    archs = sorted({'%d.%d' % torch.cuda.get_device_capability(i)
                    for i in range(torch.cuda.device_count())})
print(json.dumps({'torch': torch.__version__, 'cuda': cuda, 'cuda_home': home, 'archs': archs,
                  'tag': 'cp%d%d' % sys.version_info[:2], 'platform': sysconfig.get_platform(),
                  'include': sysconfig.get_path('include')}))
"""


class SetupError(Exception):
    """A step cannot be done; the message says what was found and what to do."""


def cache_root() -> Path:
    """``$MMDUALTOKEN_CACHE`` or the user's cache folder; the doctor looks at the same place."""
    base = os.environ.get("MMDUALTOKEN_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmdualtoken"


def probe(python: Path) -> dict:
    """Ask the environment's torch what a wheel has to fit.

    Raises:
        SetupError: torch does not import there.
    """
    done = subprocess.run([str(python), "-c", PROBE], capture_output=True, text=True)
    if done.returncode:
        tail = done.stderr.strip().splitlines()[-3:]
        raise SetupError("torch does not import in the environment:\n  " + "\n  ".join(tail))
    facts = json.loads(done.stdout.splitlines()[-1])
    if facts["cuda"] and os.environ.get("TORCH_CUDA_ARCH_LIST"):
        facts["archs"] = re.split(r"[;\s]+", os.environ["TORCH_CUDA_ARCH_LIST"].strip())
    return facts


def cache_key(dist: str, version: str, facts: dict) -> str:
    """Name of the wheel's folder: one part for each thing that the wheel depends on."""
    variant = "cpu"
    if facts["cuda"]:
        variant = f"cuda{facts['cuda']}-sm" + "_".join(facts["archs"])
    built_for = (f"torch{facts['torch']}", facts["tag"], facts["platform"], variant)
    parts = (dist, version, *built_for, f"r{RECIPE}")
    return re.sub(r"[^\w.+-]", "_", "-".join(parts))


def is_sound(wheel: Path) -> bool:
    """Whether the file is a complete wheel with compiled operators in it."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            compiled = any(name.startswith("mmcv/_ext") for name in archive.namelist())
            return compiled and archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, zipfile.zlib.error):
        return False


def available_memory() -> int:
    """Bytes of memory that can be taken: the machine's, or less where a container says so."""
    try:
        text = Path("/proc/meminfo").read_text()
        free = int(re.search(r"MemAvailable:\s+(\d+)", text)[1]) * 1024
    except (OSError, TypeError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free = min(free, limit - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    return free


def build_jobs(cores: int, memory: int) -> int:
    """Compiler processes at a time, given the cores and the available memory in bytes."""
    return max(1, min(cores, memory // (GIB_PER_JOB * GIB)))


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_tools(facts: dict) -> None:
    """Look for what compiling needs before minutes are spent on it.

    Raises:
        SetupError: the compiler, Python's headers or, with a GPU, nvcc are missing.
    """
    compiler = os.environ.get("CXX", "c++")
    if not shutil.which(compiler.split()[0]):
        raise SetupError(
            f"no C++ compiler: {compiler!r} is not on PATH. Install one (Debian: apt install g++)."
        )
    if not Path(facts["include"], "Python.h").is_file():
        package = f"python3.{facts['tag'][3:]}-dev"
        raise SetupError(
            f"Python.h is not in {facts['include']}. "
            f"Install Python's headers (Debian: apt install {package})."
        )
    home = facts["cuda_home"]
    if facts["cuda"] and not (home and Path(home, "bin", "nvcc").is_file()):
        raise SetupError(
            f"torch sees a GPU, but there is no nvcc to compile mmcv's operators for it "
            f"(CUDA_HOME: {home}). Install the CUDA {facts['cuda']} toolkit and set CUDA_HOME, "
            "or do without the GPU: export CUDA_VISIBLE_DEVICES="
        )


def build_environment(python: Path, facts: dict) -> dict:
    """The environment variables under which pip compiles mmcv."""
    jobs = os.environ.get("MAX_JOBS") or str(build_jobs(cores(), available_memory()))
    # ninja lies beside the environment's python; without it torch compiles one file at a time.
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", "")])
    extra = {"PATH": path, "MAX_JOBS": jobs, "CFLAGS": COMPILER_FLAGS}
    extra["CXXFLAGS"] = COMPILER_FLAGS
    if facts["cuda"]:
        extra |= {"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": ";".join(facts["archs"])}
    return {**os.environ, **extra}


@contextlib.contextmanager
def locked(path: Path):
    """Hold a lock on ``path``; says so if another process holds it."""
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another set-up holds {path}; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def show_progress(line: str, shown: int) -> int:
    """Print ninja's ``[n/m]``; on a terminal in place, else a line per tenth. Returns the
    last tenth that was printed."""
    match = re.search(r"^\s*\[(\d+)/(\d+)\]", line)
    if not match:
        return shown
    done, total = int(match[1]), int(match[2])
    tenth = 10 * done // total
    if sys.stdout.isatty():
        print(
            f"\r  compiled {done} of {total} files", end="\n" if done == total else "", flush=True
        )
    elif tenth > shown:
        print(f"  compiled {done} of {total} files", flush=True)
    return tenth


def compile_wheel(command: list, environment: dict, log: Path) -> None:
    """Run pip, its output into ``log``, the progress onto the screen.

    Raises:
        SetupError: the command failed; the message ends with its last lines.
    """
    tail: deque = deque(maxlen=25)
    shown = 0
    with (
        open(log, "w", encoding="utf-8") as file,
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        for line in process.stdout:
            file.write(line)
            file.flush()
            tail.append(line[:300].rstrip())
            shown = show_progress(line, shown)
    if process.returncode:
        raise SetupError(
            f"exit status {process.returncode}; the whole output is in {log}, "
            "its last lines:\n  " + "\n  ".join(tail)
        )


def announce(command: list, environment: dict, facts: dict, log: Path) -> None:
    """Print the command with its variables, and how long it will take."""
    names = ("MAX_JOBS", "CFLAGS", "FORCE_CUDA", "TORCH_CUDA_ARCH_LIST")
    print("$", *(f"{n}={environment[n]}" for n in names if n in environment), *command)
    total = CORE_MINUTES_CUDA * len(facts["archs"]) if facts["cuda"] else CORE_MINUTES_CPU
    jobs = int(environment["MAX_JOBS"])
    print(
        f"  compiling mmcv's operators: about {max(1, round(total / jobs))} minutes with "
        f"{jobs} jobs, once per machine; log: {log}",
        flush=True,
    )


def build(python: Path, dist: str, version: str, facts: dict, folder: Path) -> Path:
    """Compile the wheel and move it into the cache folder, which the caller has locked.

    Raises:
        SetupError: a tool is missing, or the compilation failed.
    """
    check_tools(facts)
    environment = build_environment(python, facts)
    log = folder / "build.log"
    for leftover in folder.glob("tmp-*"):  # of a compilation that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=folder) as scratch:
        command = [str(python), "-m", "pip", "wheel", "-v"]
        # pip's own cache of built wheels knows nothing of torch or CUDA.
        command += ["--no-cache-dir", "--no-build-isolation", "--no-deps", "--no-binary", dist]
        command += ["-w", scratch, f"{dist}=={version}"]
        announce(command, environment, facts, log)
        start = time.monotonic()
        compile_wheel(command, environment, log)
        wheels = [w for w in Path(scratch).glob("*.whl") if is_sound(w)]
        if not wheels:
            raise SetupError(f"the wheel came out without compiled operators; see {log}")
        print(f"  compiled in {(time.monotonic() - start) / 60:.1f} minutes", flush=True)
        target = folder / wheels[0].name
        os.replace(wheels[0], target)
    return target


def obtain(python: Path, dist: str, version: str, facts: dict) -> Path:
    """The wheel from the cache, compiled first if it is not there or is damaged.

    Raises:
        SetupError: it cannot be compiled, or the cache cannot be written.
    """
    folder = cache_root() / "wheels" / cache_key(dist, version, facts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"the cache folder {folder} cannot be made ({error}). "
            "Set MMDUALTOKEN_CACHE to a folder that you can write to."
        ) from error
    with locked(folder / "lock"):
        for wheel in sorted(folder.glob("*.whl")):
            if is_sound(wheel):
                print(f"  from the cache: {wheel}", flush=True)
                return wheel
            print(f"  {wheel} is damaged: compiling it again", flush=True)
            wheel.unlink()
        return build(python, dist, version, facts, folder)

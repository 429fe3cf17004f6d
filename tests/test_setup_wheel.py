"""The cache of compiled wheels, make, continuous integration's entry point, packaging."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from setup_tools import FACTS, ROOT, mmcv_wheel

from mmdualtoken import disks, stack

# --- the wheel cache


def make_wheel(path, member="mmcv/_ext.cpython-311.so"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "operators" * 1000)
    return path


def test_cache_key_depends_on_each_part():
    changes = [("torch", "2.11.0+cpu"), ("tag", "cp312"), ("platform", "linux-aarch64")]
    keys = [mmcv_wheel.cache_key("onedl-mmcv", "2.3.6", FACTS)]
    keys += [mmcv_wheel.cache_key("onedl-mmcv", "2.3.6", {**FACTS, k: v}) for k, v in changes]
    keys += [mmcv_wheel.cache_key("mmcv", "2.3.6", FACTS)]
    keys += [mmcv_wheel.cache_key("onedl-mmcv", "2.3.7", FACTS)]
    for cuda, archs in (("13.0", ["9.0"]), ("12.8", ["9.0"]), ("13.0", ["8.0", "9.0"])):
        facts = {**FACTS, "cuda": cuda, "archs": archs}
        keys += [mmcv_wheel.cache_key("onedl-mmcv", "2.3.6", facts)]
    assert len(set(keys)) == len(keys) == 9
    assert keys[0] == "onedl-mmcv-2.3.6-torch2.11.0+cu130-cp311-linux-x86_64-cpu-r2"
    assert keys[-1].endswith("-cuda13.0-sm8.0_9.0-r2")


def test_damaged_wheels_are_recognised(tmp_path):
    wheel = make_wheel(tmp_path / "a.whl")
    assert mmcv_wheel.is_sound(wheel)
    data = wheel.read_bytes()
    wheel.write_bytes(data[: len(data) // 2])
    assert not mmcv_wheel.is_sound(wheel)
    wheel.write_bytes(data[:500] + b"\0" + data[501:])
    assert not mmcv_wheel.is_sound(wheel)
    assert not mmcv_wheel.is_sound(make_wheel(tmp_path / "b.whl", "mmcv/__init__.py"))
    assert not mmcv_wheel.is_sound(tmp_path / "none.whl")


def test_cache_is_used_and_repaired(tmp_path, monkeypatch):
    monkeypatch.setenv("MMDUALTOKEN_CACHE", str(tmp_path))
    built = []

    def build(python, dist, version, facts, folder):
        built.append(dist)
        return make_wheel(folder / "mmcv.whl")

    monkeypatch.setattr(mmcv_wheel, "build", build)
    first = mmcv_wheel.obtain(Path("python"), "mmcv", "2.1.0", FACTS)
    assert mmcv_wheel.obtain(Path("python"), "mmcv", "2.1.0", FACTS) == first
    assert built == ["mmcv"]
    first.write_bytes(b"PK half")
    assert mmcv_wheel.is_sound(mmcv_wheel.obtain(Path("python"), "mmcv", "2.1.0", FACTS))
    assert built == ["mmcv", "mmcv"]


@pytest.mark.parametrize("cuda", [None, "13.0"])
def test_build(tmp_path, monkeypatch, cuda):
    seen = {}

    def compile_wheel(command, environment, log):
        seen.update(command=command, environment=environment)
        make_wheel(Path(command[command.index("-w") + 1], "mmcv-2.1.0.whl"))

    facts = {**FACTS, "cuda": cuda, "archs": ["9.0", "10.0"] if cuda else []}
    monkeypatch.setattr(mmcv_wheel, "check_tools", lambda facts: None)
    monkeypatch.setattr(mmcv_wheel, "compile_wheel", compile_wheel)
    for name in ("MAX_JOBS", "FORCE_CUDA", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "tmp-killed").mkdir()
    wheel = mmcv_wheel.build(tmp_path / "bin" / "python", "mmcv", "2.1.0", facts, tmp_path)
    assert wheel == tmp_path / "mmcv-2.1.0.whl" and mmcv_wheel.is_sound(wheel)
    assert [path.name for path in tmp_path.iterdir()] == ["mmcv-2.1.0.whl"]
    assert {"--no-cache-dir", "--no-build-isolation", "mmcv==2.1.0"} < set(seen["command"])
    environment = seen["environment"]
    assert environment["PATH"].startswith(str(tmp_path / "bin"))
    assert "-O3" in environment["CFLAGS"].split() and int(environment["MAX_JOBS"]) >= 1
    assert environment.get("FORCE_CUDA") == ("1" if cuda else None)
    assert environment.get("TORCH_CUDA_ARCH_LIST") == ("9.0;10.0" if cuda else None)


def test_failed_build_shows_its_last_lines(tmp_path, capsys):
    code = "print('[1/2] c++ a.cpp'); print('[2/2] c++ b.cpp'); print('no memory'); exit(3)"
    with pytest.raises(mmcv_wheel.SetupError, match="(?s)exit status 3.*build.log.*no memory"):
        mmcv_wheel.compile_wheel([sys.executable, "-c", code], None, tmp_path / "build.log")
    assert "no memory" in (tmp_path / "build.log").read_text()
    assert "compiled 2 of 2 files" in capsys.readouterr().out


def test_missing_tools_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(mmcv_wheel.SetupError, match=r"apt install g\+\+"):
        mmcv_wheel.check_tools(FACTS)
    monkeypatch.setenv("CXX", "sh")
    with pytest.raises(mmcv_wheel.SetupError, match=r"apt install python3\.11-dev"):
        mmcv_wheel.check_tools(FACTS)
    (tmp_path / "Python.h").touch()
    facts = {**FACTS, "include": str(tmp_path), "cuda": "13.0", "archs": ["9.0"]}
    with pytest.raises(mmcv_wheel.SetupError, match="there is no nvcc.*CUDA_VISIBLE_DEVICES="):
        mmcv_wheel.check_tools(facts)
    mmcv_wheel.check_tools({**facts, "cuda": None})


def test_jobs():
    gib = 2**30
    assert mmcv_wheel.build_jobs(2, 22 * gib) == 2
    assert mmcv_wheel.build_jobs(16, 9 * gib) == 4
    assert mmcv_wheel.build_jobs(4, gib) == 1


def test_doctor_and_cache_look_at_the_same_folder(monkeypatch, tmp_path):
    for name in ("MMDUALTOKEN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert disks.cache_dir() == mmcv_wheel.cache_root() == Path.home() / ".cache" / "mmdualtoken"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert disks.cache_dir() == mmcv_wheel.cache_root() == tmp_path / "mmdualtoken"
    monkeypatch.setenv("MMDUALTOKEN_CACHE", str(tmp_path / "own"))
    assert disks.cache_dir() == mmcv_wheel.cache_root() == tmp_path / "own"


# --- commands and packaging


def make(*arguments):
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_make():
    assert "make test-all" in make().stdout
    wrong = make("STACK=other", "test")
    assert wrong.returncode == 2
    assert "STACK is 'other'; allowed: onedl (the default) and openmmlab" in wrong.stderr
    without = make("PYTHON=", "setup")
    assert without.returncode == 2
    assert "no Python 3.10, 3.11 or 3.12 on PATH" in without.stdout
    dry = make("-n", "STACK=openmmlab", "PYTHON=python3.11", "test").stdout
    assert "tools/setup_env.py --stack openmmlab --match-python" in dry
    assert ".venv-openmmlab/bin/python -m pytest tests" in dry
    assert "--match-python" not in make("-n", "setup").stdout


def test_ci_entry_point(tmp_path, monkeypatch):
    # `make test` hands its own make variables on, which would make the inner make name its folder.
    for name in ("MMDUALTOKEN_DATA", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        monkeypatch.delenv(name, raising=False)
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / ".ci", clone / ".ci")
    (clone / "Makefile").write_text("test:\n\t@echo data=$$MMDUALTOKEN_DATA\n")

    def run():
        done = subprocess.run([clone / ".ci" / "run"], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert run() == "data="
    data = re.search(r"-d (\.\./\S+)", (clone / ".ci" / "run").read_text())[1]
    data = (clone / data).resolve()
    data.mkdir(parents=True)
    assert run() == f"data={data}"
    monkeypatch.setenv("MMDUALTOKEN_DATA", "mine")
    assert run() == "data=mine"


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of what packaging reads: building in place would leave files behind."""
    folder = tmp_path_factory.mktemp("clone")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("mmdualtoken", "tools", "configs", "requirements"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, folder)
    (folder / "configs").mkdir(exist_ok=True)
    (folder / "configs" / "for_test.py").write_text("a = 1\n")
    return folder


def test_wheel(clone, tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", tmp_path, clone], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("mmdualtoken-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (n for n in names if n.endswith("METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    assert "mmdualtoken/.mim/configs/for_test.py" in names
    assert "mmdualtoken/.mim/tools/setup_env.py" in names
    assert "mmdualtoken/models/backbones/dualtoken_vit.py" in names
    assert not [name for name in names if name.startswith(("tests", "tools", "configs"))]
    required = [line.split(": ", 1)[1] for line in lines if line.startswith("Requires-Dist")]
    assert [line for line in required if "extra ==" not in line] == []
    for name, dists in (("onedl", 5), ("openmmlab", 5)):
        extra = {line.split(";")[0].strip() for line in required if f'"{name}"' in line}
        assert len(extra) == dists
        assert extra <= {f"{dist}=={version}" for dist, version in stack.PINS.items()}
    requires_python = next(line for line in lines if line.startswith("Requires-Python"))
    assert set(requires_python.split(": ")[1].split(",")) == {">=3.10", "<3.13"}


def test_sdist_holds_what_setup_reads(clone, tmp_path):
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=clone, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    for name in ("requirements/onedl.txt", "tools/setup_env.py", "configs/for_test.py", "LICENSE"):
        assert (folder / name).is_file(), name

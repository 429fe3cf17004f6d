"""The commands of the Makefile, what the packages hold, and what installing makes of them."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tasks import ROOT
from test_inheritance import RECIPES

import mmdualtoken
from mmdualtoken.environment import versions


def make(*arguments):
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_make():
    assert "make test-all" in make().stdout
    wrong = make("STACK=other", "test")
    assert wrong.returncode == 2
    assert "STACK is 'other'; allowed: onedl (the default) and openmmlab" in wrong.stderr
    without = make("PYTHON=", "setup")
    assert without.returncode == 2
    assert "no Python 3.10 to 3.13 on PATH" in without.stdout
    dry = make("-n", "STACK=openmmlab", "PYTHON=python3.11", "test").stdout
    assert "tools/setup_env.py --stack openmmlab --match-python" in dry
    assert ".venv-openmmlab/bin/python -m pytest tests -n 2" in dry
    assert "--match-python" not in make("-n", "setup").stdout


def test_ci_entry_point(tmp_path, monkeypatch):
    # `make test` hands its own make variables on, which would make the inner make name its folder.
    for name in ("MMDUALTOKEN_DATA", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        monkeypatch.delenv(name, raising=False)
    # Without a browser the script installs one on this machine.
    (tmp_path / "chromedriver").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / ".ci", clone / ".ci")
    targets = "test test-processes test-install"
    (clone / "Makefile").write_text(f"{targets}:\n\t@echo data=$$MMDUALTOKEN_DATA\n")

    def run():
        done = subprocess.run([clone / ".ci" / "run"], capture_output=True, text=True, check=True)
        first, second, third = done.stdout.split()
        assert first == second == third
        return first

    assert run() == "data="
    data = re.search(r"-d (\.\./\S+)", (clone / ".ci" / "run").read_text())[1]
    data = (clone / data).resolve()
    data.mkdir(parents=True)
    assert run() == f"data={data}"
    monkeypatch.setenv("MMDUALTOKEN_DATA", "mine")
    assert run() == "data=mine"


def test_no_file_of_the_package_is_ignored_by_git():
    """A pattern such as data/ once hid mmdualtoken/data/__init__.py, which then was in no wheel."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    files = [str(p) for d in ("mmdualtoken", "lab") for p in (ROOT / d).rglob("*.py")]
    files = [f for f in files if "/.mim/" not in f]
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *files], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    folders = {Path(f).parent for f in files if "/lab/configs/" not in f}
    assert [d for d in folders if not (d / "__init__.py").is_file()] == []


def copy_sources(folder):
    """A copy of what packaging reads: building in place would leave files behind."""
    folder.mkdir(exist_ok=True)
    ignore = shutil.ignore_patterns("__pycache__", ".mim")
    for name in ("mmdualtoken", "lab", "tools", "configs", "requirements"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    names = ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "model-index.yml")
    names += ("_mmdualtoken_operators.py", "mmdualtoken-operators.pth")
    for name in names:
        shutil.copy(ROOT / name, folder)
    return folder


def files_below(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def setup_py(clone, *arguments):
    subprocess.run([sys.executable, "setup.py", "-q", *arguments], cwd=clone, check=True)


DEVELOP = """
import distutils.core, setuptools
dist = distutils.core.run_setup("setup.py", stop_after="init")
command = dist.cmdclass["develop"]
command.__bases__[0].run = lambda self: None  # installs nothing
for _ in range(2):
    develop = command(dist)
    develop.install_dir = "site"
    develop.run()
"""


@pytest.mark.processes
def test_what_is_packed(tmp_path):
    """configs, tools and model-index.yml once each; nothing stale, nothing of an earlier link."""
    clone = copy_sources(tmp_path)
    wanted = {"model-index.yml"}
    for name in ("configs", "tools", "requirements"):
        wanted |= {f"{name}/{file}" for file in files_below(clone / name)}
    # These need the clone: its lab/, tests/ and requirements/.
    alone = ("demo", "make_scenes", "reproduce", "setup_env", "test_all")
    wanted -= {f"tools/{tool}.py" for tool in alone}
    assert {"configs/mmdet/metafile.yml", "configs/mmseg/_base_/ade20k.py"} < wanted
    (clone / "configs" / "gone.py").touch()
    setup_py(clone, "build_py", "--build-lib", "lib")
    assert (clone / "lib" / "mmdualtoken-operators.pth").is_file()
    (clone / "configs" / "gone.py").unlink()
    (clone / "site").mkdir()
    subprocess.run([sys.executable, "-W", "ignore", "-c", DEVELOP], cwd=clone, check=True)
    assert (clone / "site" / "mmdualtoken-operators.pth").is_file()
    links = clone / "mmdualtoken" / ".mim"
    assert (links / "configs" / "mmdet" / "metafile.yml").is_file()
    assert {p.name for p in links.iterdir()} == {
        "configs",
        "tools",
        "requirements",
        "model-index.yml",
    }
    setup_py(clone, "build_py", "--build-lib", "lib")
    packed = files_below(clone / "lib" / "mmdualtoken" / ".mim")
    assert packed == wanted
    assert not (clone / "lib" / "mmdualtoken" / ".mim" / "configs").is_symlink()


PIP = [sys.executable, "-m", "pip"]


def environment(folder, *install):
    """Python of a fresh environment after `pip install *install`; torch and the mm packages are
    those of this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    # A plain path: the .pth files in there, an editable install's among them, are not read.
    (site_packages / "stack.pth").write_text(sysconfig.get_path("purelib"))
    python = folder / "bin" / "python"
    options = ["-q", "--no-deps", "--no-build-isolation", *install]
    subprocess.run([*PIP, "--python", python, "install", *options], check=True)
    return python


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return copy_sources(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def wheel(clone):
    options = ["-q", "--no-deps", "--no-build-isolation", "-w", clone / "wheels"]
    subprocess.run([*PIP, "wheel", *options, clone], check=True)
    return next(clone.glob("wheels/mmdualtoken-*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """Python of an environment with the wheel."""
    return environment(tmp_path_factory.mktemp("installed") / "venv", wheel)


def run(*command, cwd):
    """Run a command as a user would: the output of one that succeeded."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


FRESH = """
import sys
from pathlib import Path
from mmengine.config import Config
from mmengine.registry import DefaultScope, MODELS
prefix = Path(sys.prefix)
assert "mmdualtoken" not in sys.modules
cfg = Config.fromfile("vehicles.py")
import mmdualtoken
assert prefix in Path(mmdualtoken.__file__).parents, mmdualtoken.__file__
assert prefix in Path(mmdualtoken.config_path("mmdet/maskrcnn_dualtoken_s_1x.py")).parents
assert MODELS.get("DualTokenViT").__module__.startswith("mmdualtoken.")
assert DefaultScope.get_current_instance() is None and cfg.default_scope == "mmdet"
assert Path(mmdualtoken.__path__[0], ".mim", "model-index.yml").is_file()
print(len(mmdualtoken.list_configs()), "configs")
"""


@pytest.mark.processes
def test_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (n for n in names if n.endswith("METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "mmdualtoken").rglob("*.py")}
    assert {name for name in modules if "/.mim/" not in name} <= names
    assert "mmdualtoken/ops/extension/boxes.py" in names
    assert "mmdualtoken/weights/files/tiny.safetensors" in names
    pinned = {f"mmdualtoken/.mim/requirements/{n}.txt" for n in ("runtime", "onedl", "openmmlab")}
    assert pinned < names  # for the doctor's remedies
    assert {"mmdualtoken-operators.pth", "_mmdualtoken_operators.py"} < names  # site-packages
    assert not [name for name in names if name.startswith(("tests", "tools", "configs", "lab"))]
    required = [line.split(": ", 1)[1] for line in lines if line.startswith("Requires-Dist")]
    assert [line for line in required if "extra ==" not in line] == []
    for name in ("onedl", "openmmlab"):
        extra = {line.split(";")[0].strip() for line in required if f'"{name}"' in line}
        pins = {line for line in extra if "mm" in line and not line.startswith("timm")}
        assert len(pins) == 5
        assert pins <= {f"{dist}=={version}" for dist, version in versions.PINS.items()}
        # What the mm packages leave open, and OpenCV without a display over the one with it.
        others = {re.split("[<>=]", line)[0] for line in extra - pins}
        # Older ones cannot use NumPy 2: without it, pip would keep them, and break them.
        ranges = {r.name: r.specifier for r in map(Requirement, extra)}
        assert [ranges["torch"].contains(v) for v in ("2.2.2", "2.3.0")] == [False, True]
        opencv = {"opencv-python", "opencv-contrib-python-headless"}
        left_open = {"torch", "torchvision", "numpy", "setuptools", "ftfy", "regex", "timm"}
        assert others == left_open | opencv
        assert len({line.split("==")[1] for line in extra if line.startswith("opencv")}) == 1
    requires_python = next(line for line in lines if line.startswith("Requires-Python"))
    assert set(requires_python.split(": ")[1].split(",")) == {">=3.10", "<3.14"}


@pytest.mark.processes
def test_wheel_alone(python, tmp_path):
    """In an empty directory the wheel, not the clone, gives config and backbone."""
    (tmp_path / "vehicles.py").write_text(RECIPES["vehicles"])
    printed = run(python, "-c", FRESH, cwd=tmp_path)
    assert f"{len(mmdualtoken.list_configs())} configs" in printed


@pytest.mark.slow
@pytest.mark.processes
def test_editable_install(tmp_path):
    """config_path finds the clone; no .mim is made, which would show MIM every config twice."""
    clone = copy_sources(tmp_path / "clone")
    own = environment(tmp_path / "venv", "-e", clone)
    code = "import mmdualtoken; print(mmdualtoken.config_path('mmdet/maskrcnn_dualtoken_s_1x.py'))"
    printed = run(own, "-c", code, cwd=tmp_path)
    assert str(clone / "configs" / "mmdet" / "maskrcnn_dualtoken_s_1x.py") in printed
    assert not (clone / "mmdualtoken" / ".mim").exists()


@pytest.mark.processes
def test_sdist_holds_what_setup_reads(clone, tmp_path):
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=clone, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    files = (
        "requirements/onedl.txt",
        "tools/setup_env.py",
        "configs/mmdet/metafile.yml",
        "LICENSE",
    )
    for name in (*files, "_mmdualtoken_operators.py", "mmdualtoken-operators.pth"):
        assert (folder / name).is_file(), name

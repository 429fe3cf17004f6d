"""What is packed, and what a wheel and an editable install make of it."""

import os
import shutil
import subprocess
import sys
import sysconfig

import pytest
from test_inheritance import RECIPES, ROOT

import mmdualtoken

pytestmark = pytest.mark.processes


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
def python(tmp_path_factory):
    """Python of an environment with the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    clone = copy_sources(folder / "clone")
    options = ["-q", "--no-deps", "--no-build-isolation", "-w", folder]
    subprocess.run([*PIP, "wheel", *options, clone], check=True)
    shutil.rmtree(clone)
    return environment(folder / "venv", next(folder.glob("mmdualtoken-*.whl")))


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


def test_wheel_alone(python, tmp_path):
    """In an empty directory the wheel, not the clone, gives config and backbone."""
    (tmp_path / "vehicles.py").write_text(RECIPES["vehicles"])
    printed = run(python, "-c", FRESH, cwd=tmp_path)
    assert f"{len(mmdualtoken.list_configs())} configs" in printed


@pytest.mark.slow
def test_editable_install(python, tmp_path):
    """config_path finds the clone; no .mim is made, which would show MIM every config twice."""
    clone = copy_sources(tmp_path / "clone")
    own = environment(tmp_path / "venv", "-e", clone)
    code = "import mmdualtoken; print(mmdualtoken.config_path('mmdet/maskrcnn_dualtoken_s_1x.py'))"
    printed = run(own, "-c", code, cwd=tmp_path)
    assert str(clone / "configs" / "mmdet" / "maskrcnn_dualtoken_s_1x.py") in printed
    assert not (clone / "mmdualtoken" / ".mim").exists()

"""Packaging. Installs into an existing environment without touching its torch or mm packages:
nothing is required unconditionally; the extras bring a stack for those who want one."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.develop import develop

ROOT = Path(__file__).resolve().parent


def pins(name, only=None):
    """The lines of requirements/<name>.txt that match ``only``, without comments."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    found = [line.split("#")[0].strip() for line in lines]
    return [line for line in found if line and (only is None or re.match(only, line))]


#: What MIM, users' configs and the doctor's remedies read, in an installed ``mmdualtoken/.mim``.
MIM = ("configs", "tools", "requirements", "model-index.yml")
#: Tools that need the clone: its lab/, tests/ and requirements/.
CLONE_ONLY = ("demo.py", "make_scenes.py", "reproduce.py", "setup_env.py", "test_all.py")


#: What Python reads when it starts, and so makes mmcv's operators importable.
START_UP = "mmdualtoken-operators.pth"


class BuildWithMim(build_py):
    """Also packs ``START_UP``, and ``MIM`` into ``mmdualtoken/.mim``.

    An editable install gets no ``.mim``: pip asks for ``editable_wheel``, the maintained fork of
    MIM then looks into the clone itself, and would find each config twice if ``.mim`` linked to it.
    """

    def run(self):
        super().run()
        if getattr(self, "editable_mode", False):
            # What lies there goes into the editable wheel, unlike what is in build_lib.
            install_lib = self.get_finalized_command("install").install_lib
            self.copy_file(START_UP, str(Path(install_lib, START_UP)))
            return
        self.copy_file(START_UP, str(Path(self.build_lib, START_UP)))
        target = Path(self.build_lib, "mmdualtoken", ".mim")
        shutil.rmtree(target, ignore_errors=True)  # build/ may hold files that are gone by now
        for name in MIM:
            if (ROOT / name).is_dir():
                ignore = shutil.ignore_patterns("__pycache__", "*.pyc", *CLONE_ONLY)
                shutil.copytree(ROOT / name, target / name, ignore=ignore)
            elif (ROOT / name).is_file():
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, target)


class DevelopWithMim(develop):
    """Links ``mmdualtoken/.mim`` to the clone, where the official MIM looks; copies ``START_UP``.

    MIM brings a setuptools that knows no ``editable_wheel``: pip then falls back to this command.
    """

    def run(self):
        super().run()
        self.copy_file(START_UP, str(Path(self.install_dir, START_UP)))
        target = ROOT / "mmdualtoken" / ".mim"
        target.mkdir(exist_ok=True)
        for name in MIM:
            link = target / name
            if not link.is_symlink():
                link.symlink_to(Path("..", "..", name))


#: What the mm packages leave open. torch and torchvision: one that is there stays if it fits. torch
#: before 2.3 cannot use NumPy 2, which OpenCV asks for; the upper bound is the newest that was
#: tried. The mm packages ask for opencv-python, which needs libGL, a library that servers lack. pip
#: installs opencv-contrib-python-headless of the same version after it, over the same files: of
#: packages that depend on the same, the later one by name comes first.
OPENCV = pins("runtime", "opencv-python-headless")[0].partition("==")[2]
AROUND_A_STACK = [
    "torch>=2.3,<2.16",
    "torchvision>=0.18,<0.31",
    *pins("runtime", "(numpy|setuptools|ftfy|regex|timm)=="),  # mmseg 1.2.2 forgets ftfy and regex
    f"opencv-python=={OPENCV}",
    f"opencv-contrib-python-headless=={OPENCV}",
]

version = re.search(
    r'__version__ = ["\']([^"\']+)',
    (ROOT / "mmdualtoken" / "version.py").read_text(encoding="utf-8"),
)[1]
readme = ROOT / "README.md"

setup(
    name="mmdualtoken",
    version=version,
    description="DualToken-ViT for MMPretrain, MMDetection and MMSegmentation",
    long_description=readme.read_text(encoding="utf-8") if readme.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["mmdualtoken*"]),
    py_modules=["_mmdualtoken_operators"],
    package_data={"mmdualtoken.weights": ["files/*.safetensors"]},
    install_requires=[],
    extras_require={
        "onedl": [*pins("onedl", "onedl-"), *AROUND_A_STACK],
        "openmmlab": [*pins("openmmlab", "mm"), *AROUND_A_STACK],
        "test": pins("test"),
        "export": pins("export", "onnx"),
        "openvino": [*pins("export", "onnx"), *pins("openvino")],
        "quantize": [*pins("export", "onnx"), *pins("openvino"), *pins("quantization", "nncf")],
        "inspector": pins("inspector", "gradio=="),
    },
    cmdclass={"build_py": BuildWithMim, "develop": DevelopWithMim},
    classifiers=[
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    zip_safe=False,
)

"""Packaging. Installs into an existing environment without touching its torch or mm packages:
nothing is required unconditionally; the extras bring a stack for those who want one."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def pins(name, only=None):
    """The pins of requirements/<name>.txt whose line matches ``only``, without comments."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    found = [line.split("#")[0].strip() for line in lines]
    return [line for line in found if line and (only is None or re.match(only, line))]


class BuildWithMim(build_py):
    """Also packs configs/ and tools/ where MIM looks for them: in ``mmdualtoken/.mim``.

    An editable install is left alone: there they lie in the clone.
    """

    def run(self):
        super().run()
        if getattr(self, "editable_mode", False):
            return
        for folder in ("configs", "tools"):
            if (ROOT / folder).is_dir():
                shutil.copytree(
                    ROOT / folder,
                    Path(self.build_lib, "mmdualtoken", ".mim", folder),
                    ignore=shutil.ignore_patterns("__pycache__", "*.pyc"),
                    dirs_exist_ok=True,
                )


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
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["mmdualtoken*"]),
    install_requires=[],
    extras_require={
        "onedl": pins("onedl", "onedl-"),
        "openmmlab": pins("openmmlab", "mm"),
        "test": pins("test"),
    },
    cmdclass={"build_py": BuildWithMim},
    classifiers=[
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    zip_safe=False,
)

"""mmcv's operators by torchvision and plain PyTorch, for an mmcv without compiled ones.

``mmcv.ops`` takes every operator from the module ``mmcv._ext``. Where mmcv has none, that module is
the package ``extension`` beside this file. Compiled operators are used where they are installed,
unless the environment variable ``MMDUALTOKEN_OPS`` is ``torchvision``.
"""

import importlib.util
import os
import sys

from _mmdualtoken_operators import OperatorsFinder, enable

__all__ = ["OperatorsFinder", "enable_operators", "operators_in_use"]

#: What MMDUALTOKEN_OPS may be: "auto", as without it, takes compiled operators where they are.
CHOICES = ("auto", "torchvision")


def enable_operators() -> None:
    """Make ``mmcv._ext`` importable. Without effect on operators that are imported already.

    Raises:
        ValueError: the environment variable ``MMDUALTOKEN_OPS`` is not in ``CHOICES``.
    """
    choice = os.environ.get("MMDUALTOKEN_OPS") or "auto"
    if choice not in CHOICES:
        raise ValueError(
            f"MMDUALTOKEN_OPS is {choice!r}; allowed: {', '.join(CHOICES)} "
            "(auto, the default, uses mmcv's compiled operators where they are installed)"
        )
    enable()


def operators_in_use() -> str:
    """``"compiled"``, ``"torchvision"`` or ``"none"``: what ``mmcv._ext`` is, or would be."""
    try:
        module = sys.modules.get("mmcv._ext")
        spec = module.__spec__ if module else importlib.util.find_spec("mmcv._ext")
    except ImportError:  # no mmcv
        return "none"
    if spec is None:
        return "none"
    return "torchvision" if spec.submodule_search_locations else "compiled"

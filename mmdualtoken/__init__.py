"""DualToken-ViT for the OpenMMLab toolboxes: backbone, configs and tools.

Importing the package checks the installed stack, makes mmcv's operators importable where mmcv has
none, registers the models, and prepares the engine (hooks, safe loading of checkpoints).
"""

import sys

from .version import __version__

__all__ = ["__version__", "config_path", "inspect_tokens", "list_configs"]


def _runs_doctor() -> bool:
    """Whether this process is ``python -m mmdualtoken.doctor``."""
    argv = list(getattr(sys, "orig_argv", ()))
    return any(pair == ("-m", "mmdualtoken.doctor") for pair in zip(argv, argv[1:], strict=False))


# ``python -m mmdualtoken.doctor`` imports this package before the doctor runs, and the doctor
# must be able to say what is wrong where the stack is missing or does not fit.
if not _runs_doctor():
    from .stack import check_stack

    check_stack()

    from .ops import enable_operators

    enable_operators()

    from . import datasets, engine, models  # noqa: F401
    from .config_files import config_path, list_configs
    from .visualization import inspect_tokens

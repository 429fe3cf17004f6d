"""DualToken-ViT for the OpenMMLab toolboxes: backbone, configs and tools.

Importing the package checks the installed versions, makes mmcv's operators importable where mmcv
has none, registers models, hooks and transforms, lets torch load MMEngine's checkpoints
safely, and makes the shipped weights loadable as mmdualtoken://NAME.
"""

import getpass
import os
import sys

from mmdualtoken.version import __version__

__all__ = ["__version__", "config_path", "inspect_tokens", "list_configs", "list_weights"]


def _runs_doctor() -> bool:
    """Whether this process is ``python -m mmdualtoken.doctor``."""
    argv = list(getattr(sys, "orig_argv", ()))
    return any(pair == ("-m", "mmdualtoken.doctor") for pair in zip(argv, argv[1:], strict=False))


def _name_the_user() -> None:
    """Set USER where the system knows no name, as in `docker run --user 1000`.

    torch asks for a name when torchvision is imported, and ends with a KeyError without one.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):  # KeyError up to Python 3.12
        os.environ["USER"] = str(os.getuid())


def __getattr__(name: str):
    # Drawing imports much that training does without.
    if name == "inspect_tokens":
        from mmdualtoken.inference.tokens import inspect_tokens

        return inspect_tokens
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_name_the_user()

# ``python -m mmdualtoken.doctor`` imports this package before the doctor runs, and the doctor
# must be able to say what is wrong where the stack is missing or does not fit.
if not _runs_doctor():
    from mmdualtoken.environment.versions import check_stack

    check_stack()

    from mmdualtoken.ops import enable_operators

    enable_operators()

    from mmdualtoken.config_files import config_path, list_configs
    from mmdualtoken.registration import register_components
    from mmdualtoken.weights.checkpoints import allow_mmengine_checkpoints
    from mmdualtoken.weights.shipped import list_weights, register_shipped_weights

    register_components()
    allow_mmengine_checkpoints()
    register_shipped_weights()

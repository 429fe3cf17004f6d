"""What stands in for an operator without a replacement."""

import importlib.metadata
import inspect
import sys


def install_command() -> str:
    """The commands that install compiled operators beside the torch that is there."""
    for dist, source in (("onedl-mmcv", "onedl-mmcv"), ("mmcv", "mmcv"), ("mmcv-lite", "mmcv")):
        try:
            version = importlib.metadata.version(dist)
        except importlib.metadata.PackageNotFoundError:
            continue
        # Nothing is removed before the wheel is there: the build may fail.
        remove = "pip uninstall -y mmcv-lite && " if dist == "mmcv-lite" else ""
        return (
            "pip install setuptools==80.9.0 wheel ninja && MMCV_WITH_OPS=1 pip wheel --no-deps "
            f"--no-build-isolation --no-cache-dir {source}=={version} && {remove}"
            f"pip install --no-deps --force-reinstall {source.replace('-', '_')}-{version}-*.whl"
        )
    return "see docs/troubleshooting.md: no distribution of mmcv is installed here"


def caller(frame) -> str:
    """The class of mmcv that called an operator from a frame, or the function of ``mmcv.ops``."""
    name = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name}"
    while frame is not None:
        owner = type(frame.f_locals.get("self"))
        if owner.__module__.startswith("mmcv.ops"):
            return f"{owner.__module__}.{owner.__qualname__}"
        frame = frame.f_back
    return name


def missing_operator(name: str):
    """A function that raises when it is called.

    The error names the operator, the class of mmcv that wanted it and the command that installs
    compiled operators.
    """

    def raise_missing(*args, **kwargs):
        raise NotImplementedError(
            f"{caller(inspect.currentframe().f_back)} needs mmcv's operator {name!r}. mmcv is "
            "installed without compiled operators, and mmdualtoken has no replacement for this "
            f"one. This compiles them (a C++ compiler and Python {sys.version_info[0]}."
            f"{sys.version_info[1]}'s headers are required): {install_command()}"
        )

    raise_missing.__name__ = name
    return raise_missing

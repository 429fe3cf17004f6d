"""Reading checkpoints without unpickling objects that could run code."""

import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.utils import digit_version

from mmdualtoken.errors import InputError, MissingPackage, log_warning
from mmdualtoken.files import check_file

# Names for allowed objects, which the histories need, came with torch 2.6. Before it torch.load
# was unrestricted by default, and MMEngine's own loading stays in place.
RESTRICTED = digit_version(torch.__version__) >= digit_version("2.6.0")

UNSAFE_FLAG = "--allow-unsafe-checkpoints"
UNSAFE_TEXT = (
    "checkpoints may run ANY CODE on this machine, with all your rights, when they are loaded. "
    "Never use it for a file from somebody whom you would not let use your account."
)
_unsafe_allowed = False


def _history_method(owner: type, name: str) -> Any:
    """Return a statistics method of HistoryBuffer; refuse any other attribute.

    It replaces `getattr` while a checkpoint is read. HistoryBuffer pickles references to its own
    methods, which pickle writes as getattr(HistoryBuffer, name). The real getattr would return
    any attribute of any object.
    """
    if owner is HistoryBuffer and name in ("min", "max", "mean", "current"):
        return getattr(owner, name)
    raise pickle.UnpicklingError(f"getattr({owner!r}, {name!r}) is not allowed in a checkpoint")


def _safe_globals() -> list:
    """Return the types and functions of loss histories, which MMEngine's checkpoints contain."""
    core = np._core if hasattr(np, "_core") else np.core
    allowed = [HistoryBuffer, np.ndarray, np.dtype, (_history_method, "builtins.getattr")]
    allowed += [type(np.dtype(t)) for t in (np.float32, np.float64, np.int64, np.uint32, np.bool_)]
    # numpy 2 moved these; a checkpoint may come from either side of the move.
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        allowed += [
            (core.multiarray._reconstruct, f"{module}._reconstruct"),
            (core.multiarray.scalar, f"{module}.scalar"),
        ]
    return allowed


def allow_mmengine_checkpoints() -> None:
    """Let `torch.load(weights_only=True)`, torch's default from 2.6, read MMEngine checkpoints.

    Without it `--resume` and testing fail on mmengine 0.10.7. `import mmdualtoken` calls it, so
    that the toolboxes' own train.py and test.py work, too.
    """
    if RESTRICTED:
        torch.serialization.add_safe_globals(_safe_globals())


def _load_safetensors(path: Path, map_location: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of a .safetensors file by name; the format cannot hold code."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file as load_tensors
    except ImportError as error:
        raise MissingPackage(
            f"Checkpoint {path}: reading it needs the package safetensors: pip install safetensors"
        ) from error
    device = map_location if isinstance(map_location, (str, torch.device)) else "cpu"
    try:
        return load_tensors(path, device=str(device))
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"Checkpoint {path} cannot be read ({error}): it is cut off or no safetensors file."
        ) from error


def _first_line(error: Exception) -> str:
    line = (str(error) or type(error).__name__).splitlines()[0]
    return line.split(" In PyTorch 2.6, ")[0]  # torch goes on with how to load it all the same


def _first_global(error: Exception) -> str:
    """Return the line of torch's long text that names the refused object."""
    reason = str(error).splitlines()
    words = ("GLOBAL", "getattr", "WeightsUnpickler error")
    found = (line.strip() for line in reason if any(word in line for word in words))
    line = next(found, None) or _first_line(error)
    return line[max(line.find("WeightsUnpickler error"), 0) :]  # before it: a request to report it


def _read(name: object, load: Callable[[bool], Any]) -> Any:
    """Load a checkpoint by load(True), restricted, or where that is allowed by load(False).

    Raises:
        InputError: it holds objects whose loading could run code, and
            `allow_unsafe_checkpoints` has not been called.
    """
    # Again: MMEngine's fork takes them off the list whenever it has loaded a file itself.
    allow_mmengine_checkpoints()
    try:
        return load(True)
    except pickle.UnpicklingError as error:
        reason = _first_global(error)
        if not _unsafe_allowed:
            raise InputError(
                f"Checkpoint {name} was refused: it is broken or holds objects whose loading could "
                f"run code ({reason}). Only tensors, plain containers and MMEngine's training "
                "histories are read. If you trust whoever made the file, load it yourself and save "
                "its 'state_dict' alone with torch.save, or let train, test, "
                f"export or publish_model run its code with {UNSAFE_FLAG}."
            ) from error
        text = f"UNSAFE: {name} is loaded without restriction, and may run code now ({reason})."
        log_warning(text)
    return load(False)


def load_file(filename: str, map_location: Any = None) -> Any:
    """Load a local checkpoint of tensors, plain containers and MMEngine's histories.

    Args:
        filename: path of the checkpoint; for a .safetensors file, the tensors are returned by name.
        map_location: as in `torch.load`. For .safetensors it must be a device; others mean the CPU.

    Raises:
        InputError: the file is missing, broken, or holds objects whose loading could run code, and
            `allow_unsafe_checkpoints` has not been called.
    """
    path = check_file(filename, "Checkpoint")
    if path.suffix == ".safetensors":
        return _load_safetensors(path, map_location)
    try:
        return _read(
            path, lambda only: torch.load(path, map_location=map_location, weights_only=only)
        )
    except InputError:
        raise
    except Exception as error:  # unpickling what is no pickle raises anything
        raise InputError(
            f"Checkpoint {path} cannot be read ({_first_line(error)}): it is cut off or no "
            "checkpoint. Use another one, for instance an earlier epoch of the same run."
        ) from error


@contextmanager
def _weights_only(only: bool) -> Iterator[None]:
    """Make `torch.load` read tensors only, or any object, whatever its callers ask for."""
    names = ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ[names[only]] = "1"
    try:
        yield
    finally:
        del os.environ[names[only]]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def load_remote(
    filename: str, map_location: Any = None, load: Callable = CheckpointLoader.load_checkpoint
) -> Any:
    """Load a checkpoint from a URL by MMEngine, with the restrictions of `load_file`.

    MMEngine alone unpickles downloaded files without restriction.

    Args:
        filename: http://, https:// or another scheme that MMEngine knows.
        map_location: as in `torch.load`.
        load: MMEngine's loader.

    Raises:
        InputError: the download fails, or the file is broken or holds objects whose loading could
            run code.
    """
    if not RESTRICTED:
        return load(filename, map_location)
    if filename.endswith(".safetensors"):
        raise InputError(f"Checkpoint {filename}: download .safetensors files first.")

    def read(only: bool) -> Any:
        with _weights_only(only):
            return load(filename, map_location)

    try:
        return _read(filename, read)
    except (OSError, HTTPException) as error:
        raise InputError(
            f"Checkpoint {filename} cannot be downloaded ({type(error).__name__}: {error}). Check "
            "the address, the network and its proxy, or download the file by other means."
        ) from error
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"Checkpoint {filename} cannot be read ({_first_line(error)}): it is cut off or no "
            f"checkpoint. Delete the copy in {torch.hub.get_dir()}/checkpoints to get it again."
        ) from error


def load_any(filename: str, map_location: Any = "cpu") -> Any:
    """Load a checkpoint from a URL by `load_remote`, from any other file by `load_file`."""
    return (load_remote if "://" in filename else load_file)(filename, map_location)


def refuse_unsafe_checkpoints() -> None:
    """Make MMEngine read checkpoints by `load_file` and `load_remote` from now on (torch >= 2.6).

    Without it, the maintained fork of MMEngine unpickles a file without restriction when the
    restricted reading fails, and both stacks do so for every URL.
    """
    global _unsafe_allowed
    _unsafe_allowed = False
    if not RESTRICTED:
        return

    def load_from_local(filename: str, map_location: Any = None) -> Any:
        return load_file(filename, map_location)

    def guarded(load: Callable) -> Callable:
        @wraps(load)  # MMEngine logs its name
        def load_guarded(filename: str, map_location: Any = None) -> Any:
            return load_remote(filename, map_location, load)

        return load_guarded

    for prefix, load in list(CheckpointLoader._schemes.items()):
        if prefix == "":
            CheckpointLoader.register_scheme(prefixes="", loader=load_from_local, force=True)
        elif not hasattr(load, "__wrapped__"):
            CheckpointLoader.register_scheme(prefixes=prefix, loader=guarded(load), force=True)


def allow_unsafe_checkpoints() -> None:
    """Let checkpoints run any code, until `refuse_unsafe_checkpoints`; print a loud warning.

    Files that hold weights only are read as before; others are unpickled without restriction.
    """
    global _unsafe_allowed
    _unsafe_allowed = True
    print(f"{'!' * 80}\n{UNSAFE_FLAG}: {UNSAFE_TEXT}\n{'!' * 80}", file=sys.stderr, flush=True)

"""Reading checkpoints without unpickling anything that could run code."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.utils import digit_version

from .errors import InputError

# Names for allowed objects, which the histories need, came with torch 2.6. Before it torch.load
# was unrestricted by default, and MMEngine's own loading stays in place.
RESTRICTED = digit_version(torch.__version__) >= digit_version("2.6.0")


def _history_method(owner: type, name: str) -> Any:
    """Stands in for `getattr` in checkpoints: gives HistoryBuffer's statistics, nothing else.

    HistoryBuffer pickles references to its own methods, which pickle writes as
    getattr(HistoryBuffer, name). The real getattr would open a door to any attribute.
    """
    if owner is HistoryBuffer and name in ("min", "max", "mean", "current"):
        return getattr(owner, name)
    raise pickle.UnpicklingError(f"getattr({owner!r}, {name!r}) is not allowed in a checkpoint")


def _safe_globals() -> list:
    """What MMEngine writes into its own checkpoints beside tensors: loss histories of numbers."""
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

    Without it `--resume` and testing fail on mmengine 0.10.7. Called when mmdualtoken is imported,
    so that the toolboxes' own train.py and test.py work too.
    """
    if RESTRICTED:
        torch.serialization.add_safe_globals(_safe_globals())


def _load_safetensors(path: Path, map_location: Any) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file by name; the format holds nothing that could run."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file as load_tensors
    except ImportError as error:
        raise InputError(
            f"Checkpoint {path}: reading it needs the package safetensors: pip install safetensors"
        ) from error
    device = map_location if isinstance(map_location, (str, torch.device)) else "cpu"
    try:
        return load_tensors(path, device=str(device))
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"Checkpoint {path} cannot be read ({error}): it is cut off or no safetensors file."
        ) from error


def load_file(filename: str, map_location: Any = None) -> Any:
    """Load a local checkpoint: tensors, plain containers and MMEngine's histories, nothing else.

    Args:
        filename: path of the checkpoint; a .safetensors file gives its tensors by name.
        map_location: as in `torch.load`; for .safetensors a device, else the CPU.

    Raises:
        InputError: the file is missing, broken, or holds objects whose loading could run code.
    """
    path = Path(filename).expanduser()
    if not path.is_file():
        raise InputError(f"Checkpoint {path} does not exist (working directory: {Path.cwd()}).")
    if path.suffix == ".safetensors":
        return _load_safetensors(path, map_location)
    # Again: MMEngine's fork takes them off the list whenever it has loaded a file itself.
    allow_mmengine_checkpoints()
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()
        detail = next((line for line in reason if "GLOBAL" in line or "getattr" in line), reason[0])
        raise InputError(
            f"Checkpoint {path} was refused: it is broken or holds objects whose loading could run "
            f"code ({detail.strip()}). Only tensors, plain containers and MMEngine's training "
            "histories are read. If you trust the file, load it yourself and save its 'state_dict' "
            "alone with torch.save."
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise InputError(
            f"Checkpoint {path} cannot be read ({str(error).splitlines()[0]}): it is cut off or no "
            "checkpoint. Use another one, for instance an earlier epoch of the same run."
        ) from error


def refuse_unsafe_checkpoints() -> None:
    """Make MMEngine read local checkpoints through `load_file` in this process (torch >= 2.6).

    The maintained fork of MMEngine falls back to unrestricted unpickling where the restricted one
    fails; our tools do not.
    """

    def load_from_local(filename: str, map_location: Any = None) -> Any:
        return load_file(filename, map_location)

    if RESTRICTED:
        CheckpointLoader.register_scheme(prefixes="", loader=load_from_local, force=True)

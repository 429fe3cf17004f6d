"""Weights that come with the package, by names such as mmdualtoken://tiny."""

import json
from pathlib import Path
from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader

from mmdualtoken.errors import InputError

SCHEME = "mmdualtoken://"
FOLDER = Path(__file__).with_name("files")


def list_weights() -> list[str]:
    """Return the names of the shipped weights; 'mmdualtoken://NAME' loads one."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def weights_path(name: str) -> Path:
    """Return the file of shipped weights, named with or without 'mmdualtoken://'.

    Raises:
        InputError: there are no such weights; the message lists the names.
    """
    known = list_weights()
    stem = str(name).removeprefix(SCHEME)
    if stem not in known:
        raise InputError(
            f"{name} names no shipped weights. Known: {', '.join(SCHEME + k for k in known)}. "
            "For a checkpoint of your own, give the path of its file."
        )
    return FOLDER / f"{stem}.safetensors"


def complete_name(name: str) -> str:
    """Return 'mmdualtoken://tiny' for 'tiny', unless a file has that name; else `name` itself.

    Raises:
        InputError: the name begins with 'mmdualtoken://', and there are no such weights.
    """
    if name in list_weights() and not Path(name).exists():
        return SCHEME + name
    if name.startswith(SCHEME):
        weights_path(name)
    return name


def weights_info(name: str) -> dict[str, Any]:
    """Return the record of shipped weights: their config, data, accuracy and terms.

    Returns:
        `config` (as `mmdualtoken.config_path` takes it), `classes`, `data` (photos per source),
        `photos_seen`, `grown_from` (the weights it began as, if any), `teacher`, `accuracy`
        (percent per validation set: `top1` and `top5` of all classes, `top1_own_classes` of those
        in the set), `version` and `licence`.

    Raises:
        InputError: there are no such weights.
    """
    from safetensors import safe_open

    with safe_open(weights_path(name), framework="pt") as file:
        return json.loads(file.metadata()["mmdualtoken"])


# MMEngine logs what follows load_from_: "by shipped backend".
def load_from_shipped(filename: str, map_location: Any = "cpu") -> dict[str, Any]:
    """Load 'mmdualtoken://NAME' as a checkpoint: float32 `state_dict` and `meta`.

    Raises:
        InputError: there are no such weights.
    """
    from safetensors.torch import load_file

    device = map_location if isinstance(map_location, str) else "cpu"
    state = load_file(weights_path(filename), device=device)
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    dataset_meta = dict(classes=weights_info(filename)["classes"])
    return dict(state_dict=state, meta=dict(dataset_meta=dataset_meta))


def register_shipped_weights() -> None:
    """Let MMEngine load 'mmdualtoken://NAME' wherever it loads a checkpoint."""
    CheckpointLoader.register_scheme(prefixes=SCHEME, loader=load_from_shipped, force=True)

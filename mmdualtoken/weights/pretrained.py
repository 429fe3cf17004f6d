"""Starting the backbone from a classification checkpoint."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.model import update_init_info
from torch import Tensor, nn

from mmdualtoken.config_files import type_name
from mmdualtoken.errors import InputError
from mmdualtoken.files import check_file
from mmdualtoken.weights.checkpoints import load_any
from mmdualtoken.weights.fitting import (
    COUNTER,
    describe_misfit,
    list_names,
    match_tensors,
    tensors_of,
)
from mmdualtoken.weights.shipped import SCHEME, list_weights

PREFIX = "backbone."
#: Of the RGB images that the shipped weights were trained on: ImageNet's, as the toolboxes have it.
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
#: Backbones that start from a classifier's checkpoint.
BACKBONES = ("DualTokenViT", "DualTokenViTStride4")
#: Parts of them that a file may lack or have otherwise, as they belong to what reads the maps.
OUTPUTS = ("norm0", "norm1", "norm2", "fine")


def read_tensors(filename: str, map_location: Any = "cpu") -> dict[str, Tensor]:
    """Return the tensors of a checkpoint that `load_any` reads."""
    return tensors_of(load_any(filename, map_location), filename)


def _without_prefix(
    tensors: Mapping, names: Iterable[str], prefix: str, filename: str
) -> tuple[dict, str]:
    """Return the backbone's tensors without their prefix, and that prefix.

    It is `prefix` where the file has it, else one of those that wrapped models and backbones alone
    have.

    Raises:
        InputError: no tensor of the backbone has any of these prefixes.
    """
    names = list(names)
    for found in dict.fromkeys(
        (prefix, f"module.{prefix}", "", "module.", PREFIX, "module." + PREFIX)
    ):
        if any(found + name in tensors for name in names):
            part = {k[len(found) :]: v for k, v in tensors.items() if k.startswith(found)}
            return part, found
    raise InputError(
        f"{filename} does not fit: no tensor is named '{prefix}{names[0]}' or like another one of "
        f"this backbone; found {list_names(tensors, limit=3)}. A checkpoint written by training a "
        "classifier with this backbone is needed."
    )


def _leave_out(own: Mapping, state: dict) -> list[str]:
    """Remove from `state` the output layers that `own` cannot use, and the stages that it lacks.

    Returns:
        notes for the log: what was removed, and which output layers start from scratch.
    """
    stages = [f"stages.{i}" for i in range(3)]
    unbuilt = [s for s in stages if not any(k.startswith(f"{s}.") for k in own)]
    notes: dict[str, list[str]] = {}
    for part in (*OUTPUTS, *unbuilt):
        here, there = (
            {k for k in tensors if k.startswith(f"{part}.") and not k.endswith(COUNTER)}
            for tensors in (own, state)
        )
        if here == there:
            continue
        for key in [k for k in state if k.startswith(f"{part}.")]:
            del state[key]
        reason = "of another type in the file" if there else "not in the file"
        notes.setdefault(f"newly initialized, {reason}" if here else "not used", []).append(part)
    return [f"{what}: {', '.join(parts)}" for what, parts in notes.items()]


def load_backbone(
    backbone: nn.Module, filename: str, prefix: str | None = None, map_location: Any = "cpu"
) -> None:
    """Load a DualTokenViT from a checkpoint, and log in one line which tensors it loaded.

    Every tensor must be in the file and fit, with three exceptions. An output norm that the file
    lacks, or has of another type, keeps its initial values (a classifier has `norm2` only, as
    LayerNorm); so do the blocks that DualTokenViTStride4 adds. Stages after the last of the
    backbone's `out_indices` are not used. Another token grid is resized.

    Args:
        backbone: changed in place.
        filename: a local file (.pth, .safetensors) or a URL.
        prefix: prefix of the names, 'backbone.' in a classifier's checkpoint. Bare names, and those
            of a wrapped model (`module.`), are found, too; the log names their prefix.
        map_location: as in `torch.load`.

    Raises:
        InputError: the file is missing, broken or unsafe, or its tensors do not fit; the message
            lists them.
    """
    prefix = f"{prefix.removesuffix('.')}." if prefix else ""
    own = backbone.state_dict()
    state, found = _without_prefix(read_tensors(filename, map_location), own, prefix, filename)
    notes = _leave_out(own, state)
    absent = {k for k in own if k.split(".")[0] in OUTPUTS and k not in state}
    state, missing, unknown, other = match_tensors(backbone, state, absent)
    if missing or unknown or other:
        bare = f" (no tensor is named '{prefix}...', but '{found}...')" if prefix else ""
        raise InputError(
            f"{filename} does not fit the config's backbone{bare if found != prefix else ''}. Use "
            "the same arch, in_channels, token_mlp, token_module, local_encoder and downsample as "
            "the checkpoint. "
            f"{describe_misfit(own, state, missing, unknown, other)}."
        )
    if any(k.endswith(COUNTER) and k not in state and k not in absent for k in own):
        notes.append(f"{COUNTER} of the stem counts from 0, not in the file")
    if found != prefix:
        notes.append(f"names begin with {found!r}" if found else f"names without {prefix!r}")
    backbone.load_state_dict(state, strict=False)
    text = "; ".join(
        [f"loaded {len(state)} of {len(own)} backbone tensors from {filename}", *notes]
    )
    print_log(text, logger="current")


class PretrainedBackbone:
    """Replaces MMEngine's initialiser 'Pretrained' for DualTokenViT; loads by `load_backbone`.

    Args:
        checkpoint: a local file or a URL.
        prefix: prefix of the names, as in `load_backbone`.
        map_location: as in `torch.load`.
    """

    def __init__(self, checkpoint: str, prefix: str | None = None, map_location: Any = "cpu"):
        self.checkpoint = str(checkpoint)
        self.prefix = prefix
        self.map_location = map_location

    def __call__(self, module: nn.Module) -> None:
        """Load the DualTokenViT `module`."""
        load_backbone(module, self.checkpoint, self.prefix, self.map_location)
        if hasattr(module, "_params_init_info"):
            update_init_info(module, f"PretrainedBackbone: load from {self.checkpoint}")


def use_our_pretrained(init_cfg: dict | list | None) -> tuple[list[dict], str | None]:
    """Replace 'Pretrained' in an `init_cfg` by `PretrainedBackbone`.

    Returns:
        the initialisers as a list, with `PretrainedBackbone` last; its checkpoint, or None.
    """
    entries = [init_cfg] if isinstance(init_cfg, dict) else list(init_cfg or ())

    def is_pretrained(entry: dict) -> bool:
        return type_name(entry) in ("Pretrained", "PretrainedInit")

    ours = [{**e, "type": PretrainedBackbone} for e in entries if is_pretrained(e)]
    for entry in ours:
        entry.pop("_delete_", None)  # MMEngine leaves it there if the base config has no init_cfg
    others = [e for e in entries if not is_pretrained(e)]
    return others + ours, ours[-1]["checkpoint"] if ours else None


def start_from_checkpoint(cfg: Config, filename: str) -> None:
    """Make the backbone of `cfg` start from the classification checkpoint `filename`.

    As in the paper's detectors, the backbone loads the weights named 'backbone.*', LayerNorm
    normalises its outputs, and the stem's BatchNorm stays in eval mode. `load_backbone` checks the
    tensors when the model is initialised. Shipped weights read RGB: a config that reads BGR, as
    RTMDet's, is changed to it.

    Raises:
        InputError: the file is missing, or the config's backbone is none of `BACKBONES`.
    """
    backbone = cfg.model.get("backbone", {})
    if type_name(backbone) not in BACKBONES:
        raise InputError(
            f"--pretrained {filename}: the config's model.backbone is of type "
            f"{backbone.get('type')!r}; only {' and '.join(BACKBONES)} can be started this way. "
            "For another backbone, set model.backbone.init_cfg with --cfg-options."
        )
    hint = f"Shipped weights are {', '.join(list_weights())}."
    check_file(filename, "--pretrained", hint, url=True)
    backbone.update(
        init_cfg=ConfigDict(type="Pretrained", checkpoint=str(filename), prefix=PREFIX),
        out_norm_cfg=ConfigDict(type="LN", eps=1e-6),
        norm_eval=True,
    )
    _read_rgb(cfg, filename)


def _read_rgb(cfg: Config, filename: str) -> None:
    """Give shipped weights RGB with the mean and std of theirs; for other files, warn of BGR."""
    reader = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or ConfigDict()
    while isinstance(reader.get("data_preprocessor"), dict):  # of several branches
        reader = reader.data_preprocessor
    key = "to_rgb" if cfg.get("default_scope") == "mmpretrain" else "bgr_to_rgb"
    shipped = str(filename).startswith(SCHEME)
    if not reader.get("mean"):
        if shipped:
            print_log(
                f"{filename} was trained on normalised RGB, and this config's data_preprocessor "
                f"does not normalise. Unless its pipeline does, set {key}=True, "
                f"mean={MEAN} and std={STD} there.",
                level=logging.WARNING,
            )
    elif shipped and not reader.get("rgb_to_bgr"):
        given = bool(reader.get(key)), list(reader.mean), list(reader.get("std") or ())
        if given != (True, MEAN, STD):
            reader.update({key: True, "mean": [*MEAN], "std": [*STD]})
            print_log(
                f"{filename} reads RGB with mean={MEAN} and std={STD}: data_preprocessor gives it "
                "that now."
            )
    elif not reader.get(key):
        print_log(
            f"This config reads BGR. If {filename} was trained on RGB, as our classifiers are, set "
            f"data_preprocessor: {key}=True, mean and std reversed.",
            level=logging.WARNING,
        )

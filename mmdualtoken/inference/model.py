"""A trained model from its config and checkpoint, for any of the three toolboxes."""

from importlib import import_module
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import Registry, init_default_scope
from torch import nn

from mmdualtoken.config_files import scope_of, type_name
from mmdualtoken.data.layout import innermost_datasets
from mmdualtoken.errors import InputError, MissingPackage
from mmdualtoken.weights.checkpoints import load_any
from mmdualtoken.weights.fitting import dataset_meta, match_tensors
from mmdualtoken.weights.pretrained import describe_misfit, tensors_of


def registry(cfg: Config, name: str) -> Registry:
    """A registry of the config's toolbox, such as 'MODELS', with its scope made the default.

    Raises:
        InputError: the config is of no toolbox that we know, or that is not installed.
    """
    scope = scope_of(cfg)
    init_default_scope(scope)
    try:
        return getattr(import_module(f"{scope}.registry"), name)
    except ImportError as error:
        raise MissingPackage(
            f"The config needs {scope}, which is not installed ({error}). "
            "`python -m mmdualtoken.doctor` lists the installed versions and the remedy."
        ) from error


def test_dataset(cfg: Config) -> ConfigDict:
    """Return the config of the data set for testing.

    Raises:
        InputError: the config has no test_dataloader.
    """
    loader = cfg.get("test_dataloader") or cfg.get("val_dataloader")
    if not loader:
        raise InputError(
            "The config has neither test_dataloader nor val_dataloader, whose pipeline says how "
            "an image is prepared for the model."
        )
    return next(innermost_datasets(loader["dataset"]))


def split_pipeline(cfg: Config) -> tuple[ConfigDict, Compose]:
    """Split the test pipeline into its loading step and the rest, built.

    Steps that load annotations are left out: there are none.

    Raises:
        InputError: the test pipeline does not begin with LoadImageFromFile.
    """
    steps = list(test_dataset(cfg).get("pipeline") or ())
    if not steps or not type_name(steps[0]).endswith("LoadImageFromFile"):
        found = type_name(steps[0]) if steps else "nothing"
        raise InputError(
            f"The config's test pipeline begins with {found}; it must be LoadImageFromFile, in "
            "whose place the given images are read."
        )
    transforms = registry(cfg, "TRANSFORMS")
    rest = [step for step in steps[1:] if "Annotations" not in type_name(step)]
    return steps[0], Compose([transforms.build(step) for step in rest])


def _dataset_meta(cfg: Config, checkpoint: Any, num_classes: int) -> dict:
    """Collect names and colours of the classes from the checkpoint, else config, else numbers."""
    found = dataset_meta(checkpoint)
    dataset = test_dataset(cfg)
    kind = registry(cfg, "DATASETS").get(dataset.type) if dataset.get("type") else None
    for fallback in (dataset.get("metainfo") or {}, getattr(kind, "METAINFO", None) or {}):
        for key in ("classes", "palette"):
            if not found.get(key) and not isinstance(fallback.get(key), str):
                found[key] = fallback.get(key)
    return complete_meta(found, num_classes)


def complete_meta(meta: dict, num_classes: int = 0) -> dict:
    """Complete `classes` and `palette` of a data set by numbers and random colours.

    At least `num_classes` are needed; `meta` may have neither.
    """
    classes = meta.get("classes") or ()
    classes = [classes] if isinstance(classes, str) else list(classes)
    classes += [f"class {i}" for i in range(len(classes), num_classes)]
    colours = np.random.RandomState(42).randint(40, 220, (len(classes), 3)).tolist()
    palette = meta.get("palette")
    palette = [] if palette is None or isinstance(palette, str) else list(palette)
    palette = [tuple(c) for c in palette + colours[len(palette) :]]  # mmdet's: tuples only
    return dict(classes=tuple(classes), palette=palette)


def load_model(cfg: Config, checkpoint: str, device: str | torch.device = "cpu") -> nn.Module:
    """Build a config's model, load all of a checkpoint into it, and set it to eval mode.

    Args:
        cfg: a complete config of mmdet, mmseg or mmpretrain.
        checkpoint: a local file or a URL, read by `load_any`: nothing in it is run.
        device: where the model goes.

    Returns:
        the model, with `cfg` and `dataset_meta` (`classes`, `palette`) as attributes: of the
        checkpoint where it says, else of the config.

    Raises:
        InputError: the checkpoint is missing, broken, unsafe, or of another model than the
            config's.
    """
    model_cfg = ConfigDict(cfg.model)
    if cfg.get("data_preprocessor") and "data_preprocessor" not in model_cfg:
        model_cfg["data_preprocessor"] = cfg.data_preprocessor  # as MMEngine's runner does
    model = revert_sync_batchnorm(registry(cfg, "MODELS").build(model_cfg))
    content = load_any(checkpoint)
    state, missing, unknown, other = match_tensors(model, tensors_of(content, checkpoint))
    if missing or unknown or other:
        misfit = describe_misfit(model.state_dict(), state, missing, unknown, other)
        raise InputError(
            f"Checkpoint {checkpoint} is of another model than the config's. {misfit}. Use the "
            "config that it was trained with; training leaves a copy of it in the work dir."
        )
    model.load_state_dict(state, strict=False)  # old files lack the BatchNorms' counters
    num_classes = max(int(getattr(m, "num_classes", 0) or 0) for m in model.modules())
    model.cfg = cfg
    model.dataset_meta = _dataset_meta(cfg, content, num_classes)
    try:
        model.to(device)
        model.eval()  # mmdet's distilled detectors return nothing here
        return model
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"Device {device} cannot be used ({str(error).splitlines()[0]}). Use cpu, or "
            "cuda:0 and so on where PyTorch sees a GPU."
        ) from error

"""Errors caused by user input, and how errors and warnings reach the user."""

import logging
import re
import sys
import traceback
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from mmengine.logging import print_log

LOADING = (
    "`python tools/check_data.py CONFIG` names all such files. Replace them; in training, "
    "CheckedLoadImageFromFile can skip them (docs/data.md). Then continue a training with --resume."
)
#: By a pattern of functions that were called and the error's text: what it asks of the user.
KNOWN = {
    r"([\w, ]* should be either all None or not None)": "The config is incomplete: set the one "
    "that is missing.",
    r"(`self._\w+` should not be None when calling \w+ method.*)": "The config is incomplete.",
    r"collate.*(stack expects each tensor to be equal size.*)": "The images of a batch differ in "
    "size. Let the pipeline bring all to one size, by Resize with keep_ratio=False or a crop, or "
    "set batch_size=1.",
    r"(Expected more than 1 value per channel.*)": "A BatchNorm got a batch of one image and a map "
    "of one pixel, of which there is no variance. Set train_dataloader.batch_size to 2 or more, "
    "and drop_last=True for a last batch of one image.",
    r"(TTA of instance segmentation does not support now)": "--tta: mmdet has no rule for merging "
    "masks of augmented images. Test without --tta.",
    r"(only one of size and size_divisor should be valid)": "Set size of the model's "
    "data_preprocessor, to the size of the crops, to make batches of images of several sizes.",
    r"(The image size in a batch should be the same)": "mmseg evaluates images of several sizes "
    "one at a time: set val_dataloader.batch_size=1, and that of test_dataloader.",
    r"(\w+\.__init__\(\) got an unexpected keyword argument '\w+')": "A part of the model or of "
    "the training has no such argument. It is misspelt, or left by the base config, whose part has "
    "another type: put _delete_=True into the dict that replaces it.",
    r"build_norm_layer (Cannot find .* in registry.*)": "A norm_cfg names a type that mmcv does "
    "not know; it has BN, SyncBN, GN, LN and others.",
    r"(expected input\[.*\] to have \d+ channels, but got \d+ channels instead"
    r"|mat1 and mat2 shapes cannot be multiplied.*)": "Two parts of the model differ in their "
    "channels. Let in_channels of neck and heads fit the maps: DualTokenViT has [48, 96, 192] "
    "(tiny) or [64, 128, 256] (small), at out_indices; an image has backbone.in_channels. A class "
    "of your own within the backbone gets maps with the channels last, (B, H, W, C).",
    r"_transform_inputs\b.*(tuple index out of range)": "A decode head reads more maps than the "
    "backbone has: DualTokenViT has three, so that in_index is at most 2, DualTokenViTStride4 has "
    "one more.",
    r"(unable to \w+ shared memory(?!.*Too many open files).*)": "Workers hand over batches in "
    "shared memory, and /dev/shm has too little. Give a container more by docker run "
    "--shm-size=8g, or set num_workers=0 of each dataloader.",
    r".*(failed to load image: .*)": f"An image is cut off or damaged. {LOADING}",
    # Read by a toolbox's loader, in this process or in a worker, whose traceback is the text.
    r"(?:\btransform (?:_load_\w+ )?get\b|loading\.py\", line \d+, in \w+ .* in get\b)"
    r".*No such file or directory: (.*)": f"A file of the data is gone. {LOADING}",
}


class InputError(Exception):
    """A config, data set, checkpoint or argument cannot be used.

    Its message is one paragraph: what was received, what is expected, what to do. The tools print
    it without a traceback and exit with status 2.
    """


class MissingPackage(InputError):
    """A package is not installed; the message names it and how to install it."""


class WrongValue(InputError, ValueError):
    """An argument of a model, or what it is given, has a value that is not allowed."""


def reason_of(error: BaseException) -> str:
    """What went wrong at first, in one line: libraries wrap it in advice to their developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {line}"


def explain(error: BaseException | None) -> str | None:
    """Say in one paragraph what an error of the toolboxes asks of the user; None if nothing.

    Known are packages that are not installed, types that no registry has, data sets that are
    empty, batches that cannot be made, and results of an evaluation that are missing. The toolboxes
    raise them as errors of many kinds, deep inside.
    """
    if error is None:
        return None
    calls = [
        (frame.f_code.co_name, frame.f_locals)
        for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    own = error.args and not isinstance(error, OSError)  # whose first argument may be a number
    text = " ".join(str(error.args[0] if own else error).split())
    if isinstance(error, KeyError) and re.search("is not in the .* registry", text):
        return (
            f"The config names {text.partition('. ')[0].replace(' is not', ', which is not', 1)}. "
            "Is it misspelt? A class of yours is registered by custom_imports in the config."
        )
    trail = f"{' '.join(name for name, _ in calls)} {text}"
    for pattern, remark in KNOWN.items():
        if found := re.search(pattern, trail):
            return f"{remark} ({found[1]})"
    if isinstance(error, KeyError) and (wanted := _missing_result(calls)):
        return wanted
    if isinstance(error, RuntimeError) and text.startswith("Found 0 files"):  # mmpretrain
        return f"{text}. Move the images there, or set the data set's data_prefix or extensions."
    if isinstance(error, (ImportError, RuntimeError)):
        return _missing_package(
            error, text, [found["self"] for _, found in calls if "self" in found]
        )
    data = [found.get("self") for name, found in calls if name == "_serialize_data"]
    return _nothing_left(data[-1]) if data and isinstance(error, ValueError) else None


def _missing_package(error: Exception, text: str, objects: list) -> str | None:
    absent = re.search(r"([\w.-]+)[`'\"]? is not installed", text)
    module = error.name if isinstance(error, ModuleNotFoundError) else None
    if not (absent or "pip install" in text or module) or (module or "").startswith("mmdualtoken"):
        return None
    command = f" (pip install {absent[1]})" if absent and "pip install" not in text else ""
    if absent and absent[1] == "mmsegmentation" and find_spec("mmseg"):
        return (
            "The config inherits one by `mmseg::`, which MMEngine takes from the official mmseg "
            "alone; this environment has the fork, so do not install the other. Write _base_ = "
            "__import__('mmseg').__path__[0] + '/.mim/configs/...' instead."
        )
    if not objects:
        return f"The config needs a package that is not installed: {text}{command}."
    owner = type(objects[-1]).__name__
    return (
        f"The config names {owner}, which needs a package that is not installed: {text}{command}. "
        f"Install the package, or take {owner} out of the config."
    )


def _missing_result(calls: list[tuple[str, dict]]) -> str | None:
    """Say that the evaluation lacks the value by which a hook or schedule goes."""
    name, found = calls[-1] if calls else ("", {})
    if name == "_save_best_checkpoint":
        wanted = f"save_best={found.get('key_indicator')!r} of default_hooks.checkpoint"
    elif name == "step" and hasattr(found.get("self"), "monitor"):
        wanted = f"monitor={found['self'].monitor!r} of param_scheduler"
    else:
        return None
    return (
        f"{wanted} is not among the results of val_evaluator: {', '.join(found['metrics'])}. Name "
        "one of these, and continue with --resume."
    )


def _nothing_left(dataset: Any) -> str:
    """Say which settings can have left every image of a data set of the toolboxes out."""
    settings = dict(
        filter_cfg=None if dataset.test_mode else dataset.filter_cfg,
        indices=dataset._indices,
        img_suffix=getattr(dataset, "img_suffix", None),
    )
    named = ", ".join(f"{k}={v!r}" for k, v in settings.items() if v is not None)
    if settings["filter_cfg"]:
        named += " (min_size: an image's least side; filter_empty_gt: only those with objects)"
    where = dataset.ann_file or next(iter(dataset.data_prefix.values()), "")
    return (
        f"The data set {type(dataset).__name__} {where} has no image left: "
        f"{named or 'nothing that is listed there'}. Change these settings of the data set, or "
        "correct the data; `python tools/check_data.py CONFIG` reads all of it."
    )


def log_warning(text: str) -> None:
    """Log a warning by the run's logger, or by MMEngine's where there is no run."""
    print_log(text, logger="current", level=logging.WARNING)


def print_stderr(text: str) -> None:
    """Print on stderr, which may be closed: the terminal's, or a `| tee` that Ctrl-C ended too."""
    with suppress(OSError, ValueError, AttributeError):
        print(text, file=sys.stderr, flush=True)

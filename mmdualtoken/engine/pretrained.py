"""Starting a detector or segmentor from a classification checkpoint."""

import re

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import MODELS

from .checkpoint import load_file
from .errors import InputError

PREFIX = "backbone."
# Norms of maps that a classifier does not give out start anew.
OPTIONAL = re.compile(r"norm\d\.")
# Resized on loading where the token grid differs.
RESIZED = re.compile(r"global_tokens$|\.token_mix\.")


def check_fit(backbone: ConfigDict, filename: str) -> None:
    """Check that a checkpoint holds the weights of the config's backbone.

    Args:
        backbone: config of the DualTokenViT.
        filename: the checkpoint.

    Raises:
        InputError: it holds none, or those of another arch or variant; the message lists some.
    """
    content = load_file(filename, "cpu")
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    have = {k[len(PREFIX) :]: v for k, v in state.items() if str(k).startswith(PREFIX)}
    if not have:
        raise InputError(
            f"--pretrained {filename}: no tensor is named '{PREFIX}...'; found {list(state)[:3]}. "
            "A checkpoint written by training a classifier with this backbone is needed."
        )
    want = MODELS.build({**backbone, "init_cfg": None}).state_dict()
    needed = [k for k in want if not OPTIONAL.match(k)]
    wrong = [
        k
        for k in needed
        if k not in have or (have[k].shape != want[k].shape and not RESIZED.search(k))
    ]
    extra = [k for k in have if k not in want and not OPTIONAL.match(k)]
    if wrong or extra:
        raise InputError(
            f"--pretrained {filename}: it does not fit the config's backbone. {len(wrong)} of "
            f"{len(needed)} tensors are missing or of another shape {wrong[:3]}, {len(extra)} are "
            f"not known {extra[:3]}. Use the same arch, token_mlp, token_module, local_encoder and "
            "downsample as the classifier."
        )
    found = sum(k in have for k in want)
    print_log(f"{found} of {len(want)} backbone tensors come from {filename}", logger="current")


def start_from_checkpoint(cfg: Config, filename: str) -> None:
    """Make the backbone of `cfg` start from the classification checkpoint `filename`.

    As in the paper's detectors: the weights named 'backbone.*' are loaded, the outputs are
    normalised by LayerNorm, and the stem's BatchNorm stays in eval mode.

    Args:
        cfg: config with `model.backbone` of type DualTokenViT; changed in place.
        filename: checkpoint written by training one of the classification configs.

    Raises:
        InputError: the file is missing or does not fit, or the config has another backbone.
    """
    backbone = cfg.model.get("backbone", {})
    kind = backbone.get("type")
    if getattr(kind, "__name__", str(kind)).split(".")[-1] != "DualTokenViT":
        raise InputError(
            f"--pretrained {filename}: the config's model.backbone is of type {kind!r}; only "
            "DualTokenViT can be started this way. For another backbone, set "
            "model.backbone.init_cfg with --cfg-options."
        )
    backbone.update(
        init_cfg=ConfigDict(type="Pretrained", checkpoint=str(filename), prefix=PREFIX),
        out_norm_cfg=ConfigDict(type="LN", eps=1e-6),
        norm_eval=True,
    )
    check_fit(backbone, filename)

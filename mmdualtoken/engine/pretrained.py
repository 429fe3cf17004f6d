"""Starting a detector or segmentor from a classification checkpoint."""

from pathlib import Path

from mmengine.config import Config, ConfigDict

from .errors import InputError


def start_from_checkpoint(cfg: Config, filename: str) -> None:
    """Make the backbone of `cfg` start from the classification checkpoint `filename`.

    As in the paper's detectors: the weights named 'backbone.*' are loaded, the outputs are
    normalised by LayerNorm, and the stem's BatchNorm stays in eval mode.

    Args:
        cfg: config with `model.backbone` of type DualTokenViT; changed in place.
        filename: checkpoint written by training one of the classification configs.

    Raises:
        InputError: the file does not exist, or the config has another backbone.
    """
    path = Path(filename).expanduser()
    if not path.is_file():
        raise InputError(
            f"--pretrained {filename}: the file does not exist (working directory: {Path.cwd()})."
        )
    backbone = cfg.model.get("backbone", {})
    if str(backbone.get("type", "")).split(".")[-1] != "DualTokenViT":
        raise InputError(
            f"--pretrained {filename}: the config's model.backbone is of type "
            f"{backbone.get('type')!r}; only DualTokenViT can be started this way. For another "
            "backbone, set model.backbone.init_cfg with --cfg-options."
        )
    backbone.update(
        init_cfg=ConfigDict(type="Pretrained", checkpoint=str(path), prefix="backbone."),
        out_norm_cfg=ConfigDict(type="LN", eps=1e-6),
        norm_eval=True,
    )

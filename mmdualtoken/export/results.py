"""A model from images to what its toolbox's `predict` returns, for a graph."""

import json
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from mmcv.image.io import imread_flags
from mmengine.config import Config
from torch import Tensor, nn

from mmdualtoken.config_files import TASKS, type_name
from mmdualtoken.errors import InputError
from mmdualtoken.export.detection import check_detector, check_methods, detect
from mmdualtoken.export.measure import input_channels
from mmdualtoken.inference.model import test_dataset


@dataclass(frozen=True)
class Preprocessing:
    """What a config's data_preprocessor does to an image in testing.

    Attributes:
        mean: by channel, in the network's order; empty for none, as `std`.
        swap: turn BGR into RGB before, or RGB into BGR.
        divisor: sides are padded to multiples of it, right and below, with `pad_value`.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    swap: bool = False
    divisor: int = 1
    pad_value: float = 0.0

    @classmethod
    def of(cls, cfg: Config) -> "Preprocessing":
        """Of a config of any of the three toolboxes."""
        prep = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
        in_testing = prep.get("test_cfg") or {}  # mmseg's, whose own size is for training
        divisor = in_testing.get("size_divisor") or prep.get("pad_size_divisor") or 1
        value = prep.get("pad_value", prep.get("pad_val", 0.0))
        swap = any(prep.get(key) for key in ("bgr_to_rgb", "rgb_to_bgr", "to_rgb"))
        mean, std = (tuple(prep.get(key) or ()) for key in ("mean", "std"))
        return cls(mean, std, swap, divisor, value)


#: How OpenCV names what a config's `interpolation` says.
INTERPOLATIONS = dict(nearest=0, bilinear=1, bicubic=2, area=3, lanczos=4)


def pipeline_steps(cfg: Config) -> list[dict]:
    """What the config's test pipeline does between reading and packing, for the runner.

    Raises:
        InputError: a step is not among those that the runner knows.
    """
    found = []
    for step in list(test_dataset(cfg).get("pipeline") or ())[1:]:
        kind = type_name(step)
        if kind.startswith(("LoadAnnotations", "Pack")):
            continue
        size = step.get("scale") or step.get("crop_size") or step.get("size")
        pair = [size, size] if isinstance(size, int) else size and list(size)
        backend, how = step.get("backend", "cv2"), step.get("interpolation", "bilinear")
        common = dict(how=INTERPOLATIONS.get(how), edge="", keep_ratio=False)
        value = step.get("pad_val", 0)
        value = value.get("img", 0) if isinstance(value, dict) else value
        if kind in ("Resize", "ResizeEdge") and size and backend == "cv2" and how in INTERPOLATIONS:
            if kind == "ResizeEdge":
                common.update(edge=step.get("edge", "short"))
            common.update(keep_ratio=bool(step.get("keep_ratio")))
            found.append(dict(type="Resize", size=size if common["edge"] else pair, **common))
        elif kind == "CenterCrop" and not step.get("auto_pad"):
            found.append(dict(type=kind, size=pair))
        elif kind == "RandomJPEG" and len(set(step["quality"])) == 1:
            found.append(dict(type="JPEG", size=None, quality=step["quality"][0]))
        elif kind == "Pad" and step.get("padding_mode", "constant") == "constant":
            value = list(value) if isinstance(value, (list, tuple)) else [value] * 4
            square, divisor = bool(step.get("pad_to_square")), step.get("size_divisor") or 1
            found.append(dict(type=kind, size=pair, square=square, divisor=divisor, value=value))
        else:
            raise InputError(
                f"The runner cannot do the step {dict(step)} of the test pipeline; it resizes by "
                "OpenCV, crops the centre, pads with a constant and compresses by one quality. "
                "Export without --with-runner; or for backend='pillow', set that step's "
                "backend='cv2', here and for a test of what it changes."
            )
    return found


class Results(nn.Module):
    """A model of a toolbox from images (B, C, H, W) of any size to results.

    Args:
        pixels: take pixels as the config reads them (uint8, or float32 of images with more than 8
            bits; OpenCV's order of channels) and normalise them here; else normalised images.
            Padding to `pad_size_divisor`, or to 32 where the network needs it, is done here in any
            case.

    Attributes:
        channels: C.
        dtype: of the images.
        note: what the outputs are.

    Raises:
        InputError: the toolbox ends this model's prediction in a way that is not known here.
    """

    def __init__(self, model: nn.Module, cfg: Config, pixels: bool = False):
        super().__init__()
        self.model, self.pixels = model, pixels
        self.channels = input_channels(model)
        self.preprocessing = Preprocessing.of(cfg)
        self.load = next(iter(test_dataset(cfg).get("pipeline") or ()), {})
        deep = self.load.get("to_float32") or self.load.get("color_type") == "unchanged"
        self.dtype = torch.uint8 if pixels and not deep else torch.float32
        getattr(self, f"_set_{cfg.default_scope}")()
        if self.preprocessing.divisor == 1 and not self._takes_any_size():
            self._pad_to(32)

    def _takes_any_size(self) -> bool:
        """Whether backbone and neck take sides that are no multiples of 32."""
        try:
            with torch.no_grad():
                self.model.eval().extract_feat(torch.zeros(1, self.channels, 72, 104))
        except RuntimeError:
            return False
        return True

    def _pad_to(self, divisor: int) -> None:
        """Pad here and in the toolbox's prediction, as RTMDet's configs do in their pipeline."""
        self.preprocessing = replace(self.preprocessing, divisor=divisor)
        preprocessor = self.model.data_preprocessor
        if hasattr(preprocessor, "test_cfg"):  # mmseg's
            preprocessor.test_cfg = dict(size_divisor=divisor)
        else:
            preprocessor.pad_size_divisor = divisor

    def names(self) -> list[str]:
        """The outputs' names."""
        return list(self._names)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, C, H, W) to the outputs in the order of `names`."""
        return self.run(images)

    def prepare(self, images: Tensor) -> Tensor:
        """Normalise, if the images are pixels, and pad."""
        prep = self.preprocessing
        if self.pixels:
            images = images.float()
            if prep.swap and self.channels == 3:
                images = images.flip(1)
            if prep.mean:
                mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (prep.mean, prep.std))
                images = (images - mean) / std
        if prep.divisor == 1:
            return images
        below, right = (-side % prep.divisor for side in images.shape[2:])
        return F.pad(images, (0, right, 0, below), value=prep.pad_value)

    def describe(self, cfg: Config) -> dict[str, str]:
        """What the runner must know, besides normalisation and classes."""
        found = dict(
            task=TASKS[cfg.default_scope],
            imread_flag=str(imread_flags[self.load.get("color_type", "color")]),
            read_as="float32" if self.load.get("to_float32") else "",
            dtype=str(self.dtype).removeprefix("torch."),
        )
        if "masks" in self._names:
            found["mask_threshold"] = str(self.model.roi_head.test_cfg.mask_thr_binary)
        with suppress(InputError):  # of steps that the runner does not know
            found["pipeline"] = json.dumps(pipeline_steps(cfg))
        return found

    def _set_mmpretrain(self) -> None:
        from mmpretrain.models.heads import ClsHead, MultiLabelClsHead

        head = getattr(self.model, "head", None)
        base = MultiLabelClsHead if isinstance(head, MultiLabelClsHead) else ClsHead
        check_methods("head", head, dict(predict=[base]))
        self.many = base is MultiLabelClsHead
        self.run, self._names = self._classify, ("scores",)
        self.note = "scores (batch, classes) after " + ("sigmoid" if self.many else "softmax")

    def _classify(self, images: Tensor) -> tuple[Tensor]:
        logits = self.model(self.prepare(images), mode="tensor")
        return (logits.sigmoid() if self.many else logits.softmax(1),)

    def _set_mmseg(self) -> None:
        from mmseg.models import EncoderDecoder
        from mmseg.models.decode_heads.decode_head import BaseDecodeHead

        head = self.model.decode_head
        head = head[-1] if isinstance(head, nn.ModuleList) else head
        check_methods("model", self.model, dict(predict=[EncoderDecoder]))
        check_methods(
            "decode_head", head, dict.fromkeys(("predict", "predict_by_feat"), [BaseDecodeHead])
        )
        if self.model.test_cfg.get("mode", "whole") != "whole":
            raise InputError(
                "The config tests by sliding a window over the image, which no graph does for all "
                "sizes. Export it for whole images: --cfg-options model.test_cfg.mode=whole"
            )
        self.run, self._names = self._segment, ("label_map",)
        self.binary = self.model.out_channels == 1
        self.threshold = head.threshold
        how = f"sigmoid > {head.threshold:g}" if self.binary else "argmax"
        self.note = f"label_map (batch, height, width), labels of the pixels by {how}"

    def _segment(self, images: Tensor) -> tuple[Tensor]:
        height, width = images.shape[2:]
        padded = self.prepare(images)
        logits = self.model(padded, mode="tensor")
        logits = F.interpolate(
            logits, padded.shape[2:], mode="bilinear", align_corners=self.model.align_corners
        )[..., :height, :width]
        few = self.binary or self.model.out_channels <= 256
        labels = logits[:, 0].sigmoid() > self.threshold if self.binary else logits.argmax(1)
        return (labels.to(torch.uint8 if few else torch.int64),)

    def _set_mmdet(self) -> None:
        check_detector(self.model)
        self.run, self._names = self._detect, ("dets", "labels")
        self.note = (
            "dets (batch, objects, 5) of x1, y1, x2, y2 in pixels of the input and a score, labels "
            "(batch, objects), -1 and zeros where an image has fewer objects than another"
        )
        if getattr(self.model, "roi_head", None) is not None and self.model.roi_head.with_mask:
            self._names += ("masks",)
            self.note += ", masks (batch, objects, h, w) of probabilities within each box"

    def _detect(self, images: Tensor) -> tuple[Tensor, ...]:
        found = detect(self.model, self.prepare(images), images.shape[2:])
        boxes, scores, labels, *masks = found
        return torch.cat([boxes, scores[..., None]], -1), labels, *masks

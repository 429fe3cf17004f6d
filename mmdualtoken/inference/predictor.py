"""Predictions on images: by the model, as a picture, and as a record for JSON."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.structures import BaseDataElement
from torch import nn

from mmdualtoken.config_files import TASKS, type_name
from mmdualtoken.data.loading import decode, read_file
from mmdualtoken.errors import InputError
from mmdualtoken.inference.canvas import Canvas, as_rgb
from mmdualtoken.inference.model import split_pipeline


class Preparer:
    """Read images, and prepare them as in testing."""

    def __init__(self, cfg: Config):
        self.load, self.pipeline = split_pipeline(cfg)

    def read(self, path: str) -> np.ndarray:
        """Read an image as the config's pipeline does: (H, W, 3) BGR, or (H, W).

        Raises:
            BrokenFileError: it is missing or broken; the message names it and the reason.
        """
        return self.decode(path, read_file(path, self.load.get("backend_args")))

    def decode(self, name: str, content: bytes) -> np.ndarray:
        """Decode the content of an image file as `read` does; the name is for its errors."""
        flag = self.load.get("color_type", "color")
        return decode(name, content, flag, self.load.get("imdecode_backend") or "cv2")

    def frame(self, image: np.ndarray) -> np.ndarray:
        """Turn a video's frame, (H, W, 3) BGR, into an image as `read` returns it."""
        grey = self.load.get("color_type", "color").startswith("grayscale")
        return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if grey else image

    def prepare(self, image: np.ndarray, path: str = "") -> dict[str, Any]:
        """Run the config's test pipeline on an image, (H, W, 3) BGR."""
        if self.load.get("to_float32"):
            image = image.astype(np.float32)
        size = image.shape[:2]
        data = dict(img=image, img_path=path, img_id=0, img_shape=size, ori_shape=size)
        return self.pipeline(data)


class Predictor(Preparer):
    """Predict, draw and describe, for detectors, segmentors and classifiers.

    Args:
        model: as `load_model` gives it; no retriever, whose results are images.
        score_thr: detection: objects with a score up to it are left out of picture and record.
        topk: classification: number of classes in picture and record.
    """

    def __init__(self, model: nn.Module, score_thr: float = 0.3, topk: int = 5):
        super().__init__(model.cfg)
        self.model = model
        self.task = TASKS[model.cfg.default_scope]
        if type_name(model.cfg.model) == "ImageToImageRetriever":
            raise InputError(
                "The config's model is a retriever: it finds images and names no classes. Use "
                "mmpretrain's ImageRetrievalInferencer."
            )
        self.score_thr = score_thr
        self.classes = model.dataset_meta["classes"]
        self.topk = min(topk, len(self.classes))
        self.canvas = Canvas(model.cfg, model.dataset_meta)

    @torch.no_grad()
    def predict(self, prepared: Sequence[dict[str, Any]]) -> list[BaseDataElement]:
        """Predict on prepared images; returns the toolbox's data samples, on the CPU.

        Neighbours of one size go through the model together. Those of different sizes do not, so
        that no image is padded for another's sake, which would change its result.
        """
        samples: list[BaseDataElement] = []
        for _, group in groupby(prepared, key=lambda data: data["inputs"].shape):
            samples += self.model.test_step(pseudo_collate(list(group)))
        samples = [sample.cpu() for sample in samples]
        if self.task == "detection":
            for sample in samples:
                found = sample.pred_instances
                sample.pred_instances = found[found.scores > self.score_thr]
        return samples

    def draw(self, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        """Draw the prediction into an image, (H, W, 3) BGR or (H, W): (H', W', 3) RGB uint8."""
        if self.task == "classification":
            sample = sample.clone().set_pred_label(sample.pred_score.topk(self.topk).indices)
        return self.canvas.draw(as_rgb(image), sample, thr=self.score_thr)

    def record(self, sample: BaseDataElement) -> dict[str, Any]:
        """Return the prediction as plain numbers and strings; docs/tools.md describes them."""
        return getattr(self, f"_record_{self.task}")(sample)

    def _record_detection(self, sample: BaseDataElement) -> dict[str, Any]:
        found = sample.pred_instances
        labels = found.labels.tolist()
        record = dict(
            labels=labels,
            label_names=[self.classes[i] for i in labels],
            scores=[round(s, 6) for s in found.scores.tolist()],
            bboxes=[[round(v, 3) for v in box] for box in found.bboxes.tolist()],
        )
        if "masks" in found:
            from mmdet.structures.mask import encode_mask_results

            masks = encode_mask_results(found.masks.numpy()) if len(labels) else []
            record["masks"] = [{**m, "counts": m["counts"].decode()} for m in masks]
        return record

    def _record_segmentation(self, sample: BaseDataElement) -> dict[str, Any]:
        counts = np.bincount(self.label_map(sample).ravel())
        share = counts / counts.sum()
        order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
        return dict(
            classes=[
                dict(label=i, name=self.classes[i], share=round(float(share[i]), 6)) for i in order
            ]
        )

    def label_map(self, sample: BaseDataElement) -> np.ndarray:
        """Return the label of each pixel, (H, W), uint8, or uint16 above 256 classes."""
        labels = sample.pred_sem_seg.data[0].numpy()
        return labels.astype(np.uint8 if len(self.classes) <= 256 else np.uint16)

    def _record_classification(self, sample: BaseDataElement) -> dict[str, Any]:
        scores, labels = sample.pred_score.topk(self.topk)
        top = [
            dict(label=i, name=self.classes[i], score=round(s, 6))
            for i, s in zip(labels.tolist(), scores.tolist(), strict=True)
        ]
        label, name, score = top[0].values()
        return dict(pred_label=label, pred_class=name, pred_score=score, top=top)

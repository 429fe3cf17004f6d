"""An exported file in a toolbox's place: its data samples in, its data samples out."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor

from mmdualtoken.config_files import TASKS
from mmdualtoken.errors import InputError
from mmdualtoken.export.runner import Model


@MODELS.register_module()
class DeployedModel(BaseModel):
    """What a file of tools/export.py finds, as the toolbox's own model returns it.

    Args:
        file: NAME.onnx, or NAME.xml of OpenVINO.
        runtime: 'onnxruntime' or 'openvino'; by default OpenVINO runs .xml, ONNX Runtime .onnx.
        threads: of the runtime; torch's number by default.
        margin: above 0, mark in `pred_instances.near` the pixels of masks whose probability is so
            close to the threshold.

    Raises:
        InputError: the file cannot be read, or holds no results.
    """

    def __init__(
        self,
        file: str | Path,
        runtime: str | None = None,
        threads: int = 0,
        margin: float = 0.0,
    ):
        super().__init__()
        self.margin = margin
        try:
            self.file = Model(file, runtime, threads or torch.get_num_threads())
        except ValueError as error:
            raise InputError(f"{error}. Write one with tools/export.py.") from error

    def forward(
        self,
        inputs: Sequence[Tensor],
        data_samples: Sequence[BaseDataElement] | None = None,
        mode: str = "predict",
    ) -> list[BaseDataElement]:
        """Images (C, H, W) as a pipeline packs them, to data samples with predictions.

        Neighbours of one size go through the file together.
        """
        if data_samples is None or data_samples[0] is None:
            from mmpretrain.structures import DataSample

            data_samples = [DataSample() for _ in inputs]
        images, found = [], []
        for image, sample in zip(inputs, data_samples, strict=True):
            # Without the padding that its neighbours in the batch made necessary.
            height, width = sample.metainfo.get("img_shape", image.shape[1:])[:2]
            image = image[:, :height, :width].cpu().permute(1, 2, 0)
            images.append(np.ascontiguousarray(image.numpy()))
        for _, group in groupby(images, key=lambda image: image.shape):
            found += self.file.infer(list(group))
        for sample, outputs in zip(data_samples, found, strict=True):
            getattr(self, f"_set_{self.file.task}")(sample, *outputs)
        return list(data_samples)

    def _set_detection(self, sample: BaseDataElement, dets: np.ndarray, *rest: np.ndarray) -> None:
        ratio = np.tile(np.asarray(sample.metainfo["scale_factor"], np.float32), 2)[:4]
        given = ((dets, *rest), ratio, sample.metainfo["ori_shape"][:2])
        boxes, scores, labels, masks = self.file.objects(*given)
        found = InstanceData(
            bboxes=torch.from_numpy(boxes),
            scores=torch.from_numpy(scores),
            labels=torch.from_numpy(labels),
        )
        if masks is not None:
            found.masks = torch.from_numpy(masks)
        if masks is not None and self.margin:
            threshold = float(self.file.meta["mask_threshold"])
            within = []
            for moved in (threshold - self.margin, threshold + self.margin, threshold):
                self.file.meta["mask_threshold"] = moved
                within.append(self.file.objects(*given)[3])
            found.near = torch.from_numpy(within[0] & ~within[1])
        sample.pred_instances = found

    def _set_segmentation(self, sample: BaseDataElement, label_map: np.ndarray) -> None:
        size = tuple(sample.metainfo["ori_shape"][1::-1])
        labels = cv2.resize(label_map, size, interpolation=cv2.INTER_NEAREST)
        sample.pred_sem_seg = PixelData(data=torch.from_numpy(labels.astype(np.int64))[None])

    def _set_classification(self, sample: BaseDataElement, scores: np.ndarray) -> None:
        sample.set_pred_score(torch.from_numpy(scores.copy()))
        sample.set_pred_label(torch.tensor([int(scores.argmax())]))


def load_deployed(cfg: Config, file: str | Path, runtime: str | None = None) -> DeployedModel:
    """Load an exported file for a config, as `DeployedModel` does.

    Raises:
        InputError: it cannot be read, or is of another task than the config.
    """
    model = DeployedModel(file, runtime)
    if model.file.task != TASKS.get(cfg.get("default_scope")):
        raise InputError(
            f"{file} is for {model.file.task}; the config is of {cfg.get('default_scope')}."
        )
    return model

"""Drawing of predictions and labels by the visualizers of the three toolboxes."""

import warnings

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.structures import BaseDataElement

from mmdualtoken.config_files import TASKS
from mmdualtoken.inference.model import registry

VISUALIZERS = {
    "mmdet": ("DetLocalVisualizer", {}),
    "mmseg": ("SegLocalVisualizer", dict(alpha=0.5)),
    "mmpretrain": ("UniversalVisualizer", {}),
}
LEGIBLE = 224  # px; class names on a smaller image are drawn on an enlarged one


def as_rgb(image: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) BGR, or (H, W), as (H, W, 3) RGB."""
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)


class Canvas:
    """The visualizer of a config, whose pictures come back as arrays instead of being saved.

    `dataset_meta` has `classes` and `palette`, one entry for each class.
    """

    def __init__(self, cfg: Config, dataset_meta: dict):
        self.task = TASKS.get(cfg.get("default_scope"))
        visualizers = registry(cfg, "VISUALIZERS")
        default, settings = VISUALIZERS[cfg.default_scope]
        kind = (cfg.get("visualizer") or {}).get("type", default)
        kind = kind if isinstance(kind, type) else visualizers.get(kind)
        # By its class: the registry would give the one that a training may have left behind.
        self.visualizer = kind(name="canvas", **settings)
        self.visualizer.dataset_meta = dataset_meta
        # As handed to the backends: get_image() would draw it once more, which blurs it.
        self.visualizer.add_image = self._keep

    def _keep(self, name: str, image: np.ndarray, step: int = 0) -> None:
        self._drawn = image

    def draw(
        self, image: np.ndarray, sample: BaseDataElement, labels: bool = False, thr: float = 0.0
    ) -> np.ndarray:
        """Draw a prediction, or labels, into an image: (H, W, 3) -> (H', W', 3), RGB uint8.

        Pictures have the size of the image, but for small ones of a classifier.

        Args:
            sample: the toolbox's data sample, on the CPU.
            labels: draw the ground truth instead of the prediction.
            thr: detection: draw predicted objects with a score above it.
        """
        drawn = dict(draw_gt=labels, draw_pred=not labels)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Warning: The .* is out of bounds")  # of each image
            if self.task == "classification":
                resize = LEGIBLE if min(image.shape[:2]) < LEGIBLE else None
                classes = self.visualizer.dataset_meta["classes"]
                self.visualizer.visualize_cls(image, sample, classes, resize=resize, **drawn)
            elif self.task == "detection":
                self.visualizer.add_datasample("", image, sample, pred_score_thr=thr, **drawn)
            else:
                self.visualizer.add_datasample("", image, sample, **drawn)
        return self._drawn

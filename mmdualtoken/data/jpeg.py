"""Random compression: no model should know a data set by the traces of its JPEG files."""

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS


@TRANSFORMS.register_module(force=True)
class RandomJPEG(BaseTransform):
    """Encode and decode the image as a JPEG of random quality.

    Where classes come from several collections, a model learns to tell these by their compression
    and blur, and fails on other photos. Shrink all images to one size first.

    Args:
        quality: the lowest and highest quality, of 1 to 100.

    Raises:
        ValueError: a quality is not in this range.
    """

    def __init__(self, quality: tuple[int, int] = (30, 95)) -> None:
        low, high = quality
        if not 1 <= low <= high <= 100:
            raise ValueError(f"quality is {quality}; it must be two numbers of 1 to 100, ascending")
        self.quality = (low, high)

    def transform(self, results: dict) -> dict:
        """The sample with another ``img``, (H, W, C) uint8."""
        quality = np.random.randint(self.quality[0], self.quality[1] + 1)
        _, encoded = cv2.imencode(".jpg", results["img"], [cv2.IMWRITE_JPEG_QUALITY, quality])
        results["img"] = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(quality={self.quality})"

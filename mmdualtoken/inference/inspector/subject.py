"""A model that is looked at, and what it says about one photo."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.structures import BaseDataElement

from mmdualtoken.data.loading import decode
from mmdualtoken.errors import InputError
from mmdualtoken.inference import Predictor, load_model
from mmdualtoken.inference.inspector.placement import Placement, find_placement
from mmdualtoken.inference.inspector.upload import Photo
from mmdualtoken.inference.token_figures import picture_of
from mmdualtoken.inference.tokens import find_backbone, inspect_tokens

DRAWN = (640, 1024)  # px; the longer side of a kept prediction, at least and at most


@dataclass(frozen=True)
class View:
    """What one model makes of one photo."""

    #: (H, W, 3) RGB uint8: the photo with the prediction drawn in it.
    prediction: np.ndarray
    #: What is predicted, in a sentence.
    said: str
    #: (H, W, 3) RGB uint8: the photo as the backbone gets it.
    picture: np.ndarray
    placement: Placement
    #: (heads, H, W, n) for each (stage, block): how much each image token reads from each global
    #: token. Empty where the model has no global tokens.
    broadcast: dict[tuple[int, int], np.ndarray]


class Subject:
    """One model of the page.

    Args:
        letter: 'A' or 'B', by which the page calls it.
        cfg: a complete config of mmdet, mmseg or mmpretrain.
        checkpoint: its file, read without running code from it.
        device: where it computes.
        score_thr: detection: objects with a higher score are shown.

    Raises:
        InputError: config and checkpoint do not fit each other, or cannot be used.
    """

    def __init__(
        self, letter: str, cfg: Config, checkpoint: str, device: str = "cpu", score_thr: float = 0.3
    ):
        self.letter = letter
        self.model = load_model(cfg, checkpoint, device)
        self.predictor = Predictor(self.model, score_thr)
        self.names = (Path(cfg.filename or "config").name, Path(checkpoint).name)
        self.token_size: tuple[int, int] = (0, 0)
        self.has_grid = False
        #: Attention heads of each stage's blocks: heads[stage][block].
        self.heads: list[list[int]] = []
        #: Why no map of 7x7 tokens, or none at all, is shown; else empty.
        self.statement = ""
        try:
            backbone = find_backbone(self.model)
        except InputError as error:
            self.statement = f"{error} The prediction is shown."
            return
        self.token_size = tuple(backbone.token_size)
        self.has_grid = backbone.token_module.grid
        self.heads = [
            [block.token_module.broadcast.num_heads for block in stage.blocks]
            for stage in backbone.stages
        ]
        if not self.has_grid:
            module = backbone.token_module.__name__
            self.statement = (
                f"The {self.num_tokens} tokens of this model (token_module {module}) form no grid: "
                "they have no place in the photo, and are drawn in a row. What each place reads "
                "from them, and where each is broadcast, is shown as for others."
            )

    @property
    def num_tokens(self) -> int:
        """Global tokens, 0 if there are none."""
        return self.token_size[0] * self.token_size[1]

    @property
    def title(self) -> str:
        """Files and kind of the model, in Markdown."""
        kind = f"{self.predictor.task}, "
        if self.has_grid:
            kind += f"{self.token_size[0]}×{self.token_size[1]} position-aware tokens"
        else:
            kind += f"{self.num_tokens} tokens without a grid" if self.heads else "no global tokens"
        return f"{self.letter}: `{self.names[0]}`, `{self.names[1]}` ({kind})"

    def look(self, photo: Photo) -> View:
        """Predict on a photo and keep the attention of every block.

        Raises:
            InputError: the photo cannot be decoded by the config's decoder, or the pipeline is of
                a kind whose places cannot be told.
        """
        load = self.predictor.load
        flag, backend = load.get("color_type", "color"), load.get("imdecode_backend") or "cv2"
        image = decode(photo.name, photo.content, flag, backend)
        (sample,) = self.predictor.predict([self.predictor.prepare(image)])
        drawn = _sized(self.predictor.draw(image, sample))
        said = self._say(sample)
        placement = find_placement(self.model, *image.shape[:2])
        if not self.heads:
            return View(drawn, said, drawn, placement, {})
        maps = inspect_tokens(self.model, image)
        picture = picture_of(self.model, maps.inputs[0])
        broadcast = {(b.stage, b.block): b.broadcast[0] for b in maps.blocks}
        return View(drawn, said, picture, placement, broadcast)

    def _say(self, sample: BaseDataElement) -> str:
        record = self.predictor.record(sample)
        if self.predictor.task == "detection":
            found = list(zip(record["label_names"], record["scores"], strict=True))
            text = f"Prediction: {len(found)} objects with a score above {self.predictor.score_thr}"
        elif self.predictor.task == "segmentation":
            found = [(c["name"], c["share"]) for c in record["classes"]]
            text = "Prediction: a class for each pixel, no score threshold. Shares of the photo"
        else:
            found = [(c["name"], c["score"]) for c in record["top"]]
            text = "Prediction: the classes with the highest scores, no threshold"
        few = ", ".join(f"{name} {value:.2f}" for name, value in found[:5])
        return f"{text}{': ' + few if few else ''}{', …' if len(found) > 5 else '.'}"


def _sized(image: np.ndarray) -> np.ndarray:
    """The image, scaled where its longer side is not within DRAWN."""
    longer = max(image.shape[:2])
    side = min(max(longer, DRAWN[0]), DRAWN[1])
    size = tuple(max(1, round(s * side / longer)) for s in image.shape[1::-1])
    how = cv2.INTER_AREA if side < longer else cv2.INTER_LINEAR
    return image if side == longer else cv2.resize(image, size, interpolation=how)

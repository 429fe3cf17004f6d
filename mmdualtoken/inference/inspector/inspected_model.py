"""A model of the page: its prediction for a photo, and the attention of its blocks."""

from dataclasses import dataclass
from pathlib import Path

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from torch import nn

from mmdualtoken.errors import InputError, reason_of
from mmdualtoken.inference import Predictor, load_model
from mmdualtoken.inference.inspector.photo import Photo
from mmdualtoken.inference.token_figures import picture_of
from mmdualtoken.inference.tokens import blocks_of, find_backbone, inspect_tokens, network_input

PREDICTION_SIDE = 1024  # px of the longer side of a drawn prediction
TOLERANCE = 3.0  # of 255 levels; a larger error means that a placement does not fit


@dataclass(frozen=True)
class Placement:
    """Maps a place (u, v) of the photo to (a_x u + b_x, a_y v + b_y) of the backbone's input.

    Places are shares of width and height, from 0 at the left and top to 1.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)

    def to_input(self, place: tuple[float, float]) -> tuple[float, float] | None:
        """Return the place in the input; None if the pipeline crops it away."""
        found = tuple(a * p + b for a, p, b in zip(self.scale, place, self.shift, strict=True))
        return found if all(0 <= f < 1 for f in found) else None

    def to_photo(self, place: tuple[float, float]) -> tuple[float, float]:
        """Return the place in the photo; padding lies outside of 0 to 1."""
        return tuple((p - b) / a for a, p, b in zip(self.scale, place, self.shift, strict=True))


@dataclass(frozen=True)
class Inspection:
    """The results of one model for one photo."""

    #: (H, W, 3) RGB uint8: the photo with the prediction drawn in it.
    prediction: np.ndarray
    #: The prediction in one sentence.
    summary: str
    #: (H, W, 3) RGB uint8: the photo as the backbone gets it.
    picture: np.ndarray
    placement: Placement
    #: (heads, H, W, n) for each (stage, block): how much each image token reads from each global
    #: token. Empty if the model has no global tokens.
    broadcast: dict[tuple[int, int], np.ndarray]


class InspectedModel:
    """Load a model, and inspect photos with it.

    Args:
        letter: 'A' or 'B', its name on the page.
        checkpoint: its file, read without running code from it.
        score_thr: detection: objects with a higher score are shown.

    Raises:
        InputError: config and checkpoint do not fit, or cannot be used.
    """

    def __init__(
        self, letter: str, cfg: Config, checkpoint: str, device: str = "cpu", score_thr: float = 0.3
    ):
        self.letter = letter
        self.model = load_model(cfg, checkpoint, device)
        self.predictor = Predictor(self.model, score_thr)
        self.token_size: tuple[int, int] = (0, 0)
        self.has_grid = False
        #: Attention heads of each (stage, block).
        self.heads: dict[tuple[int, int], int] = {}
        #: The reason why the page shows no grid of tokens, or none at all; else empty.
        self.statement = ""
        try:
            backbone = find_backbone(self.model)
        except InputError as error:
            self.statement = f"{error} Only the prediction is shown."
            kind = "no global tokens"
        else:
            self.token_size = tuple(backbone.token_size)
            self.has_grid = backbone.token_module.grid
            for i, j in blocks_of(backbone):
                self.heads[i, j] = backbone.stages[i].blocks[j].token_module.broadcast.num_heads
            kind = "{}×{} position-aware tokens".format(*self.token_size)
            if not self.has_grid:
                kind = f"{self.num_tokens} tokens without a grid"
                self.statement = (
                    f"The {self.num_tokens} tokens of this model (token_module "
                    f"{backbone.token_module.__name__}) form no grid: they have no place in the "
                    "photo and are drawn in a row."
                )
        files = f"`{Path(cfg.filename or 'config').name}`, `{Path(checkpoint).name}`"
        #: Files and kind of the model, in Markdown.
        self.title = f"{letter}: {files} ({self.predictor.task}, {kind})"

    @property
    def num_tokens(self) -> int:
        """Number of global tokens, 0 if there are none."""
        return self.token_size[0] * self.token_size[1]

    def inspect(self, photo: Photo) -> Inspection:
        """Predict on a photo, and keep the attention of every block.

        Raises:
            InputError: the config's decoder or the model rejects the photo, or the pipeline
                distorts it in a way that hides where its places lie.
        """
        image = self.predictor.decode(photo.name, photo.content)
        try:
            (sample,) = self.predictor.predict([self.predictor.prepare(image)])
        except RuntimeError as error:  # of a model for another number of channels, for instance
            raise InputError(f"{photo.name} cannot be predicted ({reason_of(error)})") from error
        drawn = mmcv.imrescale(self.predictor.draw(image, sample), (PREDICTION_SIDE,) * 2)
        placement = find_placement(self.model, *image.shape[:2])
        picture, broadcast = drawn, {}
        if self.heads:
            maps = inspect_tokens(self.model, image)
            picture = picture_of(self.model, maps.inputs[0])
            broadcast = {(b.stage, b.block): b.broadcast[0] for b in maps.blocks}
        return Inspection(drawn, self._summarise(sample), picture, placement, broadcast)

    def _summarise(self, sample: BaseDataElement) -> str:
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
        first = ", ".join(f"{name} {value:.2f}" for name, value in found[:5])
        return f"{text}{': ' + first if first else ''}{', …' if len(found) > 5 else '.'}"


def find_placement(model: nn.Module, height: int, width: int) -> Placement:
    """Send a picture of coordinates through the test pipeline, and fit where they arrive.

    Toolboxes do not record every crop and padding; this holds for all of them. Height and width are
    the photo's, in px.

    Raises:
        InputError: the pipeline does more than resize, crop, flip and pad.
    """
    across, down = ((np.arange(n) + 0.5) / n * 255 for n in (width, height))
    ramps = np.full((height, width, 3), 255, np.uint8)  # padding is never 255: zeros, or the mean
    ramps[..., 0], ramps[..., 1] = across.round(), down.round()[:, None]
    inputs = network_input(model, ramps)
    seen = picture_of(model, inputs[0].cpu().numpy())[..., ::-1]  # BGR, as it went in
    found = np.nonzero(seen[..., 2] > 250)
    lines = []
    for axis in (0, 1):
        places = (found[1 - axis] + 0.5) / seen.shape[1 - axis]
        values = seen[..., axis][found].astype(float)
        # Resizing repeats the values at the border beyond the centres of the outermost pixels.
        inner = (values > values.min()) & (values < values.max())
        slope, start = np.polyfit(places[inner], values[inner], 1) if inner.any() else (0, 0)
        error = abs(slope * places + start - values)[inner].max(initial=0)
        if not slope or error > TOLERANCE:
            raise InputError(
                "The config's test pipeline does more than resize, crop, flip and pad: places of "
                "its output cannot be mapped to places of the photo."
            )
        lines.append((255 / slope, -start / slope))
    return Placement(*zip(*lines, strict=True))

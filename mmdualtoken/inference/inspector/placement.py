"""Where a photo lies in what the backbone gets: resized, cropped and padded by the pipeline."""

from dataclasses import dataclass

import numpy as np
from torch import nn

from mmdualtoken.errors import InputError
from mmdualtoken.inference.token_figures import picture_of
from mmdualtoken.inference.tokens import network_input

TOLERANCE = 3.0  # of 255 levels; a fit that is off by more is none


@dataclass(frozen=True)
class Placement:
    """The photo's place (u, v) lies at (a_x u + b_x, a_y v + b_y) of the backbone's input.

    Both are shares of width and height, from 0 at the left and top to 1.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)

    def to_input(self, place: tuple[float, float]) -> tuple[float, float] | None:
        """A place of the photo in the input; None if it was cropped away."""
        found = tuple(a * p + b for a, p, b in zip(self.scale, place, self.shift, strict=True))
        return found if all(0 <= f < 1 for f in found) else None

    def to_photo(self, place: tuple[float, float]) -> tuple[float, float]:
        """A place of the input in the photo; not from 0 to 1 where the input is padded."""
        return tuple((p - b) / a for a, p, b in zip(self.scale, place, self.shift, strict=True))


def find_placement(model: nn.Module, height: int, width: int) -> Placement:
    """Send a picture of coordinates through the model's own pipeline, and see where they come out.

    Toolboxes do not record every crop and padding; this holds for all of them.

    Args:
        model: one that knows its config.
        height, width: of the photo, px.

    Raises:
        InputError: the pipeline does more than resize, crop, flip and pad.
    """
    across, down = ((np.arange(n) + 0.5) / n * 255 for n in (width, height))
    ramps = np.empty((height, width, 3), np.uint8)
    ramps[..., 0], ramps[..., 1] = across.round(), down.round()[:, None]
    ramps[..., 2] = 255  # padding is not, in any pipeline: zeros, or the mean
    inputs = network_input(model, ramps)
    seen = picture_of(model, inputs[0].cpu().numpy())[..., ::-1].astype(float)  # BGR as it went in
    inside = seen[..., 2] > 250
    places = [(np.arange(n) + 0.5) / n for n in seen.shape[1::-1]]
    fits = []
    for axis, values in enumerate((seen[..., 0], seen[..., 1])):
        line = np.ma.masked_array(values, ~inside).mean(axis=axis)
        # Resizing repeats the values at the border beyond the centres of the outermost pixels.
        line = np.ma.masked_outside(line, *(np.array([line.min(), line.max()]) + [0.5, -0.5]))
        fits.append(_fit(places[axis], line))
    return Placement(*zip(*fits, strict=True))


def _fit(places: np.ndarray, line: np.ma.MaskedArray) -> tuple[float, float]:
    """Scale and shift of one axis, by least squares: place = scale * (value / 255) + shift."""
    kept = ~np.ma.getmaskarray(line)
    if kept.sum() >= 2:
        values = line.data[kept] / 255
        slope, start = np.polyfit(places[kept], values, 1)
        error = abs(slope * places[kept] + start - values).max() * 255
        if slope and error < TOLERANCE:
            return 1 / slope, -start / slope
    raise InputError(
        "The config's test pipeline does more than resize, crop, flip and pad: no place in the "
        "photo can be told from a place in what the backbone gets."
    )

"""Files of predictions: vis/ for pictures, preds/ for records and label maps."""

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from mmengine.structures import BaseDataElement
from PIL import Image

from mmdualtoken.data.loading import BrokenFileError
from mmdualtoken.errors import InputError
from mmdualtoken.inference.inputs import Source
from mmdualtoken.inference.predictor import Predictor


def protect_results(sources: Sequence[Source], out: Path) -> None:
    """Refuse to write over earlier results.

    Raises:
        InputError: some are there, or `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; name a folder.")
    there = [str(file) for source in sources for file in source.results(out) if file.exists()]
    if there:
        raise InputError(
            f"--out {out} holds earlier results ({', '.join(there[:3])}"
            f"{', ...' if len(there) > 3 else ''}). Name another folder, or replace them with "
            "--overwrite."
        )


def _make_record(
    predictor: Predictor, image: np.ndarray, sample: BaseDataElement, label_map: Path, folder: Path
) -> dict[str, Any]:
    """Return the record of a prediction; writes the label map of a segmentor, named in `folder`."""
    record = dict(height=image.shape[0], width=image.shape[1], **predictor.record(sample))
    if predictor.task == "segmentation":
        label_map.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(predictor.label_map(sample)).save(label_map)
        record["map"] = label_map.relative_to(folder).as_posix()
    return record


def write_image(
    predictor: Predictor, source: Source, image: np.ndarray, sample: BaseDataElement, out: Path
) -> None:
    """Write picture, record and, of a segmentor, the label map of one image."""
    picture, preds = source.results(out)
    drawn = predictor.draw(image, sample)[..., ::-1]  # first: if it fails, nothing is written
    preds.parent.mkdir(parents=True, exist_ok=True)
    record = _make_record(predictor, image, sample, preds.with_suffix(".png"), preds.parent)
    mmcv.imwrite(drawn, str(picture))
    preds.write_text(json.dumps(dict(image=str(source.path), **record)), encoding="utf-8")


def write_video(
    predictor: Predictor,
    source: Source,
    predicted: Iterable[tuple[np.ndarray, BaseDataElement]],
    fps: float,
    out: Path,
) -> int:
    """Write the annotated video, and the records of its frames, one a line; return their number.

    `predicted` are frames, (H, W, 3) BGR, each with its prediction.
    """
    video, preds = source.results(out)
    for file in (video, preds):
        file.parent.mkdir(parents=True, exist_ok=True)
    writer, count = None, 0
    with preds.open("w", encoding="utf-8") as lines, ExitStack() as stack:
        for frame, sample in predicted:
            label_map = preds.with_suffix("") / f"{count:06d}.png"
            record = _make_record(predictor, frame, sample, label_map, preds.parent)
            lines.write(json.dumps(dict(frame=count, time=round(count / fps, 4), **record)) + "\n")
            drawn = np.ascontiguousarray(predictor.draw(frame, sample)[..., ::-1])
            if writer is None:
                code = cv2.VideoWriter_fourcc(*"mp4v")
                writer = cv2.VideoWriter(str(video), code, fps, drawn.shape[1::-1])
                stack.callback(writer.release)
                if not writer.isOpened():
                    raise BrokenFileError(f"{video} cannot be written: OpenCV has no mp4 encoder")
            writer.write(drawn)
            count += 1
    return count

"""Files of predictions: vis/ for pictures, preds/ for records and label maps."""

import json
from collections.abc import Iterator, Sequence
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


def result_files(sources: Sequence[Source], out: Path, with_maps: bool) -> Iterator[Path]:
    """The files and folders that the results of the sources go to."""
    for source in sources:
        vis, preds = out / "vis" / source.name, out / "preds" / source.name
        yield Path(f"{vis}{'.mp4' if source.is_video else '.jpg'}")
        yield Path(f"{preds}{'.jsonl' if source.is_video else '.json'}")
        if with_maps:
            yield preds if source.is_video else Path(f"{preds}.png")


def protect_results(sources: Sequence[Source], out: Path, with_maps: bool) -> None:
    """Refuse to write over earlier results.

    Raises:
        InputError: some are there, or `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; name a folder.")
    there = [path for path in result_files(sources, out, with_maps) if path.exists()]
    if there:
        names = ", ".join(str(path) for path in there[:3])
        raise InputError(
            f"--out {out} holds earlier results ({names}{', ...' if len(there) > 3 else ''}). "
            "Name another folder, or replace them with --overwrite."
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
    preds = Path(f"{out / 'preds' / source.name}.json")
    preds.parent.mkdir(parents=True, exist_ok=True)
    label_map = Path(f"{out / 'preds' / source.name}.png")
    record = _make_record(predictor, image, sample, label_map, preds.parent)
    drawn = predictor.draw(image, sample)
    mmcv.imwrite(drawn[..., ::-1], f"{out / 'vis' / source.name}.jpg")
    preds.write_text(json.dumps(dict(image=str(source.path), **record)), encoding="utf-8")


class VideoResults:
    """The annotated video and the records of its frames, one a line; use it in a `with`.

    Args:
        predictor: its task and class names shape the records.
        source: the video.
        fps: frames per second of the annotated one.
        out: folder of the results.
    """

    def __init__(self, predictor: Predictor, source: Source, fps: float, out: Path):
        self.predictor = predictor
        self.source = source
        self.fps = fps
        self.video = Path(f"{out / 'vis' / source.name}.mp4")
        self.preds = out / "preds" / source.name
        self.writer: cv2.VideoWriter | None = None
        self.size = (0, 0)
        self.frames = 0

    def __enter__(self) -> "VideoResults":
        self.video.parent.mkdir(parents=True, exist_ok=True)
        self.preds.parent.mkdir(parents=True, exist_ok=True)
        self.lines = Path(f"{self.preds}.jsonl").open("w", encoding="utf-8")
        return self

    def __exit__(self, *_: Any) -> None:
        self.lines.close()
        if self.writer is not None:
            self.writer.release()

    def add(self, frame: np.ndarray, sample: BaseDataElement) -> None:
        """Append a frame, (H, W, 3) BGR, with its prediction."""
        label_map = self.preds / f"{self.frames:06d}.png"
        record = _make_record(self.predictor, frame, sample, label_map, self.preds.parent)
        record = dict(frame=self.frames, time=round(self.frames / self.fps, 4), **record)
        drawn = self.predictor.draw(frame, sample)[..., ::-1]
        if self.writer is None:
            self.size = drawn.shape[1::-1]
            code = cv2.VideoWriter_fourcc(*"mp4v")
            self.writer = cv2.VideoWriter(str(self.video), code, self.fps, self.size)
            if not self.writer.isOpened():
                raise BrokenFileError(f"{self.video} cannot be written: OpenCV has no mp4 encoder")
        self.writer.write(np.ascontiguousarray(drawn))
        self.lines.write(json.dumps(record) + "\n")
        self.frames += 1

"""Predict on images, folders and videos: annotated pictures, and the results as JSON.

    tools/predict.py CONFIG CHECKPOINT photo.jpg folder/ video.mp4 --out DIR
    tools/predict.py mmdualtoken://tiny photo.jpg --out DIR    # shipped weights know their config

Works with configs of mmdet, mmseg and mmpretrain. Files and their format: docs/tools.md.
Exit status: 0 if all was predicted, 1 if some file was broken (the others are done), 2 if the
arguments, the config or the checkpoint are wrong.
"""

import argparse
import contextlib
import sys
import traceback
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import mmcv
import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from mmdualtoken.cli import add_config_arguments, load_config, number, run_tool
from mmdualtoken.data.loading import BrokenFileError
from mmdualtoken.errors import MissingPackage, reason_of
from mmdualtoken.inference import Predictor, Source, find_sources, load_model
from mmdualtoken.inference.outputs import protect_results, write_image, write_video
from mmdualtoken.weights.shipped import SCHEME

FPS = 25.0  # of a video that does not say


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file; none after shipped weights")
    parser.add_argument("inputs", nargs="*", help="images, folders of images, videos")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--score-thr",
        type=number(float, 0, 1),
        default=0.3,
        help="detection: objects need a higher score to be drawn and written (%(default)s)",
    )
    parser.add_argument(
        "--topk",
        type=number(int, 1),
        default=5,
        help="classification: classes to write (%(default)s)",
    )
    parser.add_argument("--device", help="cpu, cuda:0, ... (a GPU if there is one)")
    parser.add_argument(
        "--batch-size",
        type=number(int, 1),
        default=1,
        help="images at once, if of one size (%(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace earlier results in DIR")
    args = parser.parse_args()
    if args.config.startswith(SCHEME):
        args.inputs.insert(0, args.checkpoint)
        args.checkpoint = args.config
    if not args.inputs:
        parser.error(
            f"no image is given after the checkpoint {args.checkpoint}: name images, folders of "
            "images or videos"
        )
    return args


def batches(sequence: Iterable, size: int) -> Iterator[list]:
    """The elements in lists of `size`, the last one shorter."""
    iterator = (element for element in sequence)  # iter() would rewind a video with each batch
    while batch := list(islice(iterator, size)):
        yield batch


class Problems(list[str]):
    """Why files were not predicted.

    Attributes:
        error: the model's first, without what it held in memory.
    """

    error: Exception | None = None

    def note(self, source: Source, what: str, error: Exception) -> None:
        """Add an error of predicting a file."""
        self.append(f"{source.path} cannot be {what} ({reason_of(error)})")
        self.error = self.error or error


def prepare(predictor: Predictor, source: Source, problems: Problems) -> tuple | None:
    """Read and prepare an image; None, and an entry in `problems`, for a broken file."""
    try:
        image = predictor.read(str(source.path))
        return source, image, predictor.prepare(image, str(source.path))
    except BrokenFileError as error:
        problems.append(str(error))
    except Exception as error:  # a transform may refuse an image, of one pixel for instance
        problems.note(source, "prepared", error)
    return None


def predict_batch(predictor: Predictor, ready: list[tuple], out: Path, problems: Problems) -> None:
    """Predict and write; if that fails, image by image, so that one costs no other its results."""
    try:
        samples = predictor.predict([data for _, _, data in ready])
        for (source, image, _), sample in zip(ready, samples, strict=True):
            write_image(predictor, source, image, sample, out)
        return
    except (OSError, MissingPackage):  # no space, no permission
        raise
    except Exception as error:
        traceback.clear_frames(error.__traceback__)  # a GPU may be full of them
        if len(ready) == 1:
            problems.note(ready[0][0], "predicted", error)
            return
    for entry in ready:
        predict_batch(predictor, [entry], out, problems)


def open_video(source: Source) -> mmcv.VideoReader | None:
    """Open a video; None for a name that is no UTF-8, at which OpenCV ends the process."""
    name = str(source.path)
    readable = name.encode(errors="ignore").decode() == name
    return mmcv.VideoReader(name) if readable else None


def predict_video(
    predictor: Predictor,
    source: Source,
    args: argparse.Namespace,
    advance,
    problems: Problems,
) -> None:
    """Predict on all frames of a video; notes its problem, if any."""
    reader, records = open_video(source), source.results(Path(args.out))[1]
    if reader is None or not reader.opened:
        advance(1)
        rename = ": its name is no UTF-8; rename it" if reader is None else ""
        problems.append(f"{source.path} is no video that OpenCV can read{rename}")
        return
    fps = reader.fps or FPS

    def predicted() -> Iterator[tuple]:
        for frames in batches(reader, args.batch_size):
            frames = [predictor.frame(frame) for frame in frames]
            samples = predictor.predict([predictor.prepare(frame) for frame in frames])
            yield from zip(frames, samples, strict=True)
            advance(len(frames))

    try:
        frames = write_video(predictor, source, predicted(), fps, Path(args.out))
    except (OSError, MissingPackage):  # no space, no permission
        raise
    except Exception as error:
        traceback.clear_frames(error.__traceback__)
        problems.note(source, "predicted to its end", error)
        return
    finally:
        if records.exists() and not records.stat().st_size:
            records.unlink()
    if not frames:
        problems.append(f"{source.path} is no video that OpenCV can read")
    # OpenCV takes the count from the file's duration, which may be that of a longer sound, or none.
    elif frames < reader.frame_cnt - 2 * fps:
        problems.append(f"{source.path} ended after {frames} of {reader.frame_cnt} frames")


def length(source: Source) -> int:
    """Steps of the progress bar: frames of a video, else 1."""
    video = open_video(source) if source.is_video else None
    return 1 if video is None else max(1, video.frame_cnt)


def predict(predictor: Predictor, sources: list[Source], args: argparse.Namespace) -> Problems:
    """Predict on everything, with a progress bar where somebody sees it."""
    problems = Problems()
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("Predicting", total=sum(map(length, sources)))

        def advance(steps: int) -> None:
            progress.advance(task, steps)

        for batch in batches((s for s in sources if not s.is_video), args.batch_size):
            ready = [prepare(predictor, source, problems) for source in batch]
            predict_batch(predictor, [entry for entry in ready if entry], Path(args.out), problems)
            advance(len(batch))
        for source in (s for s in sources if s.is_video):
            predict_video(predictor, source, args, advance, problems)
    if problems.error and len(problems) == len(sources) > 1:
        raise problems.error  # the files are not what is wrong
    return problems


def main() -> None:
    args = parse_args()
    with contextlib.redirect_stdout(sys.stderr):  # messages of imported packages
        cfg = load_config(args)
        sources = find_sources(args.inputs, args.out)
        if not args.overwrite:
            protect_results(sources, Path(args.out))
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        model = load_model(cfg, args.checkpoint, device)
        predictor = Predictor(model, args.score_thr, args.topk)
        problems = predict(predictor, sources, args)
    for problem in problems:
        print(f"not predicted: {problem}", file=sys.stderr)
    good = len(sources) - len(problems)
    print(f"{good} of {len(sources)} files done: {Path(args.out) / 'vis'}, {args.out}/preds")
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    run_tool(main)

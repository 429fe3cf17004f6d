"""Run a detector, segmentor or classifier that tools/export.py wrote, without PyTorch.

Needs numpy, opencv-python-headless and onnxruntime or openvino. 0 below is the first camera:
    python runner.py model.onnx PHOTO FOLDER VIDEO 0 --out results
"""

import argparse
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory as Temporary

import cv2
import numpy as np

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
RUNTIMES = {"onnxruntime": "f32", "openvino": "f32", "openvino-bf16": "bf16"}  # their floats
COLOURS = np.random.RandomState(42).randint(40, 220, (2**16, 3)).astype(np.uint8)


def load(file, runtime, threads):
    """Return a file as a function of images, its outputs' names and its metadata."""
    if runtime.startswith("openvino"):
        import openvino

        options = {"INFERENCE_PRECISION_HINT": RUNTIMES[runtime], "ENABLE_CPU_PINNING": False}
        options["INFERENCE_NUM_THREADS"] = threads
        model = openvino.Core().read_model(file)
        ready = openvino.Core().compile_model(model, "CPU", options)
        info = getattr(model.rt_info["framework"], "items", tuple)()  # of no file but exported ones
        meta = {key: value.astype(str) for key, value in info}
        names = [output.any_name for output in model.outputs]
        return lambda x: [v.copy() for v in ready({"images": x}).to_tuple()], names, meta
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
    names, meta = [x.name for x in session.get_outputs()], session.get_modelmeta()
    return lambda x: session.run(None, {"images": x}), names, meta.custom_metadata_map


class Model:
    """A model file; call it with an image (H, W, C) or (H, W) as `read` returns it."""

    def __init__(self, file, runtime=None, threads=0):
        """Load a file; by default OpenVINO runs .xml; `threads` 0 leaves their number to it."""
        runtime = runtime or ("openvino" if str(file).endswith(".xml") else "onnxruntime")
        try:
            self.run, self.names, meta = load(str(file), runtime, threads)
            self.meta = {k: json.loads(v) if v[:1] in ("[", "{") else v for k, v in meta.items()}
            self.task, self.classes = self.meta["task"], self.meta["classes"]
        except Exception as error:  # each runtime has its own
            why = f"{file}, no file with results that {runtime} runs: {type(error).__name__}"
            raise ValueError(f"{why}, {error}".splitlines()[0]) from error

    def read(self, path):
        """Read an image file as the config's pipeline does."""
        data = np.fromfile(path, np.uint8)
        image = cv2.imdecode(data, int(self.meta["imread_flag"])) if data.size else None
        if image is None:
            raise ValueError(f"{path} is no image that OpenCV reads")
        return np.asarray(image, self.meta["read_as"] or None)

    def frame(self, image):
        """Turn a video's frame into an image as `read` returns it."""
        if int(self.meta["imread_flag"]) in (0, cv2.IMREAD_IGNORE_ORIENTATION):  # both grey
            image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        return np.asarray(image, self.meta["read_as"] or None)

    def prepare(self, image):
        """Resize, crop and pad as in testing; also the scales of x, y, x, y."""
        if "pipeline" not in self.meta:
            raise ValueError("the file does not say how to resize; export it with --with-runner")
        scales = np.ones(4, "f4")
        for step in self.meta["pipeline"]:
            (h, w), size = image.shape[:2], step["size"]
            if step["type"] == "Resize":
                if step["edge"]:  # the length of one side
                    wide = {"short": w < h, "long": w > h, "width": True, "height": False}
                    size = (size, size * h / w) if wide[step["edge"]] else (size * w / h, size)
                elif step["keep_ratio"]:  # the most that the long and the short side may have
                    factor = min(max(size) / max(h, w), min(size) / min(h, w))
                    size = (w * factor + 0.5, h * factor + 0.5)
                image = cv2.resize(image, (int(size[0]), int(size[1])), interpolation=step["how"])
                scales = np.tile(np.array([image.shape[1] / w, image.shape[0] / h], "f4"), 2)
            elif step["type"] == "CenterCrop":
                x, y = max(0, round((w - size[0]) / 2)), max(0, round((h - size[1]) / 2))
                image = image[y : y + size[1], x : x + size[0]]
            elif step["type"] == "JPEG":
                flags = [cv2.IMWRITE_JPEG_QUALITY, step["quality"]]
                image = cv2.imdecode(cv2.imencode(".jpg", image, flags)[1], cv2.IMREAD_UNCHANGED)
            else:
                size = size or ((max(h, w),) * 2 if step["square"] else (w, h))
                right, below = (-(-v // step["divisor"]) * step["divisor"] for v in size)
                more = (0, max(below - h, 0), 0, max(right - w, 0))
                image = cv2.copyMakeBorder(image, *more, 0, value=step["value"])
        return image, scales

    def infer(self, images):
        """Run prepared images of one size; returns a tuple of outputs for each."""
        batch = np.stack([image.reshape(*image.shape[:2], -1) for image in images])
        if self.meta["channel_order"] == "rgb" and batch.shape[-1] == 3:
            batch = batch[..., ::-1]
        if self.meta["mean"]:  # else the file takes pixels
            mean, std = (np.array(self.meta[key], "f4") for key in ("mean", "std"))
            batch = (batch.astype("f4") - mean) / std
        batch = np.ascontiguousarray(batch.transpose(0, 3, 1, 2), self.meta["dtype"])
        return list(zip(*self.run(batch)))

    def objects(self, outputs, scales, size, score_thr=-1.0):
        """Boxes, scores, labels, and masks (N, H, W) or None, in the original image's pixels."""
        dets, labels, *masks = outputs
        keep = (labels >= 0) & (dets[:, 4] > score_thr)
        boxes, threshold = dets[keep, :4] / scales, float(self.meta.get("mask_threshold", 0))
        found = [paste(*pair, size) >= threshold for m in masks for pair in zip(m[keep], boxes)]
        found = np.array(found, bool).reshape(-1, *size) if masks else None
        return boxes, dets[keep, 4], labels[keep], found

    def __call__(self, image, score_thr=0.3):
        """Return the image's record (for JSON), the picture and, of segmentors, the label map."""
        picture = np.atleast_3d(image)[..., [0, 1, 2] if image.ndim == 3 else [0, 0, 0]].copy()
        if picture.dtype != np.uint8:
            picture = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U)
        size, label_map, captions = image.shape[:2], None, []
        record, (prepared, scales) = dict(height=size[0], width=size[1]), self.prepare(image)
        outputs = self.infer([prepared])[0]
        if self.task == "classification":
            order = np.argsort(-outputs[0], kind="stable")[:5].tolist()
            best = [(i, self.classes[i], float(outputs[0][i])) for i in order]
            record.update(zip(("pred_label", "pred_class", "pred_score"), best[0]))
            record["top"] = [dict(zip(("label", "name", "score"), entry)) for entry in best]
            captions.append((f"{best[0][1]} {best[0][2]:.2f}", (2, 14), (0, 0, 255)))
        elif self.task == "segmentation":
            narrow = outputs[0].astype("u1" if outputs[0].dtype == np.uint8 else "u2")
            label_map = cv2.resize(narrow, size[::-1], interpolation=cv2.INTER_NEAREST)
            labels, counts = np.unique(label_map, return_counts=True)
            found = sorted(zip((counts / label_map.size).tolist(), labels.tolist()), reverse=True)
            record["classes"] = [dict(label=i, name=self.classes[i], share=s) for s, i in found]
            picture = picture // 2 + COLOURS[label_map] // 2
        else:
            boxes, scores, labels, masks = self.objects(outputs, scales, size, score_thr)
            record.update(labels=labels.tolist(), label_names=[self.classes[i] for i in labels])
            record.update(scores=scores.tolist(), bboxes=boxes.tolist())
            for mask, label in zip(() if masks is None else masks, labels):
                picture[mask] = picture[mask] // 2 + COLOURS[label] // 2
                counts = np.flatnonzero(np.diff(mask.T.ravel(), prepend=False))
                counts = np.diff([0, *counts, mask.size]).tolist()  # COCO's run lengths
                record.setdefault("masks", []).append(dict(size=size, counts=counts))
            for label, score, box in zip(labels, scores, boxes.round().astype(int).tolist()):
                colour, text = COLOURS[label].tolist(), f"{self.classes[label]} {score:.2f}"
                cv2.rectangle(picture, box[:2], box[2:], colour, 2)
                captions.append((text, (box[0], max(box[1] - 3, 12)), colour))
        for text, place, colour in captions:
            cv2.putText(picture, text, place, 0, 0.45, colour, 1, cv2.LINE_AA)
        return record, picture, label_map


def paste(mask, box, size):
    """Put a box's probabilities (h, w) into an image as mmdet does: (H, W)."""
    weights = []
    for axis in (1, 0):
        cells = np.arange(mask.shape[1 - axis], dtype="f4")
        place = (np.arange(size[1 - axis], dtype="f4") + 0.5 - box[axis]) * len(cells)
        place = place / max(box[axis + 2] - box[axis], 1e-6) - 0.5
        weights.append(np.maximum(0, 1 - abs(place[:, None] - cells)))
    return weights[0] @ mask @ weights[1].T


def read_all(model, names):
    """Yield a name and an image, or why it cannot be read, for each photo and frame."""
    for name in names:
        top = Path(os.path.abspath(name))  # which has a name where '..' has none
        files = [Path()]
        if top.is_dir():
            files = [f.relative_to(top) for f in sorted(top.rglob("*")) if f.is_file()]
            files = [f for f in files if f.suffix.lower() in IMAGES + VIDEOS]
            files = [f for f in files if not any(part.startswith(".") for part in f.parts)]
        for file, place, shown in ((f, Path(name, f), (top.name / f).as_posix()) for f in files):
            if (top / file).suffix.lower() in IMAGES:
                try:
                    yield shown, model.read(place)
                except (ValueError, OSError, cv2.error) as error:
                    yield shown, str(error)
            else:
                yield from read_video(model, str(place) if file.name else name, shown)
        if not files:
            yield name, f"{name} has no photo or video"


def read_video(model, name, shown):
    """Yield a name and an image for each frame of a video or camera, then why some are missing."""
    if name.encode(errors="ignore").decode() != name:  # it would end the process
        yield shown, f"{name!a} is no UTF-8, which OpenCV needs; rename it"
        return
    number, video = 0, cv2.VideoCapture(int(name) if name.isdigit() else name)
    while (frame := video.read()[1]) is not None:
        yield f"{shown}_{number:06d}.jpg", model.frame(frame)
        number += 1
    # The count comes from a duration, which may be that of a longer sound, or none.
    count = video.get(cv2.CAP_PROP_FRAME_COUNT) - 2 * video.get(cv2.CAP_PROP_FPS)
    if number < max(1, count):
        why = f"the rest, after {number} frames" if number else "no photo, folder or video"
        yield shown, f"{name}: {why}"


def write(path, image):
    """Write an image to a file of any name, which cv2.imwrite does not take."""
    good, content = cv2.imencode(path.suffix, image)
    if not good:
        raise ValueError(f"{image.shape[1]}x{image.shape[0]} pixels are too many for {path.suffix}")
    content.tofile(path)


def save(folder, name, record, picture, label_map):
    """Add an image's results to a folder, beside others of its name."""
    name += ".png" * name.lower().endswith(".pgm")  # which has no colours
    plain, number = Path(name), 1
    while (folder / name).exists():
        number += 1
        name = plain.with_name(f"{plain.stem}_{number}{plain.suffix}").as_posix()
    Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
    write(folder / name, picture)
    if label_map is not None:
        write(folder / f"{name}.png", label_map)
    with open(folder / "results.jsonl", "a", encoding="utf-8") as lines:
        lines.write(json.dumps(dict(image=name, **record)) + "\n")


def main():
    """Run a model on everything that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("inputs", nargs="+", help="photos, folders, videos, cameras' numbers")
    parser.add_argument("--out", required=True, type=Path, help="a new folder")
    parser.add_argument("--runtime", choices=RUNTIMES, help="by default by the file's ending")
    parser.add_argument("--score-thr", type=float, default=0.3)
    args = parser.parse_args()
    if args.out.exists():
        parser.exit(2, f"runner: --out {args.out} exists already; name a new folder.\n")
    problems = failures = 0
    try:
        model = Model(args.model, args.runtime)
        with Temporary(prefix=".run-", dir=args.out.absolute().parent) as folder:
            new = Path(folder, "results")  # moved as a whole in the end
            try:
                for name, image in read_all(model, args.inputs):
                    why = image if isinstance(image, str) else ""
                    try:
                        if not why:
                            save(new, name, *model(image, args.score_thr))
                    except OSError:  # of writing: no space, no permission
                        raise
                    except Exception as error:  # each runtime has its own
                        why = f"{name}: {type(error).__name__} {error}".splitlines()[0]
                        failures += 1
                        if not new.exists() and (failures == 10 or "pipeline" not in model.meta):
                            raise ValueError(why) from error  # no image would do
                    if why:
                        print(f"runner: left out: {why.rstrip('. ')}.", file=sys.stderr)
                        problems += 1
            except KeyboardInterrupt:
                print("runner: stopped; what was done is kept.", file=sys.stderr)
            if not new.exists():
                parser.exit(2, "runner: no image was done.\n")
            new.rename(args.out)
            print(f"{args.out}: pictures and results.jsonl")
    except (ValueError, OSError, cv2.error) as error:
        parser.exit(2, f"runner: {error}.\n")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()

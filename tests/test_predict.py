"""tools/predict.py: pictures and records of images, folders and videos, for the three tasks."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from narrow import build
from pycocotools import mask as coco_mask
from tasks import ROOT, TASKS

from mmdualtoken.cli import find_config
from mmdualtoken.errors import InputError
from mmdualtoken.inference import Predictor, find_sources, load_model
from mmdualtoken.inference.inputs import Source

CLASSES = {
    "detection": ("disc", "square", "triangle", "star"),
    "segmentation": ("background", "disc", "square", "triangle", "star"),
    "classification": ("disc", "square", "star", "triangle"),
}


def write_checkpoint(task, file="model.pth", **meta):
    """Random weights of the narrow config, saved as training does."""
    torch.manual_seed(0)
    model = build(Config.fromfile(TASKS[task][0]))
    meta = meta or dict(dataset_meta=dict(classes=CLASSES[task], palette=[(9, 8, 7)] * 5))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), file)
    return file


def write_images(folder, sizes=((96, 80), (64, 64), (64, 64))):
    rng = np.random.default_rng(0)
    Path(folder).mkdir(parents=True)
    for i, (height, width) in enumerate(sizes):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(f"{folder}/{i}.png", image)
    return folder


def record_of(name):
    return json.loads(Path("out", "preds", f"{name}.json").read_text())


def toolbox_results(task, images):
    """Predict with the toolbox's own inferencer, our config and checkpoint."""
    config = TASKS[task][0]
    if task == "classification":
        from mmpretrain import ImageClassificationInferencer

        return ImageClassificationInferencer(config, pretrained="model.pth", device="cpu")(images)
    if task == "segmentation":
        from mmseg.apis import MMSegInferencer

        return MMSegInferencer(config, weights="model.pth", device="cpu")(images)["predictions"]
    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(config, weights="model.pth", device="cpu")
    found = inferencer(images, return_datasamples=True)["predictions"]
    return [sample.pred_instances for sample in found]


def check_detection(record, expected):
    assert record["labels"] == expected.labels.tolist() and len(record["labels"]) == 5
    np.testing.assert_allclose(record["scores"], expected.scores, atol=1e-6)
    np.testing.assert_allclose(record["bboxes"], expected.bboxes, atol=1e-3)
    assert record["label_names"] == [CLASSES["detection"][i] for i in record["labels"]]
    assert (coco_mask.decode(record["masks"]).transpose(2, 0, 1) == expected.masks.numpy()).all()


def check_segmentation(record, expected):
    written = cv2.imread(f"out/preds/{record['map']}", cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint8 and (written == expected).all()
    shares = {i: float((expected == i).mean()) for i in np.unique(expected).tolist()}
    assert {c["label"]: c["share"] for c in record["classes"]} == pytest.approx(shares, abs=1e-6)
    found = [c["share"] for c in record["classes"]]
    assert found == sorted(found, reverse=True)
    assert all(c["name"] == CLASSES["segmentation"][c["label"]] for c in record["classes"])


def check_classification(record, expected):
    scores = np.sort(expected["pred_scores"])[::-1]
    np.testing.assert_allclose([c["score"] for c in record["top"]], scores, atol=1e-6)
    assert record["pred_class"] == expected["pred_class"] == record["top"][0]["name"]
    assert record["pred_label"] == expected["pred_label"]
    assert record["pred_score"] == pytest.approx(expected["pred_score"], abs=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_same_as_the_toolbox(task, here, tool):
    """Batched or not, records equal the result of the toolbox's own function; pictures show the
    objects that were found."""
    write_checkpoint(task)
    write_images("photos")
    arguments = [TASKS[task][0], "model.pth", "photos", "--out", "out", "--score-thr", "0"]
    status, printed = tool("predict", *arguments, "--batch-size", "2")
    assert status == 0 and "3 of 3 files done" in printed
    check = globals()[f"check_{task}"]
    expected = toolbox_results(task, [f"photos/{i}.png" for i in range(3)])
    for i, size in enumerate([(96, 80), (64, 64), (64, 64)]):
        record = record_of(i)
        assert (record["height"], record["width"]) == size
        assert record["image"] == f"photos/{i}.png"
        check(record, expected[i])
        drawn = cv2.imread(f"out/vis/{i}.jpg")
        if task == "classification":  # enlarged, for legible names
            assert min(drawn.shape[:2]) == 224
        else:
            assert drawn.shape[:2] == size
            assert np.abs(drawn - cv2.imread(f"photos/{i}.png").astype(int)).mean() > 10


def test_broken_files_and_earlier_results(here, tool):
    """A broken file is named and the rest done; results are replaced only with --overwrite."""
    write_checkpoint("classification")
    write_images("photos/deep")
    Path("photos/empty.jpg").touch()
    Path("photos/notes.txt").write_text("no image")
    content = Path("photos/deep/1.png").read_bytes()
    Path("photos/cut.png").write_bytes(content[: len(content) // 2])
    arguments = [TASKS["classification"][0], "model.pth", "photos", "--out", "photos/out"]
    status, printed = tool("predict", *arguments)
    assert status == 1 and "3 of 5 files done" in printed and "Traceback" not in printed
    assert "not predicted: photos/empty.jpg is empty (0 bytes)" in printed
    assert "not predicted: photos/cut.png is cut off or damaged" in printed
    file = Path("photos/out/preds/deep/2.json")
    assert json.loads(file.read_text())["top"]
    file.write_text("mine")
    status, printed = tool("predict", *arguments)
    assert status == 2 and "photos/out/preds/deep" in printed and "--overwrite" in printed
    assert file.read_text() == "mine"
    # The pictures of the first run, below the folder, are no inputs of the next.
    status, printed = tool("predict", *arguments, "--overwrite")
    assert status == 1 and "3 of 5 files done" in printed
    assert json.loads(file.read_text())["top"]


def test_linked_folders_are_searched(tmp_path):
    """Each once, also where a link leads in a circle; hidden files are none of the user's."""
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "real").mkdir()
    for name in ("data/deep/a.png", "data/._a.png", "real/b.JPG"):
        (tmp_path / name).touch()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "data" / "another").symlink_to(tmp_path / "data" / "deep")
    (tmp_path / "real" / "circle").symlink_to(tmp_path / "data")
    found = find_sources([str(tmp_path / "data")], tmp_path / "out")
    assert [source.name for source in found] == ["deep/a", "link/b"]


@pytest.mark.parametrize(("count", "problem"), [(-(2**60), ""), (20, ""), (40, "ended after 5")])
def test_count_of_frames_is_an_estimate(count, problem, here, monkeypatch):
    """Of 10 frames a second: none in the file, a longer sound, two seconds that are missing."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import predict

    write_video("clip.mp4")
    monkeypatch.setattr(mmcv.VideoReader, "frame_cnt", count)
    monkeypatch.setattr(predict, "write_video", lambda *args: len(list(args[2])))
    predictor = SimpleNamespace(
        **dict.fromkeys(("frame", "prepare", "predict"), lambda found: found)
    )
    args = SimpleNamespace(batch_size=2, out="out")
    found, source = predict.Problems(), Source(Path("clip.mp4"), "clip")
    predict.predict_video(predictor, source, args, print, found)
    assert [problem in text for text in found] == [True] * bool(problem)


def write_video(file, frames=5):
    writer = cv2.VideoWriter(file, cv2.VideoWriter_fourcc(*"mp4v"), 10, (80, 64))
    for i in range(frames):
        writer.write(np.full((64, 80, 3), 40 * i, np.uint8))
    writer.release()


def test_video(here, tool):
    """A segmentor's, which has label maps, too; a file that is no video is named."""
    write_checkpoint("segmentation")
    write_video("clip.mp4")
    Path("broken.mp4").write_bytes(b"no video")
    arguments = [TASKS["segmentation"][0], "model.pth", "clip.mp4", "broken.mp4", "--out", "out"]
    status, printed = tool("predict", *arguments, "--batch-size", "2")
    assert status == 1 and "1 of 2 files done" in printed
    assert "broken.mp4 is no video that OpenCV can read\n" in printed
    records = [json.loads(line) for line in Path("out/preds/clip.jsonl").read_text().splitlines()]
    assert [(r["frame"], r["time"]) for r in records] == [(i, i / 10) for i in range(5)]
    assert all((r["height"], r["width"]) == (64, 80) for r in records)
    video = cv2.VideoCapture("out/vis/clip.mp4")
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 5 and video.get(cv2.CAP_PROP_FPS) == 10
    assert len(list(Path("out/preds/clip").glob("*.png"))) == 5
    assert cv2.imread(f"out/preds/{records[4]['map']}", 0).shape == (64, 80)
    status, printed = tool("predict", *arguments)
    assert status == 2 and "out/preds/clip.jsonl" in printed and "--overwrite" in printed


def test_files_that_the_model_refuses(here, tool, monkeypatch):
    """They are named; the others of a batch and of a folder are done, and nothing of them stays."""
    write_checkpoint("segmentation")
    write_images("photos", ((64, 64), (64, 64), (32, 32), (64, 64)))
    write_video("clip.mp4")
    draw = Predictor.draw

    def refuse(self, image, sample):
        if image.shape[0] == 32 or image.shape[1] == 80 and image[0, 0, 0] > 60:
            raise IndexError("no place\nfor names")
        return draw(self, image, sample)

    monkeypatch.setattr(Predictor, "draw", refuse)
    arguments = [TASKS["segmentation"][0], "model.pth", "photos", "clip.mp4", "--out", "out"]
    status, printed = tool("predict", *arguments, "--batch-size", "4")
    assert status == 1 and "3 of 5 files done" in printed and "Traceback" not in printed
    assert "photos/2.png cannot be predicted (IndexError: no place)" in printed
    assert "clip.mp4 cannot be predicted to its end (IndexError: no place)" in printed
    found = {path.name for folder in ("preds", "vis") for path in Path("out", folder).iterdir()}
    assert {f"{i}{end}" for i in (0, 1, 3) for end in (".jpg", ".json", ".png")} < found
    assert not [name for name in found if name.startswith("2")]


def test_a_model_that_refuses_all(here, tool, monkeypatch):
    """The files are not what is wrong: a list of them would hide the error."""
    write_checkpoint("classification")
    write_images("photos")

    def refuse(self, prepared):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(Predictor, "predict", refuse)
    with pytest.raises(RuntimeError, match="no kernel image"):
        tool("predict", TASKS["classification"][0], "model.pth", "photos", "--out", "out")
    arguments = [TASKS["classification"][0], "model.pth", "photos/0.png", "--out", "out"]
    status, printed = tool("predict", *arguments)
    assert status == 1 and "0.png cannot be predicted (RuntimeError: no kernel" in printed


def test_videos_as_the_config_reads_images(here, tool):
    write_video("clip.mp4")
    cfg = Config.fromfile(TASKS["classification"][0])
    cfg.model.backbone.in_channels = 1
    cfg.model.data_preprocessor = dict(mean=[128], std=[64])
    cfg.test_dataloader.dataset.pipeline[0].color_type = "grayscale"
    cfg.dump("grey.py")
    torch.save(dict(state_dict=build(cfg).state_dict()), "grey.pth")
    status, printed = tool("predict", "grey.py", "grey.pth", "clip.mp4", "--out", "out")
    assert status == 0, printed
    assert len(Path("out/preds/clip.jsonl").read_text().splitlines()) == 5


def test_names_that_opencv_does_not_open(here, tool):
    write_checkpoint("classification")
    name = os.fsdecode(b"caf\xe9.mp4")
    Path(name).touch()
    arguments = [TASKS["classification"][0], "model.pth", name, "--out", "out"]
    status, printed = tool("predict", *arguments)
    assert status == 1 and "rename it" in printed


def test_score_threshold_holds_for_picture_and_record(here):
    model = load_model(Config.fromfile(TASKS["detection"][0]), write_checkpoint("detection"))
    predictor = Predictor(model, score_thr=0)
    image = predictor.read(f"{write_images('photos')}/0.png")
    image = np.sort(image // 4, axis=0)  # smooth: a change shows
    prepared = [predictor.prepare(image)]
    scores = predictor.record(predictor.predict(prepared)[0])["scores"]
    predictor.score_thr = cut = sorted(scores)[2]
    (kept,) = predictor.predict(prepared)
    assert predictor.record(kept)["scores"] == [s for s in scores if s > cut] and len(scores) > 2
    predictor.score_thr = 1
    (none,) = predictor.predict(prepared)
    assert predictor.record(none) == dict(labels=[], label_names=[], scores=[], bboxes=[], masks=[])
    assert np.abs(predictor.draw(image, none)[..., ::-1] - image.astype(int)).mean() < 2


def test_top_k(here, tool):
    write_checkpoint("classification")
    write_images("photos")
    arguments = [TASKS["classification"][0], "model.pth", "photos/0.png", "--out", "out"]
    assert tool("predict", *arguments, "--topk", 2)[0] == 0
    assert len(record_of(0)["top"]) == 2


@pytest.mark.parametrize("classes, dtype", [(256, np.uint8), (257, np.uint16)])
def test_label_maps_hold_every_label(classes, dtype):
    last = torch.full((1, 4, 4), classes - 1)
    sample = SimpleNamespace(pred_sem_seg=SimpleNamespace(data=last))
    found = Predictor.label_map(SimpleNamespace(classes=range(classes)), sample)
    assert found.dtype == dtype and (found == classes - 1).all()


def test_names_of_classes(here):
    """From the checkpoint; from the config where it says nothing; else numbers."""
    cfg = Config.fromfile(TASKS["segmentation"][0])
    file = write_checkpoint("segmentation", dataset_meta=dict(classes=("a", "b")))
    meta = load_model(cfg, file).dataset_meta
    assert meta["classes"] == ("a", "b", "class 2", "class 3", "class 4")
    assert meta["palette"] == [(40 * i, 0, 0) for i in range(5)]
    file = write_checkpoint("segmentation", epoch=1)
    assert load_model(cfg, file).dataset_meta["classes"] == CLASSES["segmentation"]
    # Of a config with classes=("road"), which is a text.
    file = write_checkpoint("segmentation", dataset_meta=dict(classes="road"))
    assert load_model(cfg, file).dataset_meta["classes"][:2] == ("road", "class 1")
    file = write_checkpoint("classification", epoch=1)
    meta = load_model(Config.fromfile(TASKS["classification"][0]), file).dataset_meta
    assert meta["classes"] == ("class 0", "class 1", "class 2", "class 3")
    assert len(set(meta["palette"])) == 4


def test_another_model(here, tool):
    write_checkpoint("segmentation")
    write_images("photos")
    status, printed = tool("predict", TASKS["detection"][0], "model.pth", "photos", "--out", "out")
    assert status == 2 and "model.pth is of another model than the config's" in printed
    assert "decode_head.conv_seg" in printed and not Path("out").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere.jpg", "--out", "out"], "nowhere.jpg does not exist"),
        (["empty", "--out", "out"], "No image or video in empty"),
        (["photos", "--out", "model.pth"], "--out model.pth is a file"),
        (["photos", "--out", "out", "--device", "warp:9"], "Device warp:9 cannot be used"),
    ],
)
def test_bad_arguments(arguments, message, here, tool):
    write_checkpoint("classification")
    write_images("photos")
    Path("empty").mkdir()
    status, printed = tool("predict", TASKS["classification"][0], "model.pth", *arguments)
    assert status == 2 and message in printed and "Traceback" not in printed


def test_sources(here):
    """Names of results are unique; earlier results and the suffixes of videos are known."""
    write_images("photos")
    shutil.copytree("photos", "more")
    shutil.copy("photos/0.png", "photos/0.jpg")
    Path("photos/out/vis").mkdir(parents=True)
    shutil.copy("photos/0.png", "photos/out/vis/0.png")
    names = [s.name for s in find_sources(["photos"], "photos/out")]
    assert names == ["0.jpg", "0.png", "1", "2"]
    names = [s.name for s in find_sources(["photos", "more/1.png", "more"], "photos/out")]
    assert len(set(names)) == len(names) == 8 and {"0.jpg", "1.png", "1.png_2"} < set(names)
    # Results may lie beside the photos; a video's label maps, in a folder that no photo's share.
    names = [s.name for s in find_sources(["photos", "more"], ".")]
    assert len(names) == 8
    Path("photos/1.mp4").touch()
    shutil.copytree("more", "photos/1")
    names = [s.name for s in find_sources(["photos"], "photos/out")]
    assert names == ["0.jpg", "0.png", "1/0", "1/1", "1/2", "1.mp4", "1.png", "2"]
    shutil.move("photos/1.png", "photos/3.png")
    names = [s.name for s in find_sources(["photos"], "photos/out")]
    assert names == ["0.jpg", "0.png", "1/0", "1/1", "1/2", "1.mp4", "2", "3"]
    Path("clip.MP4").touch()
    assert [s.is_video for s in find_sources(["clip.MP4", "photos/3.png"], "out")] == [True, False]


def test_a_name_that_begins_like_a_home(here):
    """`~photo` is no user's home, and was an error of Python's."""
    for name in ("~photo.png", "~config.py"):
        Path(name).touch()
    assert [s.path for s in find_sources(["~photo.png"], "out")] == [Path("~photo.png")]
    assert find_config("~config.py") == Path("~config.py")


def test_a_retriever_names_no_classes():
    cfg = Config(dict(model=dict(type="ImageToImageRetriever"), default_scope="mmpretrain"))
    step = dict(type="LoadImageFromFile")
    cfg.test_dataloader = dict(dataset=dict(pipeline=[step]))
    with pytest.raises(InputError, match="ImageRetrievalInferencer"):
        Predictor(SimpleNamespace(cfg=cfg, dataset_meta=dict(classes=["a"])))

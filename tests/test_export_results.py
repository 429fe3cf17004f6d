"""Results of exported models beside the toolboxes' own: decoding, NMS, RoI heads, the runner."""

import json
import os
import pickle
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from exports import CLASSIFIER, DETECTORS, FCN, save, segmentor, two_stage
from helpers import randomise
from mmdet.models import StandardRoIHead
from mmengine.config import Config
from mmengine.structures import InstanceData
from mmpretrain.structures import DataSample
from pycocotools import mask as coco_mask
from tasks import ROOT, RTMDET, TASKS
from torchvision.ops import batched_nms

from mmdualtoken.errors import InputError
from mmdualtoken.export import compare, detection, raw_outputs, runner
from mmdualtoken.export.measure import build_model
from mmdualtoken.export.results import Results, pipeline_steps
from mmdualtoken.inference.predictor import Preparer


def random_image(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def random_boxes(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = 80 * torch.rand(*shape, 2, generator=generator)
    return torch.cat([corner, corner + 5 + 30 * torch.rand(*shape, 2, generator=generator)], -1)


# ---------------------------------------------------------------- inside the graph, run eagerly


def test_nms_keeps_what_torchvision_keeps():
    boxes, scores = random_boxes(2, 60), torch.rand(2, 3, 60)
    found = detection.nms(boxes, scores, 0.4, 0.2)
    for image in range(2):
        flat, groups = scores[image].flatten(), torch.arange(3).repeat_interleave(60)
        kept = batched_nms(boxes[image].repeat(3, 1), flat, groups, 0.4)
        kept = {(int(groups[k]), int(k) % 60) for k in kept if flat[k] > 0.2}
        assert {(c, n) for i, c, n in found.tolist() if i == image} == kept
    assert 0 < len(found) < (scores > 0.2).sum()


class Eager(torch.nn.Module):
    """Results of a module in the data samples of the toolbox, without a file."""

    def __init__(self, results, scope):
        super().__init__()
        self.results, self.scope = results, scope

    def test_step(self, data):
        images = torch.stack(list(data["inputs"]))
        outputs = self.results(images)
        for i, sample in enumerate(data["data_samples"]):
            self.fill(sample, *(output[i] for output in outputs))
        return data["data_samples"]

    def fill(self, sample, first, labels=None, masks=None):
        if self.scope == "mmdet":
            there = labels >= 0
            found = InstanceData(
                bboxes=first[there, :4], scores=first[there, 4], labels=labels[there]
            )
            if masks is not None:
                pairs = zip(masks[there].numpy(), found.bboxes.numpy(), strict=True)
                pasted = [runner.paste(*pair, sample.ori_shape) >= 0.5 for pair in pairs]
                found.masks = torch.from_numpy(np.array(pasted))
            sample.pred_instances = found
        elif self.scope == "mmseg":
            from mmengine.structures import PixelData

            sample.pred_sem_seg = PixelData(data=first[None].long())
        else:
            sample.set_pred_score(first)


def agreement(cfg):
    """Results from pixels, beside predict, on images of random noise."""
    model = randomise(build_model(cfg))
    results = Results(model, cfg, pixels=True).eval()
    images = [random_image(90, 120, results.channels, seed) for seed in range(2)]
    return compare.compare(model, Eager(results, cfg.default_scope), cfg, images)


@pytest.mark.parametrize("name", DETECTORS)
def test_detections_are_those_of_predict(name):
    found = agreement(DETECTORS[name]())
    assert found.passed and found.count >= 15, found
    assert found.ties + found.wrong <= found.count // 20, found
    assert (found.mask_iou is not None) == (name in ("mask", "cascade"))


@pytest.mark.parametrize("change", ["agnostic", "softmax", "per_class"])
def test_detections_by_other_settings(change):
    cfg = DETECTORS["retinanet" if change != "per_class" else "faster"]()
    if change == "agnostic":
        cfg.model.test_cfg.nms.class_agnostic = True
    elif change == "softmax":
        cfg.model.bbox_head.loss_cls = dict(type="CrossEntropyLoss", use_sigmoid=False)
    else:
        cfg.model.test_cfg.rcnn.update(score_thr=0.3, max_per_img=50)
    found = agreement(cfg)
    assert found.passed and found.count >= 10, found


def narrow_minded(model):
    """A model that takes multiples of 32 alone, as RTMDet's neck does."""
    extract = model.extract_feat

    def extract_feat(images):
        if any(side % 32 for side in images.shape[2:]):
            raise RuntimeError("Sizes of tensors must match")
        return extract(images)

    model.extract_feat = extract_feat
    return model


@pytest.mark.parametrize("make", [DETECTORS["retinanet"], segmentor])
def test_padding_that_the_network_needs(make):
    """Where the config pads in its pipeline, the file does it for any size, as `predict` then."""
    cfg = make()
    cfg.model.data_preprocessor.pop("pad_size_divisor", None)
    model = narrow_minded(randomise(build_model(cfg)))
    results = Results(model, cfg, pixels=True).eval()
    assert results.preprocessing.divisor == 32
    images = [random_image(90, 120, 3, seed) for seed in range(2)]
    found = compare.compare(model, Eager(results, cfg.default_scope), cfg, images)
    assert found.passed and found.count >= 15, found


def test_an_image_without_objects_gets_one_empty_row():
    cfg = DETECTORS["mask"]()
    cfg.model.test_cfg.rcnn.score_thr = 1.0
    results = Results(randomise(build_model(cfg)), cfg).eval()
    dets, labels, masks = results(torch.zeros(2, 3, 75, 125))
    assert dets.shape == (2, 1, 5) and not dets.any()
    assert labels.tolist() == [[-1], [-1]] and masks.shape[:2] == (2, 1)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_labels_and_scores_are_those_of_predict(task, channels):
    cfg = Config.fromfile(TASKS[task][0])
    cfg.model.backbone.in_channels = channels
    norm = dict(mean=[90.0], std=[60.0]) if channels == 1 else dict(mean=None, std=None)
    cfg.model.data_preprocessor.update(norm, to_rgb=False) if task == "classification" else (
        cfg.model.data_preprocessor.update(norm)
    )
    found = agreement(cfg)
    assert found.passed and found.worst < 1e-3, found


def test_binary_heads_use_their_threshold():
    cfg = segmentor(num_classes=2, out_channels=1, threshold=0.6)
    cfg.model.decode_head.loss_decode.use_sigmoid = True
    model = randomise(build_model(cfg))
    results = Results(model, cfg).eval()
    assert "sigmoid > 0.6" in results.note
    image = torch.randn(1, 3, 75, 125)
    (labels,) = results(image)
    logits = torch.nn.functional.interpolate(
        model(image, mode="tensor"), (75, 125), mode="bilinear", align_corners=False
    )
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.bool(), logits[:, 0].sigmoid() > 0.6)
    assert 0 < labels.float().mean() < 1


# ---------------------------------------------------------------- refused by name


SEESAW = dict(type="SeesawLoss", num_classes=4, loss_weight=1.0)


class OwnRoIHead(StandardRoIHead):
    """A head that ends in its own way."""

    def predict_bbox(self, *args, **kwargs):
        raise NotImplementedError


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(test_cfg=dict(rcnn=dict(nms=dict(type="soft_nms")))), "roi_head (StandardRoIHead)"),
        (
            dict(roi_head=dict(bbox_head=dict(loss_cls=dict(_delete_=True, **SEESAW)))),
            "roi_head.bbox_head (Shared2FCBBoxHead) turns scores into classes by its SeesawLoss",
        ),
        (dict(roi_head=dict(type=OwnRoIHead)), "roi_head (OwnRoIHead) has its own predict_bbox()"),
        (
            dict(roi_head=dict(mask_roi_extractor=dict(type="GenericRoIExtractor"))),
            "roi_head.mask_roi_extractor (GenericRoIExtractor) has its own forward()",
        ),
    ],
)
def test_detectors_that_end_otherwise_are_refused(change, said):
    cfg = two_stage()
    cfg.merge_from_dict(dict(model=change))
    model = build_model(cfg)
    with pytest.raises(InputError) as caught:
        Results(model, cfg)
    assert said in str(caught.value) and "--raw-outputs" in str(caught.value)


def test_rtmdet_ins_is_refused():
    cfg = Config.fromfile(RTMDET)
    with pytest.raises(InputError, match=r"bbox_head \(RTMDetInsSepBNHead\) has its own predict"):
        Results(build_model(cfg), cfg)


def test_sliding_windows_are_refused():
    cfg = Config.fromfile(FCN)
    cfg.model.test_cfg = dict(mode="slide", crop_size=(64, 64), stride=(32, 32))
    with pytest.raises(InputError, match="model.test_cfg.mode=whole"):
        Results(build_model(cfg), cfg)


# ---------------------------------------------------------------- comparing


CUT = dict(nms=dict(iou_threshold=0.5), score_thr=0.05, max_per_img=100)


def objects(boxes, scores, labels, **more):
    boxes = torch.tensor(boxes, dtype=torch.float32)
    return InstanceData(
        bboxes=boxes, scores=torch.tensor(scores), labels=torch.tensor(labels), **more
    )


def test_differences_of_objects_are_found():
    boxes = [[0, 0, 20, 20], [40, 40, 60, 60]]
    one = objects(boxes, [0.9, 0.8], [0, 1])
    same = compare.compare_objects(one, objects(boxes[::-1], [0.8, 0.9], [1, 0]), CUT)
    assert same.passed and (same.count, same.wrong, same.worst) == (2, 0, 0)
    moved = [[0, 0, 20, 20.02], boxes[1]]
    for other in (
        objects(moved, [0.9, 0.8], [0, 1]),
        objects(boxes, [0.9, 0.7998], [0, 1]),
        objects(boxes, [0.9, 0.8], [0, 2]),
    ):
        found = compare.compare_objects(one, other, CUT)
        assert not found.passed and found.wrong == 2
    assert compare.compare_objects(one, objects(boxes[:1], [0.9], [0]), CUT).wrong == 1


def test_ties_are_no_differences():
    close = [[0, 0, 30, 10], [10, 0, 40, 10]]  # IoU 0.5
    both = objects(close, [0.9, 0.8], [0, 0])
    found = compare.compare_objects(both, objects(close[:1], [0.9], [0]), CUT)
    assert found.passed and (found.ties, found.wrong) == (1, 0)
    apart = objects([close[0], [100, 0, 130, 10]], [0.9, 0.05005], [0, 0])
    assert compare.compare_objects(apart, objects(close[:1], [0.9], [0]), CUT).ties == 1


def test_differences_of_masks_are_found():
    masks = torch.zeros(1, 40, 40, dtype=torch.bool)
    masks[:, :30, :30] = True
    other = masks.clone()
    other[0, 0, :2] = False
    one, two = (objects([[0, 0, 30, 30]], [0.9], [0], masks=m) for m in (masks, other))
    assert compare.compare_objects(one, one, CUT).mask_iou == 1
    found = compare.compare_objects(one, two, CUT)
    assert found.mask_iou == pytest.approx(898 / 900) and not found.passed
    two.near = masks ^ other
    assert compare.compare_objects(one, two, CUT).mask_iou == 1
    one.masks[:], two.masks[:], two.near[:] = True, False, False
    found = compare.compare_objects(one, two, CUT)
    assert found.mask_iou == 0 and not found.passed


@pytest.mark.parametrize("error, passed", [(5e-5, True), (2e-4, False), (np.nan, False)])
def test_one_wrong_score_of_a_thousand_fails(error, passed):
    """No allowance of 1 in 50: scores, unlike objects, are no ties."""
    scores = torch.full((1000,), 1e-3)
    other = scores.clone()
    other[7] += error
    samples = [DataSample().set_pred_score(s) for s in (scores, other)]
    assert compare.compare_samples(*samples, {}).passed == passed


# ---------------------------------------------------------------- the runner


def runner_of(cfg, **meta):
    """The runner's model without a file."""
    model = object.__new__(runner.Model)
    model.meta = dict(pipeline=json.loads(json.dumps(pipeline_steps(cfg))), **meta)
    return model


def run_main(monkeypatch, capsys, model, *inputs):
    """Run the runner's command with this model: its exit status and what it said."""
    monkeypatch.setattr(runner, "Model", lambda *_: model)
    monkeypatch.setattr("sys.argv", ["runner.py", "model.onnx", *inputs, "--out", "found"])
    with pytest.raises(SystemExit) as end:
        runner.main()
    return end.value.code, capsys.readouterr().err


PIPELINES = dict(
    keep_ratio=[dict(type="Resize", scale=(133, 80), keep_ratio=True)],
    fixed=[dict(type="Resize", scale=(70, 50), keep_ratio=False)],
    edge=[
        dict(type="ResizeEdge", scale=73, edge="short", interpolation="bicubic"),
        dict(type="RandomJPEG", quality=(75, 75)),
        dict(type="CenterCrop", crop_size=64),
    ],
    square=[
        dict(type="Resize", scale=(96, 96), keep_ratio=True),
        dict(type="Pad", size=(96, 96), pad_val=dict(img=(114, 114, 114))),
    ],
    divisor=[dict(type="Pad", size_divisor=32)],
    to_square=[dict(type="Pad", pad_to_square=True, pad_val=7)],
)


@pytest.mark.parametrize("size", [(75, 125), (131, 67)])
@pytest.mark.parametrize("name", PIPELINES)
def test_runner_prepares_as_the_pipeline(name, size):
    task = "classification" if name == "edge" else "detection"
    cfg = Config.fromfile(TASKS[task][0])
    pipeline = cfg.test_dataloader.dataset.pipeline
    pack = [step for step in pipeline if step.type.startswith("Pack")]
    cfg.test_dataloader.dataset.pipeline = [pipeline[0], *PIPELINES[name], *pack]
    image = random_image(*size)
    prepared, scales = runner_of(cfg).prepare(image)
    expected = Preparer(cfg).prepare(image)
    np.testing.assert_array_equal(prepared, expected["inputs"].permute(1, 2, 0).numpy())
    if "Resize" in str(PIPELINES[name]) and task == "detection":
        np.testing.assert_allclose(scales[:2], expected["data_samples"].scale_factor, rtol=1e-6)


def test_runner_refuses_other_steps():
    cfg = Config.fromfile(CLASSIFIER)
    cfg.test_dataloader.dataset.pipeline[1] = dict(type="Resize", scale=64, backend="pillow")
    with pytest.raises(InputError, match="'backend': 'pillow'.*without --with-runner"):
        pipeline_steps(cfg)


def test_runner_keeps_what_it_can(here, monkeypatch, capsys):
    """Photos that fail are left out, files of one name are kept apart, labels may have 16 bits."""
    for name in ("refused/photo.jpg", "a/photo.jpg", "b/photo.jpg", "c/photo.pgm"):
        Path(name).parent.mkdir()
        cv2.imwrite(name, random_image(20, 30)[..., : 1 if "pgm" in name else 3])
    Path("broken.jpg").touch()
    model = runner_of(segmentor(), imread_flag=1, read_as="", channel_order="bgr")
    model.task, model.classes = "segmentation", [str(i) for i in range(301)]
    later = []

    def infer(images):
        if not later:
            later.append(True)
            raise RuntimeError("too narrow.\nat line 3")
        return [(np.full(images[0].shape[:2], 300, np.int64),)]

    model.infer = infer
    inputs = ["refused/photo.jpg", "a/photo.jpg", "broken.jpg", "b/photo.jpg", "c"]
    status, said = run_main(monkeypatch, capsys, model, *inputs)
    said = said.splitlines()
    assert status == 1 and "left out: broken.jpg is no image" in said[1]
    assert said[0] == "runner: left out: photo.jpg: RuntimeError too narrow."
    names = [line["image"] for line in lines_of("found")]
    assert names == ["photo.jpg", "photo_2.jpg", "c/photo.pgm.png"]
    for name in names:
        assert cv2.imread(f"found/{name}").shape == (20, 30, 3)
        assert (cv2.imread(f"found/{name}.png", cv2.IMREAD_UNCHANGED) == 300).all()


def read_by_runner(tmp_path, monkeypatch, *names, imread_flag=1, read_as=""):
    """What the runner reads in a folder with a photo, a hidden one and a video, by its names."""
    monkeypatch.chdir(tmp_path)
    for folder in ("photos/deep", "photos/.run-1", "photos/empty"):
        Path(folder).mkdir(parents=True)
    for name in ("photos/deep/a.png", "photos/.run-1/b.png", "photos/._a.png"):
        cv2.imwrite(name, random_image(20, 30))
    writer = cv2.VideoWriter("photos/clip.mp4", cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for _ in range(2):
        writer.write(random_image(48, 64))
    writer.release()
    os.rename("photos/clip.mp4", "photos/film.MP4")
    monkeypatch.chdir(tmp_path / "photos" / "deep")
    model = runner_of(segmentor(), imread_flag=str(imread_flag), read_as=read_as)
    return dict(runner.read_all(model, names))


def test_runner_reads_folders(tmp_path, monkeypatch):
    """Videos in them, too, nothing that is hidden; results get names below --out."""
    found = read_by_runner(tmp_path, monkeypatch, "..", "../empty", "../deep")
    frames = [f"photos/film.MP4_00000{i}.jpg" for i in (0, 1)]
    assert list(found) == ["photos/deep/a.png", *frames, "../empty", "deep/a.png"]
    assert found["../empty"] == "../empty has no photo or video"
    assert found[frames[0]].shape == (48, 64, 3) and found["deep/a.png"].shape == (20, 30, 3)


@pytest.mark.parametrize("flag", [0, 128])
def test_runner_reads_frames_as_photos(tmp_path, monkeypatch, flag):
    """Of a model for grey images, in the config's type."""
    found = read_by_runner(tmp_path, monkeypatch, "..", imread_flag=flag, read_as="float32")
    assert {image.dtype.name for image in found.values()} == {"float32"}
    assert sorted(image.shape for image in found.values()) == [(20, 30), (48, 64), (48, 64)]


def test_runner_takes_any_file_name(here, monkeypatch, capsys):
    """OpenCV ends the process at a name that is no UTF-8."""
    photo, video = (os.fsdecode(b"caf\xe9") + ending for ending in (".png", ".mp4"))
    Path(photo).write_bytes(cv2.imencode(".png", random_image(20, 30))[1].tobytes())
    Path(video).touch()
    model = runner_of(segmentor(), imread_flag=1, read_as="", channel_order="bgr")
    model.task, model.classes = "segmentation", ["a"]
    model.infer = lambda images: [(np.zeros(images[0].shape[:2], np.uint8),)]
    status, said = run_main(monkeypatch, capsys, model, photo, video)
    assert status == 1 and "mp4' is no UTF-8, which OpenCV needs" in said
    assert [line["image"] for line in lines_of("found")] == [photo]
    assert sorted(os.listdir("found")) == sorted([photo, f"{photo}.png", "results.jsonl"])


def test_runner_chooses_the_runtime_by_the_ending(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(runner, "load", lambda *args: asked.append(args[:2]) or 1 / 0)
    for name in ("small.xml", "model.onnx"):
        with pytest.raises(ValueError, match="no file with results"):
            runner.Model(name)
    assert asked == [("small.xml", "openvino"), ("model.onnx", "onnxruntime")]


def test_flags_that_ignore_orientation():
    """They are cv2's, and images of 16 bits become 8 bits as in the config's pipeline."""
    for color_type, flag in (("color_ignore_orientation", 129), ("unchanged", -1), ("color", 1)):
        cfg = Config.fromfile(CLASSIFIER)
        cfg.test_dataloader.dataset.pipeline[0].color_type = color_type
        assert Results(build_model(cfg), cfg).describe(cfg)["imread_flag"] == str(flag)


def test_runner_whose_model_fails_on_all(here, monkeypatch, capsys):
    """As it would without end on a camera."""
    frames = ((f"0_{i}.jpg", random_image(20, 30)) for i in range(1000))
    monkeypatch.setattr(runner, "read_all", lambda *_: frames)
    model = runner_of(segmentor(), channel_order="bgr")
    model.infer = lambda images: 1 / 0
    status, said = run_main(monkeypatch, capsys, model, "0")
    assert status == 2 and said.count("left out") == 9
    assert said.endswith("runner: 0_9.jpg: ZeroDivisionError division by zero.\n")


def test_runner_writes_what_the_encoder_takes(tmp_path):
    with pytest.raises(ValueError, match="65510x1 pixels are too many for .jpg"):
        runner.write(tmp_path / "long.jpg", np.zeros((1, 65510, 3), np.uint8))


def test_runner_stopped_by_the_user(here, monkeypatch, capsys):
    """A camera has no end."""

    def frames(*_):
        yield "0_000000.jpg", random_image(20, 30)
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "read_all", frames)
    image = random_image(20, 30)
    model = lambda *_: (dict(height=20), image, None)  # noqa: E731
    assert run_main(monkeypatch, capsys, model, "0")[0] == 0
    assert lines_of("found") == [dict(image="0_000000.jpg", height=20)]


def test_runner_without_a_pipeline(here, monkeypatch, capsys):
    model = runner_of(Config.fromfile(CLASSIFIER), imread_flag=1, read_as="")
    del model.meta["pipeline"]
    cv2.imwrite("photo.jpg", random_image(8, 8))
    status, said = run_main(monkeypatch, capsys, model, "photo.jpg")
    assert status == 2 and "export it with --with-runner" in said


def test_runner_pastes_masks_as_mmdet():
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    boxes = torch.tensor([[3.2, 4.7, 50.1, 30.9], [-4.0, 20.5, 12.3, 90.0], [60.0, 5, 60.4, 5.2]])
    masks = torch.rand(3, 28, 28)
    expected, _ = _do_paste_mask(masks[:, None], boxes, 60, 80, skip_empty=False)
    found = [
        runner.paste(m, b, (60, 80)) for m, b in zip(masks.numpy(), boxes.numpy(), strict=True)
    ]
    np.testing.assert_allclose(np.array(found), expected.numpy(), atol=1e-4)


# ---------------------------------------------------------------- whole files


def export_trained(tool, cfg, classes, *options):
    """Write model.py, trained.pth and model.onnx; returns what the tool printed."""
    save(cfg, classes=classes)
    command = ("export", "model.py", "trained.pth", "model.onnx", "--rounds", "0", *options)
    status, printed = tool(*command)
    assert status == 0, printed
    return printed


#: Runs a script as where neither PyTorch nor any mm package is installed.
ALONE = """
import runpy, sys
missing = "torch torchvision mmengine mmcv mmdet mmseg mmpretrain mmdualtoken PIL".split()
sys.modules.update(dict.fromkeys(missing))
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def run_alone(*args):
    command = [sys.executable, "-c", ALONE, "runner.py", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def lines_of(folder):
    return [json.loads(line) for line in Path(folder, "results.jsonl").read_text().splitlines()]


@pytest.mark.timeout(1800)  # an export, two evaluations and two predictions
@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_detector_in_one_file(runtime, onnx, project, tool):
    """Exported, evaluated and run without PyTorch: the figures and objects of the toolbox."""
    pytest.importorskip(runtime, reason=f"{runtime} is not installed")
    classes = ("disc", "square", "triangle", "star")
    options = ("--raw", "--with-runner", "--runtime", runtime)
    printed = export_trained(tool, DETECTORS["mask"](), classes, *options)
    assert re.search(r"ONNX Runtime: \d\d objects.* 0 others that differ, IoU of masks", printed)
    options = ("--runtime", runtime, "--compare-with", "trained.pth", "--out", "file.pkl")
    status, printed = tool("test", "model.py", "model.onnx", *options)
    assert status == 0, printed
    table = re.findall(r"^(coco/\w+) +([\d.-]+) +([\d.-]+) +[+-]", printed, re.M)
    assert {"coco/bbox_mAP", "coco/segm_mAP"} <= {name for name, *_ in table}
    for _, pytorch, deployed in table:
        assert float(deployed) == pytest.approx(float(pytorch), abs=1e-3)
    # Random weights find nothing that counts: the predictions behind the figures, too.
    assert tool("test", "model.py", "trained.pth", "--out", "pytorch.pkl")[0] == 0
    files = (pickle.loads(Path(f"{name}.pkl").read_bytes()) for name in ("file", "pytorch"))
    for one, two in zip(*files, strict=True):
        one, two = one["pred_instances"], two["pred_instances"]
        assert len(one["labels"]) > 0 and torch.equal(one["labels"], two["labels"])
        torch.testing.assert_close(one["bboxes"], two["bboxes"], rtol=0, atol=0.01)
        torch.testing.assert_close(one["scores"], two["scores"], rtol=0, atol=1e-4)
    photos = "data/scenes/val2017"
    status, printed = run_alone(
        *("model.onnx", photos, "--out", "found", "--score-thr", 0, "--runtime", runtime)
    )
    assert status == 0, printed
    command = ("predict", "model.py", "trained.pth", photos, "--out", "own", "--score-thr", 0)
    assert tool(*command)[0] == 0
    found = lines_of("found")
    assert len(found) == 6
    for line in found:
        own = json.loads(Path("own/preds", Path(line["image"]).stem + ".json").read_text())
        assert line["labels"] == own["labels"] and len(own["labels"]) > 0
        np.testing.assert_allclose(line["bboxes"], own["bboxes"], atol=0.01)
        np.testing.assert_allclose(line["scores"], own["scores"], atol=1e-4)
        for mask, other in zip(line["masks"], own["masks"], strict=True):
            one = coco_mask.decode(coco_mask.frPyObjects(mask, *mask["size"]))
            two = coco_mask.decode(other)
            assert (one != two).sum() <= 0.001 * max(two.sum(), 1000)
        picture = cv2.imread(f"found/{line['image']}")
        assert picture.shape[:2] == (line["height"], line["width"])


@pytest.mark.slow
def test_more_proposals_than_torch_can_count():
    """Of a thousand, torch.export cannot tell whether the levels have as many boxes."""
    cfg = two_stage(masks=False)
    cfg.model.test_cfg.rpn.update(nms_pre=1000, max_per_img=1000)
    program = raw_outputs.record(Results(build_model(cfg), cfg).eval())
    dets, labels = program.module()(torch.rand(1, 3, 320, 416))
    assert dets.shape == (*labels.shape, 5) and len(dets) == 1


@pytest.mark.slow
def test_segmentor_in_one_file(onnx, project, tool):
    cfg = segmentor()
    cfg.test_dataloader.dataset.pipeline.pop(1)  # at its own size there is nothing to resize
    classes = ("background", "disc", "square", "triangle", "star")
    export_trained(tool, cfg, classes, "--with-runner")
    photos = "data/ade/images/validation"
    status, printed = run_alone("model.onnx", photos, "--out", "found")
    assert status == 0, printed
    assert tool("predict", "model.py", "trained.pth", photos, "--out", "own")[0] == 0
    for line in lines_of("found"):
        labels = cv2.imread(f"found/{line['image']}.png", cv2.IMREAD_UNCHANGED)
        own = cv2.imread(f"own/preds/{Path(line['image']).stem}.png", cv2.IMREAD_UNCHANGED)
        assert (labels != own).mean() < 1e-3
        assert sum(entry["share"] for entry in line["classes"]) == pytest.approx(1)


def test_an_exported_file_takes_one_process(project, tool):
    Path("model.onnx").touch()
    status, printed = tool("test", CLASSIFIER, "model.onnx", "--launcher", "pytorch")
    assert status == 2 and "an exported file is tested by one process" in printed


def test_names_of_classes_without_data(monkeypatch):
    """Random weights, to try: the runner needs a name for each class."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from export import load

    cfg = Config.fromfile(CLASSIFIER)
    cfg.test_dataloader.dataset.pop("metainfo", None)
    assert load(cfg, "none")[1] == [f"class {i}" for i in range(cfg.model.head.num_classes)]


@pytest.mark.slow
def test_bad_input_of_the_runner_and_of_test(onnx, project, tool):
    classes = ("disc", "square", "star", "triangle")
    export_trained(tool, Config.fromfile(CLASSIFIER), classes, "--with-runner")
    Path("text.onnx").write_text("no model")
    Path("empty.jpg").touch()
    Path("broken.mp4").write_bytes(b"no video")
    before = sorted(Path().iterdir())
    for args, said in (
        (("text.onnx", "data"), "text.onnx, no file with results that onnxruntime runs"),
        (("model.onnx", "empty.jpg"), "left out: empty.jpg is no image that OpenCV reads"),
        (("model.onnx", "broken.mp4"), "broken.mp4: no photo, folder or video"),
        (("model.onnx", "data", "--out", "data"), "--out data exists already"),
    ):
        out = () if "--out" in args else ("--out", "found")
        status, printed = run_alone(*args, *out)
        assert status == 2 and said in printed and "Traceback" not in printed, printed
    status, printed = tool("test", FCN, "model.onnx")
    assert status == 2 and "model.onnx is for classification; the config is of mmseg" in printed
    status, printed = tool("test", CLASSIFIER, "text.onnx")
    assert status == 2 and "Write one with tools/export.py" in printed
    assert sorted(path for path in Path().iterdir() if path.name != "work_dirs") == before
    status, printed = run_alone("model.onnx", "data/imagenet/val", "--out", "found")
    assert status == 0, printed
    line = lines_of("found")[0]
    assert line["pred_class"] in classes and len(line["top"]) == 4


@pytest.mark.slow
def test_a_file_that_finds_other_objects_is_not_written(onnx, project, tool, monkeypatch):
    record = raw_outputs.record

    def record_another(results, *args):
        results = deepcopy(results)
        results.run = results._classify
        results.model.head.fc.bias[0] += 1
        return record(results, *args)

    monkeypatch.setattr(raw_outputs, "record", torch.no_grad()(record_another))
    status, printed = tool("export", CLASSIFIER, "none", "model.onnx")
    assert status == 2 and "what ONNX Runtime finds on photos differs" in printed, printed
    assert not Path("model.onnx").exists()

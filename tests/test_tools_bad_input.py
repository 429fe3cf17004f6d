"""What tools/train.py and tools/test.py say to bad data, configs and arguments: one paragraph with
path and remedy, exit status 2, no traceback.
"""

import importlib
import json
import shutil
import sys
import uuid
from pathlib import Path

import pytest
import torch
from mmcv.cnn import build_norm_layer
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import default_collate
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from tasks import DETECTOR, TASKS
from torch.utils.data import DataLoader
from toy_training import ToyModel

from mmdualtoken import errors
from mmdualtoken.errors import explain


def touch(name):
    Path(name).touch()
    return name


def test_category_that_a_file_lacks(project, tool):
    """mmdet would number the other classes without it, and stop in the evaluation."""
    source = (project / "data").resolve()
    (project / "data").unlink()
    shutil.copytree(source / "scenes", "data/scenes")
    file = Path("data/scenes/annotations/instances_train2017.json")
    content = json.loads(file.read_text())
    content["categories"] = [c for c in content["categories"] if c["name"] != "star"]
    file.write_text(json.dumps(content))
    status, printed = tool("train", DETECTOR)
    assert status == 2 and "has no category 'star'" in printed and "'triangle'" in printed


@pytest.mark.parametrize(
    "args, message",
    [
        (["nowhere.pth"], "nowhere.pth does not exist"),
        (["there.pth", "--out", "results.json"], ".pkl"),
        (["there.pth", "--out", "taken.pkl"], "taken.pkl exists already"),
        (
            ["there.pth", "--show-dir", "seen", "--launcher", "pytorch"],
            "of several processes only the first would draw",
        ),
        (["there.pth", "--runtime", "openvino"], "are for .onnx and .xml files"),
        (["there.onnx", "--tta"], "--tta is for checkpoints alone"),
    ],
)
def test_bad_arguments_of_test(args, message, project, tool):
    for name in ("there.pth", "there.onnx", "taken.pkl"):
        touch(name)
    status, printed = tool("test", DETECTOR, *args)
    assert status == 2 and message in printed


@pytest.mark.parametrize(
    "option, said",
    [
        ("model.backbone.alpha=7", ["DualTokenViT: alpha=7; allowed is a number, 0 to 1"]),
        ("model.neck.num_outs=3", ["DualTokenFPN: num_outs=3 is too small"]),
        ("model.backbone.type=DualTokenViTStride4", ["use MMDetection's FPN, type='FPN'"]),
        (
            "model.neck.type=DualTokenFpn",
            ["The config names DualTokenFpn, which is not in the mmdet::model registry."],
        ),
    ],
)
def test_settings_of_the_model(option, said, project, tool):
    """Also where it is the first batch that shows it."""
    status, printed = tool("train", DETECTOR, "--cfg-options", option)
    assert status == 2 and all(text in printed for text in said)


TOO_FEW = "train_dataloader.batch_size=9 train_dataloader.drop_last=True"
NOTHING_LEFT = [
    (
        "segmentation",
        "val_dataloader.dataset.img_suffix=.bmp",
        "BaseSegDataset data/ade/images/validation has no image left: img_suffix='.bmp'.",
    ),
    (
        "classification",
        "train_dataloader.dataset.extensions=('.bmp',)",
        "data/imagenet/train'}. Supported extensions are: .bmp. Move the images there",
    ),
    ("classification", TOO_FEW, "gets 8 of the data set's 8 images, fewer than batch_size=9"),
    ("segmentation", TOO_FEW, "train_dataloader gives no batch"),
    ("classification", "train_dataloader.sampler.type=InfiniteSampler", "never ends one"),
]


@pytest.mark.parametrize("task, options, message", NOTHING_LEFT)
def test_nothing_left_to_train(task, options, message, project, tool):
    """No checkpoint either: MMEngine writes one after an epoch without a batch."""
    args = ["--work-dir", "run", "--cfg-options", *options.split()]
    status, printed = tool("train", TASKS[task][0], *args)
    assert status == 2 and message in printed
    assert not list(Path("run").glob("*.pth"))


def test_endless_sampler_of_few_images(project, tool):
    """mmseg's own configs have it: drop_last then leaves nothing out."""
    options = ["sampler.type=InfiniteSampler", "batch_size=9", "drop_last=True"]
    options = ["--cfg-options", *(f"train_dataloader.{option}" for option in options)]
    assert tool("train", TASKS["segmentation"][0], *options)[0] == 0


VISUALIZER = "visualizer = dict(vis_backends=[dict(type='WandbVisBackend')])"
ALBU = """
train_pipeline = _base_.train_pipeline
train_pipeline.insert(3, dict(type="Albu", transforms=[dict(type="RandomBrightnessContrast")]))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
"""


@pytest.mark.parametrize("name", ["train", "check_data"])
def test_optional_package_is_missing(name, project, tool, monkeypatch):
    transforms = importlib.import_module("mmdet.datasets.transforms.transforms")
    monkeypatch.setattr(transforms, "albumentations", None)
    Path("albu.py").write_text(f"_base_ = {DETECTOR!r}\n{ALBU}")
    status, printed = tool(name, "albu.py")
    assert status == 2 and "Traceback" not in printed
    assert (
        "The config names Albu, which needs a package that is not installed: albumentations is "
        "not installed (pip install albumentations). Install the package, or take Albu out"
    ) in printed


def test_package_of_a_visualizer_is_missing(project, tool, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    Path("tracked.py").write_text(f"_base_ = {DETECTOR!r}\n{VISUALIZER}\n")
    status, printed = tool("train", "tracked.py")
    assert status == 2 and "Traceback" not in printed
    assert (
        'names WandbVisBackend, which needs a package that is not installed: Please run "pip '
        'install wandb"' in printed
    )


def seg_preprocessor(training, *heights):
    import mmseg.models  # noqa: F401 registers
    from mmseg.structures import SegDataSample

    init_default_scope("mmseg")
    part = MODELS.build(dict(type="SegDataPreProcessor"))
    labels = PixelData(data=torch.zeros(1, 4, 4))
    samples = [SegDataSample(gt_sem_seg=labels) for _ in heights]
    images = [torch.zeros(3, height, 4, dtype=torch.uint8) for height in heights]
    part(dict(inputs=images, data_samples=samples), training)


def runner(folder, **settings):
    return Runner(ToyModel(), str(folder), experiment_name=uuid.uuid4().hex, **settings)


class Photo(list):
    """A data set of one image, read as the toolboxes do."""

    def __getitem__(self, index):
        return LoadImageFromFile()(dict(img_path=super().__getitem__(index)))


def load_photo(path, workers, content=None):
    if content is not None:
        path.write_bytes(content)
    next(iter(DataLoader(Photo([str(path)]), num_workers=workers)))


def _transform_inputs(maps, in_index):
    """As mmseg's heads take their maps."""
    return [maps[i] for i in in_index]


UNUSABLE = {
    "gone": (lambda folder: load_photo(folder / "a.jpg", 0), "is gone. `python tools/check_data"),
    "gone, in a worker": (lambda folder: load_photo(folder / "a.jpg", 1), "/a.jpg')"),
    "cut off": (lambda folder: load_photo(folder / "a.jpg", 0, b"cut"), "is cut off or damaged"),
    "cut, in a worker": (
        lambda folder: load_photo(folder / "a.jpg", 1, b"cut"),
        "a training with --resume. (failed to load image: /",
    ),
    "images of two sizes": (
        lambda _: default_collate([torch.zeros(3, 4, 4), torch.zeros(3, 5, 4)]),
        "got [3, 4, 4] at entry 0",
    ),
    "one pixel": (lambda _: torch.nn.BatchNorm2d(2)(torch.zeros(1, 2, 1, 1)), "batch_size to 2"),
    "no size": (lambda _: seg_preprocessor(True, 4, 5), "Set size of the model's"),
    "evaluated together": (lambda _: seg_preprocessor(False, 4, 5), "val_dataloader.batch_size=1"),
    "no argument": (lambda _: MODELS.build(dict(type="DualTokenViT", archh="tiny")), "is misspelt"),
    "no norm": (lambda _: build_norm_layer(dict(type="BatchNorm"), 4), "BN, SyncBN, GN, LN"),
    "channels": (
        lambda _: torch.nn.Conv2d(64, 4, 1)(torch.zeros(1, 48, 4, 4)),
        "[48, 96, 192] (tiny)",
    ),
    "inputs": (lambda _: torch.nn.Linear(64, 4)(torch.zeros(1, 48)), "[48, 96, 192] (tiny)"),
    "fourth map": (lambda _: _transform_inputs((1, 2, 3), [0, 3]), "in_index is at most 2"),
    "no evaluator": (lambda folder: runner(folder, val_cfg={}), "val_evaluator should be either"),
    "no training": (lambda folder: runner(folder).train(), "Please provide `train_dataloader`"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_errors_of_the_toolboxes_in_a_paragraph(name, tmp_path):
    action, words = UNUSABLE[name]
    with pytest.raises(
        (RuntimeError, ValueError, AssertionError, OSError, LookupError, TypeError)
    ) as caught:
        action(tmp_path)
    assert words in explain(caught.value)


def test_shared_memory_is_full():
    """As a container's 64 MiB soon are; many open files have another remedy."""
    text = "Caught RuntimeError in DataLoader worker process 0.\\nunable to {} (2)"
    full = text.format("allocate shared memory(shm) for file </torch_1>: Success")
    assert "docker run --shm-size=8g, or set num_workers=0" in explain(RuntimeError(full))
    files = text.format("open shared memory object </torch_1>: Too many open files")
    assert explain(RuntimeError(files)) is None


def test_config_of_mmdetection_2(project, tool):
    Path("old.py").write_text("data = dict(samples_per_gpu=2, train=dict(type='CocoDataset'))")
    status, printed = tool("train", "old.py")
    assert status == 2 and "Traceback" not in printed
    assert "old.py has data=dict(train=" in printed and "train_dataloader" in printed


def test_settings_that_are_not_needed(project, tool):
    """Without processes none persist; without a val_dataloader nothing is evaluated."""
    Path("mine.py").write_text(
        f"_base_ = {TASKS['classification'][0]!r}\nval_dataloader = None\n"
        "train_dataloader = dict(num_workers=0, persistent_workers=True, prefetch_factor=4)\n"
        "param_scheduler = dict(type='LinearLR', start_factor=0.001, by_epoch=False, end=500)\n"
    )
    status, printed = tool("train", "mine.py", "--work-dir", "w")
    assert status == 0, printed
    assert Path("w/epoch_1.pth").is_file() and not Path("w/evaluations.json").exists()
    assert "has no effect" not in printed
    assert "LinearLR ends at 500, training ends after 2 iterations: the rate only" in printed


def test_errors_that_are_no_users_mistake():
    """They keep their traceback."""

    def transform():
        torch.load("weights.pth")  # of a user's own step

    with pytest.raises(FileNotFoundError) as caught:
        transform()
    assert explain(caught.value) is None
    for error in (KeyError("x"), RuntimeError("x"), ImportError("cannot import name 'x'")):
        assert explain(error) is None
    assert explain(ModuleNotFoundError("No module named", name="mmdualtoken.x")) is None


def test_mmseg_of_the_forks_by_its_scope(monkeypatch):
    """MMEngine knows the official package's name alone; to install that one would do harm."""
    monkeypatch.setattr(errors, "find_spec", lambda name: name == "mmseg")
    text = "mmsegmentation is not installed, please install mmsegmentation manually"
    assert "/.mim/configs/" in explain(RuntimeError(text))
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    assert explain(RuntimeError(text)).startswith(
        "The config needs a package that is not installed"
    )

"""Generated data that a test may break, what the check says of it, and what the toolbox does."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.dataset import default_collate, pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope

from lab.scene_writers import write_scenes
from mmdualtoken.data.check import ERROR, check_config, check_data
from mmdualtoken.errors import InputError

CONFIGS = Path(__file__).parent / "configs"
TASKS = {
    "detection": ("maskrcnn_narrow", "coco", "data/scenes"),
    "segmentation": ("fcn_narrow", "ade20k", "data/ade"),
    "classification": ("classifier_narrow", "imagenet", "data/imagenet"),
}
# The first training image of each.
DETECTION_IMAGE = "data/scenes/train2017/000000000001.jpg"
SEGMENTATION_IMAGE = "data/ade/images/training/ADE_train_00000001.jpg"
CLASSIFICATION_IMAGE = "data/imagenet/train/disc/disc_00000001.jpg"
#: The same by task.
FIRST_IMAGES = dict(
    detection=DETECTION_IMAGE,
    segmentation=SEGMENTATION_IMAGE,
    classification=CLASSIFICATION_IMAGE,
)


def write_data(*tasks):
    """Write the data of tasks below the working directory: 4 + 4 images of 64 to 80 px."""
    for task in tasks:
        _, layout, folder = TASKS[task]
        write_scenes(layout, folder, num_train=4, num_val=4, size_range=(64, 80))


def config_file(task):
    """Path of the narrow config of a task."""
    return str(CONFIGS / f"{TASKS[task][0]}.py")


def config(task, **dataset):
    """The narrow config of a task, with other arguments for the data set of training."""
    cfg = Config.fromfile(config_file(task))
    cfg.train_dataloader.dataset.update(dataset)
    return cfg


def check(cfg, split="train"):
    """The findings of a split as (severity, file, reason)."""
    findings = [f for report in check_config(cfg, [split]) for f in report.findings]
    assert all("\n" not in f.line() for f in findings)
    return [(f.severity, f.file, f.reason) for f in findings]


def quick_error(cfg, *loaders):
    """What the quick look of tools/train.py, by default at the training data, stops with."""
    with pytest.raises(InputError) as caught:
        check_data(cfg, *(loaders or ["train_dataloader"]))
    return str(caught.value)


def toolbox_stops(cfg):
    """Whether building the data set of training or loading a sample raises, without retries."""
    init_default_scope(cfg.default_scope)
    try:
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        for index in range(len(dataset)):
            assert dataset.prepare_data(index) is not None
    except Exception:
        return True
    return False


def train_step(cfg):
    """The losses of the model on the first two samples of training."""
    init_default_scope(cfg.default_scope)
    model, dataset = MODELS.build(cfg.model), DATASETS.build(cfg.train_dataloader.dataset)
    collate = pseudo_collate if cfg.default_scope == "mmseg" else default_collate
    batch = model.data_preprocessor(collate([dataset[0], dataset[1]]), training=True)
    return model.loss(batch["inputs"], batch["data_samples"])


def expect(cfg, severity, file, words, stops):
    """The fault is found with its file and reason, nothing worse is, and the toolbox agrees.

    `stops` is whether the toolbox raises. An error at which it does not is one that training would
    learn from without a word, or at which the model stops.
    """
    found = check(cfg)
    assert [f for f in found if f[:2] == (severity, file) and words in f[2]], found
    assert (severity == ERROR) == any(f[0] == ERROR for f in found), found
    assert toolbox_stops(cfg) == stops


def expect_clean(cfg):
    """Nothing is found, and the toolbox loads everything."""
    assert check(cfg) == []
    assert not toolbox_stops(cfg)

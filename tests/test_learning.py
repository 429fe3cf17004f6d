"""The learning benchmark: what it trains on what, through the real tool."""

import importlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from learning import data, records, training
from learning.figures import model_config
from learning.rows import DEFAULT, HEAD_KEYS, ROWS
from learning.tasks import TASKS
from mmengine.registry import MODELS, DefaultScope
from narrow import ARCH

PREPARED = Path("/prepared")
LAYER_NORMS_ALONE = ("pvt_v2_b0", "edgenext_s", "mit_b0")


@pytest.fixture
def some_data(tmp_path, monkeypatch):
    """The folders of all sets, without what is in them."""
    for name in data.PREPARE:
        (tmp_path / "sets" / name).mkdir(parents=True)
    monkeypatch.setenv(data.VARIABLE, str(tmp_path / "sets"))
    return tmp_path / "sets"


def make(task="cifar10", row="dualtoken_t", **options):
    return training.Training(
        TASKS[task], ROWS[row], **{"budget": "cpu", "lr": 1e-3, "seed": 0, **options}
    )


#: One of each model: Muon's rows have those of AdamW's, some budgets those of the first.
CASES = [
    (task.name, name, budget)
    for task in TASKS.values()
    for name, row in ROWS.items()
    for i, budget in enumerate(task.budgets)
    if row.fits(task)
    and not row.muon
    and task.budgets[budget].model not in [b.model for b in [*task.budgets.values()][:i]]
]
FIRST = {
    ("deeplabv3", "small-concat"),
    ("pspnet", "small-concat"),
    ("nuclei", "small-stride4"),
    ("nuclei", "small-stride4_deep"),
    ("nuclei", "tiny-stride4_deep"),
    ("deeplabv3", "small-concat_stride4"),
    ("nuclei", "mobilevit_s-stride8"),
    ("cifar10", "pvt_v2_b0"),
    ("bccd", "dualtoken_t"),
    ("pspnet", "mobilenet_v2"),
    ("bccd_rtmdet", "cspnext_t"),
    ("segformer", "mit_b0"),
}


@pytest.mark.parametrize(
    "task, row, budget",
    [pytest.param(*case, marks=[] if case[:2] in FIRST else pytest.mark.slow) for case in CASES],
)
def test_model_builds(task, row, budget):
    """Backbone, neck and heads agree; all else of the model is that of small."""
    from mmdualtoken.export.measure import build_model, forward_once

    cfg = model_config(TASKS[task], ROWS[row], budget)
    for name in cfg.custom_imports["imports"]:
        importlib.import_module(name)
    model = build_model(cfg)
    with torch.no_grad():
        forward_once(model, cfg.default_scope, TASKS[task].size)
    ours = model_config(TASKS[task], ROWS["dualtoken_s"], budget)
    for part in ("backbone", "neck"):
        cfg.model.pop(part), ours.model.pop(part)
    for head in ("decode_head", "auxiliary_head", "head"):
        for one in (cfg.model, ours.model):
            for key in HEAD_KEYS:
                (one.get(head) or {}).pop(key, None)
    assert cfg.model == ours.model


@pytest.mark.parametrize("task", TASKS)
def test_rows_differ_in_their_backbone_alone(task, some_data):
    """Same data, augmentation, schedule and optimizer for every row."""
    ours = training.config_of(make(task, "dualtoken_s"), PREPARED)
    assert "drop_path_rate" not in ours.model.backbone or not ours.model.backbone.drop_path_rate
    for row in [*DEFAULT, "cspnext_t", "mit_b0"]:
        if not ROWS[row].fits(TASKS[task]):
            continue
        cfg = training.config_of(make(task, row), PREPARED)
        for key in ("train_dataloader", "val_dataloader", "val_evaluator", "train_cfg"):
            assert cfg[key] == ours[key]
        assert cfg.optim_wrapper == ours.optim_wrapper
        assert cfg.param_scheduler == ours.param_scheduler


@pytest.mark.parametrize(
    "task, row",
    [
        (task, name)
        for task in ("cifar10", "bccd", "bccd_rtmdet", "pspnet", "segformer")
        for name, row in ROWS.items()
        if row.group == "backbones" and row.fits(TASKS[task])
    ],
)
def test_nothing_of_a_backbone_is_frozen(task, row, some_data):
    """MMDetection's ResNet freezes its BatchNorms by default, which then normalise nothing."""
    cfg = training.config_of(make(task, row), PREPARED)
    for name in cfg.custom_imports["imports"]:
        importlib.import_module(name)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        backbone = MODELS.build(cfg.model.backbone)
    backbone.train()
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert all(norm.training for norm in norms) and (norms or row in LAYER_NORMS_ALONE)
    assert all(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize("task", ["cifar10", "bccd", "bccd_rtmdet", "pspnet"])
def test_muon_replaces_the_optimizer_alone(task, some_data):
    """Except for the ten-fold rate of the segmentors' heads, which is AdamW's."""
    theirs = training.config_of(make(task, "resnet18"), PREPARED)
    ours = training.config_of(make(task, "resnet18-muon"), PREPARED)
    decay = theirs.optim_wrapper.optimizer.weight_decay
    assert ours.optim_wrapper.optimizer == dict(type="MuonAdamW", lr=1e-3, weight_decay=decay)
    rates = [cfg.optim_wrapper.paramwise_cfg.pop("custom_keys", {}) for cfg in (theirs, ours)]
    assert rates[0].pop("head", dict(lr_mult=10.0)) == dict(lr_mult=10.0)
    assert rates[0] == rates[1]
    for cfg in (theirs, ours):
        del cfg.optim_wrapper.optimizer
    assert theirs.to_dict() == ours.to_dict()


def test_options_and_start_reach_the_backbone(some_data):
    cfg = training.config_of(make("bccd", "small-alpha0.9", start="/f.pth"), PREPARED)
    assert cfg.model.backbone.alpha == 0.9
    assert cfg.model.backbone.init_cfg.checkpoint == "/f.pth"
    assert training.config_of(make("bccd"), PREPARED).model.backbone.get("init_cfg") is None


def parts_of(cfg):
    """Files that the config trains and evaluates on, relative to where they lie."""
    files = []
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        dataset = loader.dataset
        files.append(Path(dataset.get("ann_file") or dataset.data_prefix.seg_map_path).stem)
    return files


@pytest.mark.parametrize("task", TASKS)
def test_learning_rate_is_never_chosen_on_the_reported_split(task, some_data):
    """Its trainings read the two parts of the training data, reported ones all of it."""
    choosing = training.config_of(make(task, choosing=True), PREPARED)
    assert parts_of(choosing) == ["fit", "select", "select"]
    reported = training.config_of(make(task), PREPARED)
    maps = TASKS[task].real.startswith("mmseg/")
    names = dict(train="training", val="validation") if maps else {}
    assert parts_of(reported) == [names.get(p, p) for p in ("train", "val", "val")]
    folder = "training" if names else "train"
    assert folder in str(choosing.val_dataloader.dataset.data_prefix)  # its images, too
    if "ann_file" in choosing.val_evaluator:
        assert Path(choosing.val_evaluator.ann_file).stem == "select"
        assert Path(reported.val_evaluator.ann_file).stem == "val"


def test_parts_do_not_overlap():
    fit, select = data.divide([f"{i:03}" for i in range(103)])
    assert len(select) == 25 and not set(fit) & set(select) and len(fit) == 78
    assert max(fit) < min(select)


def test_coco_is_divided_with_its_boxes(tmp_path):
    images = [dict(id=i, file_name=f"{i:02}.jpg") for i in range(8)]
    boxes = [dict(id=i, image_id=i // 2) for i in range(16)]
    (tmp_path / "annotations").mkdir()
    content = dict(images=images, annotations=boxes, categories=[dict(id=1, name="x")])
    (tmp_path / "annotations" / "train.json").write_text(json.dumps(content))
    data._prepare_coco(tmp_path, tmp_path / "out")
    parts = [json.loads((tmp_path / "out" / f"{p}.json").read_text()) for p in ("fit", "select")]
    assert [[i["id"] for i in p["images"]] for p in parts] == [[0, 1, 2, 3, 4, 5], [6, 7]]
    assert [len(p["annotations"]) for p in parts] == [12, 4]
    assert {a["image_id"] for a in parts[1]["annotations"]} == {6, 7}


@pytest.mark.parametrize("task", ["coco2k", "coco2k_rtmdet"])
def test_classes_of_coco2k_are_those_of_the_set(task, real_data):
    """MMDetection looks classes up by name, and leaves out those that it does not find."""
    cfg = training.config_of(make(task), PREPARED)
    file = real_data / "coco2k" / "annotations" / "train.json"
    names = [category["name"] for category in json.loads(file.read_text())["categories"]]
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.metainfo.classes == names


def test_narrow_retinanet_starts_as_the_wide_one_does(some_data):
    """Scores and boxes of a map of noise are about as large, from 64 channels as from 256."""
    cfg = training.config_of(make("bccd"), PREPARED).model.bbox_head
    wide = training.config_of(make("bccd", budget="gpu"), PREPARED).model.bbox_head
    assert (cfg.in_channels, wide.in_channels) == (64, 256)
    passed = []
    for head in (cfg, wide):
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope("mmdet"):
            head = MODELS.build(head)
        head.init_weights()
        maps = torch.randn(2, head.in_channels, 16, 16)
        with torch.no_grad():
            scores, boxes = (out[0] for out in head([maps] * len(head.prior_generator.strides)))
        passed.append([scores.std().item(), boxes.std().item()])
        bias = head.retina_cls.bias
        assert torch.allclose(bias.sigmoid(), torch.tensor(0.01))
    for narrow, full in zip(*passed, strict=True):
        assert 0.5 < narrow / full < 2  # with the wide one's deviation: below a sixteenth


def photos(folder, count):
    """Zips of tiny photos, as CIFAR-10 comes."""
    generator = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    names = "airplane automobile bird cat deer dog frog horse ship truck".split()  # noqa: SIM905
    for split in ("train", "val"):
        with zipfile.ZipFile(folder / f"{split}.zip", "w") as file:
            for label, name in enumerate(names):
                for i in range(count):
                    image = generator.integers(0, 20, (32, 32, 3), dtype=np.uint8) + 20 * label
                    file.writestr(f"{name}/{i:04}.jpg", cv2.imencode(".jpg", image)[1].tobytes())


def narrow_training(some_data, lr, **options):
    """A training of a few iterations of a narrow classifier, on photos it makes."""
    photos(some_data / "cifar10", 8)
    task = TASKS["cifar10"]
    budget = replace(task.budgets["cpu"], iters=9, lr_iters=4, batch=4)
    row = replace(ROWS["dualtoken_t"], options=dict(arch=dict(ARCH), out_indices=(2,)))
    narrow = dict(neck=dict(in_channels=ARCH["embed_dims"][2], out_channels=32))
    budget = replace(budget, model=narrow | dict(head=dict(in_channels=32)))
    task = replace(task, budgets=dict(cpu=budget))
    return training.Training(task, row, "cpu", lr, 0, **options)


@pytest.mark.slow
def test_training_is_real_and_goes_on_where_it_was_killed(some_data, tmp_path, monkeypatch):
    """A narrow model through tools/train.py; killed after its first checkpoint, it resumes."""
    one = narrow_training(some_data, 1e-3)
    prepared, work = tmp_path / "data", tmp_path / "work"
    straight = training.run(one, prepared, tmp_path / "other", 1)
    assert [i for i, _ in straight["curve"]] == [3, 6, 9]

    work_dir = work / one.name
    with monkeypatch.context() as patch:
        patch.setattr(training, "command_of", kill_after(training.command_of, work_dir))
        with pytest.raises(training.InputError, match="ended with status"):
            training.run(one, prepared, work, 1)
    assert (work_dir / "last_checkpoint").is_file()
    resumed = training.run(one, prepared, work, 1)
    assert resumed["value"] == straight["value"] and resumed["curve"] == straight["curve"]
    assert not list(work_dir.glob("*.pth"))


def kill_after(command_of, work_dir):
    """The command in a shell that ends it as soon as there is a checkpoint."""

    def wrapped(one, folder):
        command = " ".join(command_of(one, folder))
        wait = f"while [ ! -e {work_dir}/last_checkpoint ]; do sleep 0.05; done"
        return ["bash", "-c", f"{command} & p=$!; {wait}; kill -9 $p; wait $p"]

    return wrapped


@pytest.mark.slow
def test_rate_that_ends_in_nan_is_a_bad_one_but_a_seed_that_does_is_an_error(some_data, tmp_path):
    """The trial's record lets the search go on; nothing is reported of a training that broke."""
    trial = narrow_training(some_data, 1e30, choosing=True)
    record = training.run(trial, tmp_path / "data", tmp_path / "work", 1)
    assert record["diverged"] and record["value"] == 0.0
    record |= dict(hardware="", versions="")  # which the bench adds
    assert records.check(record) == []
    assert records.check(record | dict(choosing_lr=False))[0] == "diverged is not known"
    with pytest.raises(training.TrainingFailed, match="Training stopped: "):
        training.run(replace(trial, choosing=False), tmp_path / "data", tmp_path / "work", 1)

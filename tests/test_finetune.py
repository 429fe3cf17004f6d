"""A trained model to other classes: what is kept, what is dropped, what is refused."""

import re
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import build, log_lines, params, randomise
from mmdet.models import RetinaHead, Shared2FCBBoxHead
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import EpochBasedTrainLoop, get_priority
from mmseg.models import FCNHead
from tasks import DETECTOR, ROOT, TASKS
from torch import nn

from mmdualtoken.errors import InputError
from mmdualtoken.export.measure import build_model
from mmdualtoken.training.finetuning import (
    DropClassLayersHook,
    add_class_layer_hook,
    check_resumed,
    check_resumed_optimizer,
)
from mmdualtoken.training.strict_load import StrictLoadHook
from mmdualtoken.weights.fitting import fit_classes
from mmdualtoken.weights.pretrained import load_backbone, start_from_checkpoint


def detector(classes=4):
    """The model of the narrow detector."""
    cfg = Config.fromfile(DETECTOR)
    init_default_scope("mmdet")
    for head in (cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head):
        head.num_classes = classes
    return MODELS.build(cfg.model)


@pytest.fixture(scope="module")
def four():
    return params(randomise(detector(), seed=3))


CLASS_LAYERS = ["bbox_head.fc_cls", "bbox_head.fc_reg", "mask_head.conv_logits"]


def test_class_layers_get_the_models_own_tensors(four):
    model = detector(2)
    own = params(model)
    fitted, dropped = fit_classes(model, four, "four.pth")
    names = {f"roi_head.{layer}.{part}" for layer in CLASS_LAYERS for part in ("weight", "bias")}
    assert set(dropped) == names
    assert fitted.keys() == own.keys()
    for name, value in fitted.items():
        assert torch.equal(value, own[name] if name in names else four[name]), name


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_wrapped_and_averaged_models(prefix, four):
    state = {f"{prefix}{name}": value for name, value in four.items()}
    if prefix:
        state["steps"] = torch.tensor(3)
    fitted, dropped = fit_classes(detector(), state, "four.pth")
    assert dropped == {}
    assert fitted.keys() == four.keys()
    assert all(torch.equal(value, four[name]) for name, value in fitted.items())
    assert fit_classes(detector(2), state, "four.pth")[1]["roi_head.bbox_head.fc_cls.bias"] == 5


def test_counters_and_another_grid():
    """What loading allows elsewhere: files without counters, another token grid."""
    model = nn.Module()
    model.backbone = build(token_size=(9, 9), token_mlp="mix")
    source = nn.Module()
    source.backbone = build(token_mlp="mix")
    state = {k: v for k, v in params(source).items() if "num_batches_tracked" not in k}
    fitted, dropped = fit_classes(model, state, "file.pth")
    assert dropped == {}
    assert fitted["backbone.global_tokens"].shape == (1, 9, 9, 16)
    assert fitted.keys() == model.state_dict().keys()


def with_heads(classes):
    """Heads as they lie in RetinaNet, Cascade R-CNN and a segmentor with two auxiliary heads."""
    anchors = dict(type="AnchorGenerator", scales=[8], ratios=[1.0], strides=[8])
    coder = dict(type="DeltaXYWHBBoxCoder")
    box = dict(in_channels=8, roi_feat_size=1, fc_out_channels=8, num_classes=classes)
    seg = dict(in_channels=8, channels=8, num_convs=1, num_classes=classes)
    model = nn.Module()
    model.num_classes = classes  # as mmseg's models have it, for all their parts
    model.backbone, model.neck, model.roi_head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Module()
    model.bbox_head = RetinaHead(
        num_classes=classes,
        in_channels=8,
        feat_channels=8,
        stacked_convs=1,
        anchor_generator=anchors,
        bbox_coder=coder,
    )
    model.roi_head.bbox_head = nn.ModuleList(
        Shared2FCBBoxHead(**box, reg_class_agnostic=True, bbox_coder=coder) for _ in range(2)
    )
    model.auxiliary_head = nn.ModuleList(FCNHead(**seg) for _ in range(2))
    return model


def test_heads_of_other_architectures():
    """What counts classes is dropped; boxes without classes and all inner layers are kept."""
    init_default_scope("mmdet")
    state = params(randomise(with_heads(4)))
    fitted, dropped = fit_classes(with_heads(3), state, "file.pth")
    layers = ["bbox_head.retina_cls"]
    layers += [f"roi_head.bbox_head.{i}.fc_cls" for i in range(2)]
    layers += [f"auxiliary_head.{i}.conv_seg" for i in range(2)]
    assert {name.rpartition(".")[0] for name in dropped} == set(layers)
    assert len(dropped) == 2 * len(layers)
    assert torch.equal(fitted["bbox_head.retina_reg.weight"], state["bbox_head.retina_reg.weight"])


def other_grid(state):
    name = "backbone.global_tokens"
    return {name: state[name][:, :2, :2]}


WRONG = {
    "backbone": (lambda s: s.update({"backbone.stem.norm.bias": torch.ones(3)}), "stem.norm.bias"),
    "RPN": (lambda s: s.update({"rpn_head.rpn_cls.bias": torch.ones(5)}), "rpn_head.rpn_cls.bias"),
    "inputs of a class layer": (
        lambda s: s.update({"roi_head.bbox_head.fc_cls.weight": torch.ones(5, 7)}),
        "is (5, 7) in the file, (3, 32) by the config",
    ),
    "missing": (
        lambda s: s.pop("roi_head.bbox_head.fc_cls.bias"),
        "Tensors missing (1): roi_head.bbox_head.fc_cls.bias.",
    ),
    # Loading resizes the grid: the message does not name it.
    "missing, at another token grid": (
        lambda s: (s.update(other_grid(s)), s.pop("roi_head.bbox_head.fc_cls.bias")),
        "Tensors missing (1): roi_head.bbox_head.fc_cls.bias. Use",
    ),
    "not known": (
        lambda s: s.update({"roi_head.extra.weight": torch.ones(1)}),
        "Tensors not known (1): roi_head.extra.weight.",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_other_differences_are_refused(case, four):
    change, text = WRONG[case]
    state = dict(four)
    change(state)
    with pytest.raises(InputError) as caught:
        fit_classes(detector(2), state, "four.pth")
    assert "load_from four.pth does not fit" in str(caught.value)
    assert text in str(caught.value)


def load(model, checkpoint, classes, resume=False, training=True, hooks=()):
    """The checkpoint after a runner with such a data set has called the hook, and its lines."""
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)  # without a runner and data
    loop.dataloader = SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=classes)))
    runner = SimpleNamespace(
        model=model,
        _resume=resume,
        _load_from="four.pth",
        hooks=hooks,
        _train_loop=loop if training else dict(type="EpochBasedTrainLoop"),
    )
    with log_lines() as lines:
        DropClassLayersHook().after_load_checkpoint(runner, checkpoint)
    return checkpoint, lines


@pytest.mark.parametrize("classes", [("a", "b", "c", "d"), ("star", "triangle", "square", "disc")])
def test_as_many_other_classes(classes, four):
    """Nothing is dropped then; that the classes are others, or in another order, is said."""
    meta = dict(dataset_meta=dict(classes=("disc", "square", "triangle", "star")))
    _, (line,) = load(detector(), dict(meta=meta, state_dict=four), classes)
    assert line.startswith(f"kept {len(four)} of {len(four)} tensors of four.pth; its classes [")
    assert f"{list(classes)}, but as many" in line
    classes = ["disc", "square", "triangle", "star"]
    _, (line,) = load(detector(), dict(meta=meta, state_dict=four), classes)
    assert line == f"kept {len(four)} of {len(four)} tensors of four.pth"


@pytest.mark.parametrize(
    "classes, settings",
    [(4, dict(resume=True)), (4, dict(training=False)), (2, dict(training=False))],
)
def test_neither_when_resuming_nor_when_testing(classes, settings, four):
    found, lines = load(detector(classes), dict(state_dict=four), ("a", "b"), **settings)
    assert lines == []
    assert found["state_dict"] is four


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda state: state.pop("backbone.norm0.weight"), "missing (1): backbone.norm0.weight"),
        (
            lambda state: state.update({"neck.x.bias": torch.ones(1)}),
            "not known (1): neck.x",
        ),
        (lambda state: state.update({"backbone.norm0.bias": torch.ones(1)}), "another shape (1)"),
    ],
)
def test_resuming_another_model(change, text, four):
    """Such as one that began with --pretrained, which has other norms."""
    state = dict(four)
    change(state)
    with pytest.raises(InputError, match="such as --pretrained") as caught:
        load(detector(), dict(state_dict=state), ("a", "b", "c", "d"), resume=True)
    assert text in str(caught.value)


def test_resuming_a_model_with_buffers_of_its_own():
    """Some heads make buffers when they first run; a norm's running averages are another norm's."""
    model, norm = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), nn.BatchNorm1d(2)
    state = {**model.state_dict(), "0.bases": torch.ones(2)}
    check_resumed(model, state, "a.pth")
    with pytest.raises(InputError, match=r"not known \(2\): 1.running_mean, 1.running_var"):
        check_resumed(model, state | {f"1.{k}": v for k, v in norm.state_dict().items()}, "a.pth")
    state.pop("0.bases")
    model[0].register_buffer("bases", torch.ones(2))
    check_resumed(model, state, "a.pth")
    model[1] = norm
    with pytest.raises(InputError, match=r"missing \(2\): 1.running_mean, 1.running_var"):
        check_resumed(model, state, "a.pth")


def test_resuming_without_the_averages(four):
    """The averages would be trained on with the optimizer's state of the other weights."""
    checkpoint = dict(state_dict=four, ema_state_dict={})
    with pytest.raises(InputError, match="the config has no EMAHook"):
        load(detector(), checkpoint, None, resume=True)
    assert load(detector(), checkpoint, None, resume=True, hooks=[EMAHook()])[1] == []


def test_resuming_with_renamed_classes(four):
    checkpoint = dict(meta=dict(dataset_meta=dict(classes=("a", "b"))), state_dict=four)
    _, (line,) = load(detector(), checkpoint, ("a", "c"), resume=True)
    assert line.startswith("Resuming from four.pth; its classes ['a', 'b'] are not those of the")


def test_classes_in_another_order(four):
    """A resumed run would learn them again, and a test would measure the AP of others."""
    names, model = ("disc", "square", "triangle", "star"), detector()
    checkpoint = dict(meta=dict(dataset_meta=dict(CLASSES=names)), state_dict=four)
    moved = "'star' has label 0, there 3"
    with pytest.raises(InputError, match=f"order: {moved}. Set metainfo.classes"):
        load(model, dict(checkpoint), names[::-1], resume=True)
    assert load(model, dict(checkpoint), names, resume=True)[1] == []

    def test(classes):
        data = SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=classes)))
        runner = SimpleNamespace(model=model, _load_from="four.pth", test_dataloader=data)
        StrictLoadHook().after_load_checkpoint(runner, dict(checkpoint))

    with pytest.raises(InputError, match=f"not in the order of checkpoint four.pth: {moved}"):
        test(names[::-1])
    test(names)
    test(names[:2])  # a part of the classes keeps their labels
    test(None)
    checkpoint["meta"] = dict(dataset_meta=dict(classes="disc"))  # one name as a text
    test(names)


@pytest.mark.parametrize("key", ["state_dict", "model", None])
def test_forms_of_checkpoints(key, four):
    """MMEngine loads what is under 'state_dict'."""
    given = {key: dict(four)} if key else dict(four)
    found, (line,) = load(detector(2), given, ("a", "b"))
    assert "newly initialized class layers: roi_head.bbox_head.fc_cls (5 outputs, now 3)" in line
    name = "neck.lateral_convs.0.conv.bias"
    assert torch.equal(found["state_dict"][name], four[name])


def test_before_averages_are_loaded():
    """EMAHook loads the checkpoint into its copy: it must get the fitted one."""
    assert get_priority(DropClassLayersHook.priority) < get_priority(EMAHook.priority)


def test_resuming_with_another_optimizer():
    layer = nn.Linear(2, 2)
    adamw, adam = torch.optim.AdamW(layer.parameters()), torch.optim.Adam(layer.parameters())
    sgd = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    longer = torch.optim.SGD(nn.Sequential(layer, nn.Linear(2, 2)).parameters(), 0.1, momentum=0.9)
    groups = torch.optim.SGD([dict(params=[p]) for p in layer.parameters()], lr=0.1)
    for own, there in ((adamw, adamw), (adamw, adam), (sgd, sgd)):
        check_resumed_optimizer(own, there.state_dict(), "a.pth")
    for own, there, text in (
        (sgd, adamw, r"SGD, .*1 groups of 2 parameters with \['momentum'\], in .* \['betas'\]"),
        (adamw, sgd, r"AdamW, .*1 groups of 2 parameters with \['betas'\]"),
        (sgd, groups, r"1 groups of 2 parameters with \['momentum'\], in the file 2 groups of 2"),
        (sgd, longer, r"1 groups of 2 parameters .* in the file 1 groups of 4"),
    ):
        with pytest.raises(InputError, match=text):
            check_resumed_optimizer(own, there.state_dict(), "a.pth")


@pytest.mark.parametrize(
    "settings, added",
    [
        (dict(load_from="a.pth", custom_hooks=[dict(type="EMAHook")]), True),
        (dict(load_from=None, resume=True), True),
        (dict(load_from=None, resume=False), False),
    ],
)
def test_added_once_to_a_config_that_loads(settings, added):
    cfg = Config(settings)
    add_class_layer_hook(cfg)
    add_class_layer_hook(cfg)
    hooks = [*settings.get("custom_hooks", []), *[dict(type="DropClassLayersHook")] * added]
    assert cfg.get("custom_hooks", []) == hooks


# The page on fine-tuning: its blocks of code do what it says.


PAGE = (ROOT / "docs" / "finetuning.md").read_text()
BLOCKS = dict(re.findall(r"```python\n# ([\w ]+)\n(.*?)```", PAGE, re.S))


@pytest.fixture
def written(here):
    """Write a block of the page where it finds our configs; gives its Config."""
    (here / "configs").symlink_to(ROOT / "configs")

    def write(name):
        Path("my_config.py").write_text(BLOCKS[name])
        return Config.fromfile("my_config.py")

    return write


def test_every_block_of_the_page_is_tested():
    assert set(BLOCKS) == {"pretrained", "larger backbone", "layer decay", "other classes"}
    assert PAGE.count("```python") == len(BLOCKS)


def test_page_pretrained(written):
    """The config does what --pretrained does."""
    cfg = written("pretrained")
    Path("FILE").touch()
    expected = Config.fromfile("configs/mmdet/maskrcnn_dualtoken_s_1x.py")
    start_from_checkpoint(expected, "FILE")
    assert cfg.model == expected.model
    assert cfg.model.backbone.init_cfg.type == "Pretrained"


def test_shipped_weights_read_rgb(capsys, tmp_path):
    """RTMDet's recipe reads BGR, the weights were trained on RGB; a config that reads it stays."""
    names = ("rtmdet_dualtoken_t", "retinanet_dualtoken_t_1x")
    bgr, rgb = (Config.fromfile(ROOT / f"configs/mmdet/{name}.py") for name in names)
    for cfg in (bgr, rgb):
        start_from_checkpoint(cfg, "mmdualtoken://tiny")
    assert "reads RGB" in capsys.readouterr().out
    own = Config.fromfile(ROOT / "configs/mmdet/rtmdet_dualtoken_t.py")
    Path(tmp_path / "own.pth").touch()
    start_from_checkpoint(own, tmp_path / "own.pth")
    assert "This config reads BGR. If" in capsys.readouterr().out
    assert own.model.data_preprocessor.bgr_to_rgb is False
    for key in ("mean", "std", "bgr_to_rgb"):
        assert bgr.model.data_preprocessor[key] == rgb.model.data_preprocessor[key]


MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
BGR = dict(mean=MEAN[::-1], std=STD[::-1])
READERS = {
    "by default": dict(model=dict(data_preprocessor=BGR)),
    "with another std": dict(model=dict(data_preprocessor=dict(mean=MEAN[::-1], std=[1.0] * 3))),
    "as RGB of another range": dict(
        model=dict(data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True))
    ),
    "beside the model": dict(data_preprocessor=dict(BGR, to_rgb=False)),
    "of branches": dict(
        model=dict(data_preprocessor=dict(type="MultiBranch", data_preprocessor=BGR))
    ),
}


@pytest.mark.parametrize("where", READERS)
def test_shipped_weights_read_rgb_wherever_it_is_said(where):
    cfg = Config(dict(model=dict(backbone=dict(type="DualTokenViT"))))
    cfg.merge_from_dict(deepcopy(READERS[where]))
    cfg.default_scope = "mmpretrain" if where == "beside the model" else "mmdet"
    start_from_checkpoint(cfg, "mmdualtoken://tiny")
    reader = cfg.get("data_preprocessor") or cfg.model.data_preprocessor
    reader = reader.get("data_preprocessor", reader)
    assert (reader.mean, reader.std) == (MEAN, STD)
    assert reader.to_rgb if where == "beside the model" else reader.bgr_to_rgb


def test_shipped_weights_of_a_config_that_does_not_normalise(capsys):
    """Its pipeline may, and turn the channels."""
    reader = dict(bgr_to_rgb=False, mean=None, std=None)
    cfg = Config(
        dict(
            default_scope="mmdet",
            model=dict(backbone=dict(type="DualTokenViT"), data_preprocessor=reader),
        )
    )
    start_from_checkpoint(cfg, "mmdualtoken://tiny")
    assert cfg.model.data_preprocessor == reader
    assert "does not normalise. Unless its pipeline does, set bgr_to_rgb" in capsys.readouterr().out


def test_page_line_of_the_log(tmp_path):
    """The counts on the page are those of a Small with the mix MLP."""
    model = build(arch="small", token_mlp="mix")
    state = params(build(arch="small", token_mlp="mix", out_indices=(2,)))
    torch.save({f"backbone.{k}": v for k, v in state.items()}, tmp_path / "FILE")
    with log_lines() as lines:
        load_backbone(model, str(tmp_path / "FILE"), "backbone.")
    assert f"    {lines[0].replace(str(tmp_path / 'FILE'), 'FILE')}\n" in PAGE


def test_page_layer_decay(written):
    cfg = Config.fromfile(TASKS["segmentation"][0])
    cfg.merge_from_dict(written("layer decay").to_dict())
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    rates = {id(p): g["lr"] for g in groups for p in g["params"]}
    stem, last = rates[id(model.backbone.stem.norm.bias)], rates[id(model.backbone.norm2.bias)]
    assert stem == pytest.approx(last * 0.8**4)
    assert last == cfg.optim_wrapper.optimizer.lr


def test_page_other_classes(written):
    cfg = written("other classes")
    assert cfg.load_from == "FILE"
    assert cfg.custom_hooks == [dict(type="DropClassLayersHook")]
    heads = cfg.model.roi_head
    assert heads.bbox_head.num_classes == heads.mask_head.num_classes == 2
    for loader, split in ((cfg.train_dataloader, "train"), (cfg.val_dataloader, "val")):
        assert loader.dataset.metainfo.classes == ("cat", "dog")
        assert loader.dataset.data_root == "data/pets/"
        assert loader.dataset.ann_file == f"annotations/instances_{split}2017.json"
    add_class_layer_hook(cfg)
    assert len(cfg.custom_hooks) == 1


def test_page_kept_line(written):
    """The counts on the page are those of its config."""
    model = build_model(written("other classes"))
    before = build_model(Config.fromfile("configs/mmdet/maskrcnn_dualtoken_s_1x.py"))
    fitted, dropped = fit_classes(model, before.state_dict(), "FILE")
    assert f"kept {len(fitted) - len(dropped)} of {len(fitted)} tensors of FILE" in PAGE


def test_page_larger_backbone(written):
    """The recipe with small: it takes the weights of small."""
    cfg = written("larger backbone")
    assert cfg.model.neck.in_channels == [64, 128, 256]
    with log_lines() as lines:
        MODELS.build(cfg.model.backbone).init_weights()
    assert any("backbone tensors from mmdualtoken://small" in line for line in lines), lines

"""The rows of a table: backbones, ablations, optimizers, and starts from pretrained weights."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from mmengine.config import Config

from mmdualtoken.cli import find_config, read_config
from mmdualtoken.config_files import FOLDERS, RIVALS
from mmdualtoken.errors import InputError

from .records import MUON
from .tasks import Task

#: What of a model belongs to its backbone: whole parts, and keys of heads that follow its maps.
PARTS = ("backbone", "neck")
HEADS = ("decode_head", "auxiliary_head", "head")
HEAD_KEYS = ("in_channels", "in_index", "input_transform")


@dataclass(frozen=True)
class Row:
    """One backbone.

    Attributes:
        name: as on the command line and in the table.
        backbone: its name in the real configs, by toolbox, or one for all.
        options: what differs in the backbone's config.
        lr_of: the row whose choice of learning rate this one takes over; None: its own choice.
        pretrained: name of the row that is trained on cifar10 first and starts this one.
        group: table that the row belongs to.
        dense: True for detectors and segmentors alone, False for classifiers, None for all.
        neck: what takes the neck's place.
        tasks: names of the only tasks it is for; None: no such limit.
        muon: True for `MuonAdamW` in place of the task's AdamW.
        weights: checkpoint of a classifier that the backbone starts from.
    """

    name: str
    backbone: dict[str, str]
    options: dict = field(default_factory=dict)
    lr_of: str | None = None
    pretrained: str | None = None
    group: str = "backbones"
    dense: bool | None = None
    neck: dict | None = None
    tasks: tuple[str, ...] | None = None
    muon: bool = False
    weights: str | None = None

    def fits(self, task: Task) -> bool:
        """Whether the row says something about this task, and a real config has both."""
        toolbox = task.real.split("/")[0]
        if self.tasks is not None and task.name not in self.tasks:
            return False
        if toolbox == "mmpretrain":
            return toolbox in self.backbone and not self.dense
        real = task.real.format(self.backbone.get(toolbox))
        return self.dense is not False and any((f / real).is_file() for f in (*FOLDERS, RIVALS))


def _names(classifier: str, dense: str) -> dict[str, str]:
    return dict(mmpretrain=classifier, mmdet=dense, mmseg=dense)


#: With BatchNorm at the outputs, in classifiers as in our detectors and segmentors from scratch.
TINY = _names("dualtoken_t_mix_outbn", "dualtoken_t")
SMALL = _names("dualtoken_s_mix_outbn", "dualtoken_s")
CONCAT = dict(mmseg="dualtoken_s_concat")
CONCAT_STRIDE4 = dict(mmseg="dualtoken_s_concat_stride4")
#: For the stem's map at stride 4 as it is, of 32 channels.
BARE_FPN = dict(type="FPN", in_channels=[32, 64, 128, 256], out_channels=256, num_outs=5)
LAYER_NORM = dict(type="LN", eps=1e-6)
#: Linear layers start with a deviation of 1 / sqrt(inputs) in place of 0.02.
FAN_IN = dict(
    type="Kaiming", layer="Linear", mode="fan_in", nonlinearity="linear", distribution="normal"
)
STEM_CONTRAST = dict(type="StemContrast")
_mlp = dict(token_mlp="mlp")


def _ablation(name: str, **options) -> Row:
    return Row(f"small-{name}", SMALL, options, "dualtoken_s", group="ablations")


def _choice(name: str, dense: bool | None = None, **options) -> Row:
    return Row(f"small-{name}", SMALL, options, "dualtoken_s", group="choices", dense=dense)


def _stride4(name: str, neck: dict | None = None, **options) -> Row:
    """A map at stride 4 for Mask R-CNN, in place of one upsampled from stride 8."""
    size = name[0]
    of = dict(lr_of=f"dualtoken_{size}", group="choices", tasks=("nuclei",))
    return Row(name, dict(mmdet=f"dualtoken_{size}_stride4"), options, neck=neck, **of)


#: What `tools/train.py --pretrained` sets.
PRETRAINED = dict(out_norm_cfg=LAYER_NORM, norm_eval=True)


def _weights(
    name: str, size: str = "tiny", muon: bool = True, lr_of: str | None = None, **options
) -> Row:
    """A start from the shipped weights."""
    backbone = dict(tiny=TINY, small=SMALL)[size]
    of = dict(group="weights", muon=muon, weights=f"mmdualtoken://{size}")
    return Row(f"{size}-{name}", backbone, {**PRETRAINED, **options}, lr_of, **of)


def _fine_tuning(name: str, **options) -> Row:
    return _weights(f"weights-{name}-muon", lr_of="tiny-weights-muon", **options)


def _transfer(name: str, backbone: dict, source: str, **options) -> Row:
    return Row(name, backbone, options, None, source, "transfer", dense=True)


BACKBONES = (
    Row("dualtoken_s", SMALL),
    Row("dualtoken_t", TINY),
    Row("resnet18", _names("resnet18", "r18")),
    Row("mobilenet_v2", _names("mobilenet_v2", "mobilenet_v2")),
    Row("pvt_v2_b0", _names("pvt_v2_b0", "pvt_v2_b0")),
    Row("mobilevit_s", _names("mobilevit_s", "mobilevit_s")),
    Row("edgenext_s", _names("edgenext_s", "edgenext_s")),
    Row("lightvit_t", _names("lightvit_t", "lightvit_t")),
    # The backbones that RTMDet-tiny and SegFormer come with.
    Row("cspnext_t", dict(mmdet="cspnext_t")),
    Row("mit_b0", dict(mmseg="mit_b0")),
)
#: Backbones that are not compared unless they are named.
RARE = ("edgenext_s", "lightvit_t", "cspnext_t", "mit_b0")

ROWS = {
    row.name: row
    for row in (
        *BACKBONES,
        *(replace(r, name=r.name + MUON, group="muon", muon=True) for r in BACKBONES),
        _weights("weights", muon=False),
        _weights("weights-muon"),
        _weights("weights-muon", "small"),
        # What `--pretrained` could set instead, at the rate of tiny-weights-muon.
        _fine_tuning("out_bn", out_norm_cfg=dict(type="BN")),
        _fine_tuning("trained_norm", norm_eval=False),
        _fine_tuning("frozen_stem", frozen_stages=0),
        _fine_tuning("frozen_stage1", frozen_stages=1),
        # Tables 6 and 7 are on small with the plain MLP.
        _ablation("mlp", **_mlp),
        _ablation("no_tokens", token_module="none", **_mlp),
        _ablation("normal_tokens", token_module="normal", token_size=8, **_mlp),
        _ablation("msa_tokens", token_module="msa", token_size=8, **_mlp),
        _ablation("grid3", token_size=(3, 3), **_mlp),
        _ablation("grid5", token_size=(5, 5), **_mlp),
        _ablation("grid9", token_size=(9, 9), **_mlp),
        _ablation("window", local_encoder="window"),
        _ablation("onestep", downsample="onestep"),
        _choice("alpha0.9", alpha=0.9),
        _choice("area", token_module="area"),
        _choice("grid14", True, token_size=(14, 14)),
        Row("small-concat", CONCAT, lr_of="dualtoken_s", group="choices"),
        Row("small-concat_stride4", CONCAT_STRIDE4, lr_of="dualtoken_s", group="choices"),
        _stride4("small-stride4", BARE_FPN, fine_blocks=0),
        _stride4("small-stride4_contrast", BARE_FPN, fine_blocks=0, init_cfg=STEM_CONTRAST),
        _stride4("small-stride4_deep"),
        _stride4("tiny-stride4_deep"),
        _stride4("tiny-stride4_deep_contrast", init_cfg=STEM_CONTRAST),
        _choice("grid3_mix", token_size=(3, 3)),
        Row("tiny-grid3_mix", TINY, dict(token_size=(3, 3)), "dualtoken_t", group="choices"),
        _choice("layerscale0.1", local_encoder="conv_0.1"),
        _choice("layerscale1", local_encoder="conv_1"),
        _choice("init_fan_in", init_cfg=FAN_IN),
        # What follows moves the best learning rate: these rows choose their own.
        Row("small-stem_contrast", SMALL, dict(init_cfg=STEM_CONTRAST), group="choices"),
        Row("tiny-stem_contrast", TINY, dict(init_cfg=STEM_CONTRAST), group="choices"),
        Row("small-norm_ds", SMALL, dict(token_module="norm_ds"), group="choices"),
        Row("tiny-norm_ds", TINY, dict(token_module="norm_ds"), group="choices"),
        Row("small-out_ln", SMALL, dict(out_norm_cfg=LAYER_NORM), group="choices"),
        Row("tiny-out_ln", TINY, dict(out_norm_cfg=LAYER_NORM), group="choices"),
        _transfer("small-pretrained", SMALL, "dualtoken_s"),
        _transfer("small-pretrained-out_ln", SMALL, "small-out_ln", out_norm_cfg=LAYER_NORM),
        # Not in segmentors, whose ResNet has another stem than the classifier's.
        _transfer("resnet18-pretrained", dict(mmdet="r18"), "resnet18"),
        # What its lead over ours rests on: without its map at stride 4, on our pyramid.
        Row(
            "mobilevit_s-stride8",
            _names("mobilevit_s", "mobilevit_s"),
            dict(out_indices=(2, 3, 4)),
            "mobilevit_s",
            group="checks",
            neck=dict(type="DualTokenFPN", in_channels=[96, 128, 640], num_outs=5),
            tasks=("nuclei",),
        ),
    )
}
DEFAULT = [row.name for row in BACKBONES if row.name not in RARE]
GROUPS = dict.fromkeys(row.group for row in ROWS.values())


def choose(names: Iterable[str] | None) -> list[Row]:
    """Rows of these names or groups, in this order; the default backbones for None.

    Raises:
        InputError: a name is not known.
    """
    chosen: list[str] = []
    for name in names or DEFAULT:
        if name == "backbones":
            chosen += DEFAULT
        elif name == "muon":
            chosen += [default + MUON for default in DEFAULT]
        elif name in GROUPS:
            chosen += [n for n, row in ROWS.items() if row.group == name]
        elif name in ROWS:
            chosen.append(name)
        else:
            known = ", ".join([*GROUPS, *ROWS])
            raise InputError(f"--rows {name}: unknown; allowed: {known}")
    return [ROWS[name] for name in dict.fromkeys(chosen)]


def _real(task: Task, row: Row) -> Config:
    """The real config of the row's backbone for this task's head."""
    toolbox = task.real.split("/")[0]
    name = row.backbone[toolbox]
    if (toolbox, name) == ("mmpretrain", "pvt_v2_b0"):  # no real config: its maps come in a list
        cfg = read_config(find_config(task.real.format("resnet18")))
        pvt = read_config(find_config("mmdet/retinanet_pvt_v2_b0_1x.py"))
        cfg.model.backbone = dict(pvt.model.backbone, type="PVTv2ForClassification")
        cfg.model.head.in_channels = 256
        return cfg
    return read_config(find_config(task.real.format(name)))


def swap_backbone(cfg: Config, task: Task, row: Row) -> None:
    """Give the task's config the backbone of the row, with what feeds the heads, from scratch.

    All else of the model stays as it is, and no backbone has drop path, as the schedules are short.
    """
    real = _real(task, row)
    for part in PARTS:
        cfg.model[part] = real.model.get(part)
    for head in HEADS:
        for key in HEAD_KEYS:
            if cfg.model.get(head) and key in real.model[head]:
                cfg.model[head][key] = real.model[head][key]
    backbone = cfg.model.backbone
    if "drop_path_rate" in backbone:
        backbone.drop_path_rate = 0.0
    backbone.update(row.options)
    if row.neck is not None:
        cfg.model.neck = row.neck
    own = real.get("custom_imports", {}).get("imports", ["mmdualtoken"])
    cfg.custom_imports = dict(
        imports=[*own, "mmpretrain.models", "mmdet.models", "learning.variants"],
        allow_failed_imports=False,
    )

"""Tables 2-5 of the paper, and all tables by number."""

from lab.report.ablations import (
    IMAGENET,
    MIX_BUDGET,
    MLP_BUDGET,
    SMALL_MIX,
    SMALL_MLP,
    TABLE_6,
    TABLE_7,
    TABLE_8,
    TABLE_9,
)
from lab.report.schema import (
    BOX,
    MASK,
    MIOU,
    PAPER,
    TOP1,
    Budget,
    Delta,
    Row,
    Table,
    classifier,
    derived,
)

FROM_IMAGENET = (
    "The paper's models start from ImageNet, and no weights are published: the commands train from "
    "scratch; with --from-imagenet, DualToken-ViT starts from the checkpoint of its row in Table 2."
)
OUT_BN = (
    "An alternative of this project: BatchNorm at the output, for few images from scratch "
    "(docs/learning.md)."
)

TABLE_2 = Table(
    2,
    "Classification",
    IMAGENET,
    (TOP1,),
    (
        Row(
            "DualToken-ViT-T (mix)",
            classifier("dualtoken_t_mix"),
            {"top1": "75.4", "macs": "0.5"},
            budgets=derived("5.82", "0.522"),
            remark="The text says 75.4 % of Tiny, not with which of the two token MLPs.",
        ),
        Row("DualToken-ViT-T (mlp)", classifier("dualtoken_t_mlp")),
        Row(
            "DualToken-ViT-S (mix)",
            SMALL_MIX,
            {"top1": "79.4", "macs": "1.0"},
            budgets=MIX_BUDGET,
        ),
        Row("DualToken-ViT-S (mlp)", SMALL_MLP, {"top1": "79.5"}, budgets=MLP_BUDGET),
        Row("DualToken-ViT-T (mix, BN)", classifier("dualtoken_t_mix_outbn"), remark=OUT_BN),
        Row("DualToken-ViT-S (mix, BN)", classifier("dualtoken_s_mix_outbn"), remark=OUT_BN),
        Row("LightViT-T", None, {"top1": "78.7"}, source=f"{PAPER}, as 0.7 below 79.4"),
        Row("ResNet-18", classifier("resnet18")),
        Row("ResNet-50", classifier("resnet50")),
        Row("MobileNetV2", classifier("mobilenet_v2")),
        Row("MobileViT-S", classifier("mobilevit_s")),
        Row("EdgeNeXt-S", classifier("edgenext_s")),
    ),
    (
        Delta(
            "small: mlp minus mix",
            SMALL_MLP,
            SMALL_MIX,
            {"top1": "+0.1", "params": "slightly more", "macs": "slightly more"},
        ),
    ),
    "The rivals are trained by the same recipe as DualToken-ViT.",
)

RIVALS_DET = {
    "r18": "ResNet-18",
    "r50": "ResNet-50",
    "mobilenet_v2": "MobileNetV2",
    "pvt_v2_b0": "PVTv2-b0",
    "mobilevit_s": "MobileViT-S",
    "edgenext_s": "EdgeNeXt-S",
}
RIVALS_SEG = {
    "r18": "ResNet-18",
    "r50": "ResNet-50",
    "mobilenet_v2": "MobileNetV2",
    "pvt_v2_b0": "PVTv2-b0",
    "mobilevit_s": "MobileViT-S",
    "edgenext_s": "EdgeNeXt-S",
}
OURS = {"dualtoken_s": "DualToken-ViT-S", "dualtoken_t": "DualToken-ViT-T"}


def _dense_rows(
    toolbox: str,
    head: str,
    schedule: str,
    label: str,
    rivals: dict[str, str],
    special: dict[str, dict],
) -> tuple[Row, ...]:
    """A row per backbone for one head and schedule; `special` holds what is known of some."""
    return tuple(
        Row(
            label.format(name),
            f"configs/{toolbox}/{head}_{stem}_{schedule}.py",
            pretrained=classifier(f"{stem}_mix") if stem in OURS else None,
            **special.get(stem, {}),
        )
        for stem, name in {**OURS, **rivals}.items()
    )


MASK_RCNN_S = (
    Budget("params", "30.06", "derived"),
    Budget("macs", "189.8", "derived"),
    Budget("macs", "191", "stated"),
)
R50_CHECK = {
    "budgets": (
        Budget("params", "44.4", "known of this model"),
        Budget("macs", "259", "known of this model"),
    ),
    "remark": "A check on the counter.",
}

TABLE_3 = Table(
    3,
    "Mask R-CNN on COCO",
    "1x: 12 epochs; 3x: 36 epochs, multi-scale; FLOPs at 800x1280, 1000 box and 100 mask RoIs",
    (BOX, MASK),
    (
        *_dense_rows(
            "mmdet",
            "maskrcnn",
            "1x",
            "{}, 1x",
            RIVALS_DET,
            {
                "dualtoken_s": {
                    "stated": {"box_ap": "41.1", "mask_ap": "38.1", "macs": "191"},
                    "budgets": MASK_RCNN_S,
                },
                "r50": R50_CHECK,
            },
        ),
        Row(
            "LightViT-T, 1x",
            None,
            {"box_ap": "37.8", "mask_ap": "35.9", "macs": "187"},
            source="stated in LightViT's repository",
        ),
        *_dense_rows(
            "mmdet",
            "maskrcnn",
            "3x",
            "{}, 3x",
            RIVALS_DET,
            {"dualtoken_s": {"budgets": MASK_RCNN_S[:2]}, "r50": R50_CHECK},
        ),
        *(
            Row(
                f"{name}, contrast, 1x",
                f"configs/mmdet/maskrcnn_{stem}_contrast_1x.py",
                remark="An alternative of this project, from scratch: init_cfg StemContrast.",
            )
            for stem, name in OURS.items()
        ),
        *(
            Row(
                f"{name}, stride 4, 1x",
                f"configs/mmdet/maskrcnn_{stem}_stride4_1x.py",
                pretrained=classifier(f"{stem}_mix"),
                remark="An alternative of this project: DualTokenViTStride4.",
            )
            for stem, name in OURS.items()
        ),
    ),
    remark=FROM_IMAGENET,
)

RETINANET_S = {"budgets": (Budget("params", "19.3", "chosen"), Budget("macs", "168", "chosen"))}

TABLE_4 = Table(
    4,
    "RetinaNet on COCO",
    "1x: 12 epochs; 3x: 36 epochs, multi-scale; FLOPs at 800x1280",
    (BOX,),
    tuple(
        row
        for schedule in ("1x", "3x")
        for row in _dense_rows(
            "mmdet",
            "retinanet",
            schedule,
            "{}, " + schedule,
            RIVALS_DET,
            {"dualtoken_s": RETINANET_S},
        )
    ),
    remark=FROM_IMAGENET,
)


def _rounded(macs: str) -> dict:
    return {"budgets": (Budget("macs", macs, "chosen", about=True),)}


TABLE_5 = Table(
    5,
    "DeepLabv3 and PSPNet on ADE20K",
    "512x512, 160k iterations; FLOPs at 512x512 without the auxiliary head, which only trains",
    (MIOU,),
    (
        *_dense_rows(
            "mmseg",
            "deeplabv3",
            "160k",
            "DeepLabv3, {}",
            RIVALS_SEG,
            {"dualtoken_s": _rounded("69")},
        ),
        Row(
            "DeepLabv3, DualToken-ViT-S, three maps",
            "configs/mmseg/deeplabv3_dualtoken_s_concat_160k.py",
            pretrained=SMALL_MIX,
            remark="An alternative of this project: all stages resized and concatenated.",
        ),
        Row(
            "DeepLabv3, DualToken-ViT-S, four maps",
            "configs/mmseg/deeplabv3_dualtoken_s_concat_stride4_160k.py",
            pretrained=SMALL_MIX,
            remark="An alternative of this project: all stages and a map at stride 4.",
        ),
        Row(
            "DeepLabv3, DualToken-ViT-S, stride 32",
            "configs/mmseg/deeplabv3_dualtoken_s_stride32_160k.py",
            pretrained=SMALL_MIX,
            remark="An alternative of this project: the head at stride 32.",
        ),
        *_dense_rows(
            "mmseg", "pspnet", "160k", "PSPNet, {}", RIVALS_SEG, {"dualtoken_s": _rounded("49")}
        ),
        Row(
            "PSPNet, DualToken-ViT-S, three maps",
            "configs/mmseg/pspnet_dualtoken_s_concat_160k.py",
            pretrained=SMALL_MIX,
            remark="An alternative of this project: all stages resized and concatenated.",
        ),
        Row(
            "PSPNet, DualToken-ViT-S, four maps",
            "configs/mmseg/pspnet_dualtoken_s_concat_stride4_160k.py",
            pretrained=SMALL_MIX,
            remark="An alternative of this project: all stages and a map at stride 4.",
        ),
    ),
    remark=FROM_IMAGENET,
)

TABLES = {
    table.number: table
    for table in (TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_7, TABLE_8, TABLE_9)
}

"""Narrow copies of the real configs, one training step and one prediction, for the tests."""

import importlib
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmengine.utils import import_modules_from_strings

ROOT = Path(__file__).resolve().parent.parent
OWN = sorted((ROOT / "configs").glob("mm*/*.py"))
RIVALS = sorted((ROOT / "lab" / "configs").glob("mm*/*.py"))
CONFIGS = [*OWN, *RIVALS]
#: Recipes by what their configs' names end in or begin with: a rival shares them with ours.
OURS = {
    "maskrcnn_1x": "mmdet/maskrcnn_dualtoken_s_1x",
    "maskrcnn_3x": "mmdet/maskrcnn_dualtoken_s_3x",
    "retinanet_1x": "mmdet/retinanet_dualtoken_s_1x",
    "retinanet_3x": "mmdet/retinanet_dualtoken_s_3x",
    "deeplabv3_160k": "mmseg/deeplabv3_dualtoken_s_160k",
    "pspnet_160k": "mmseg/pspnet_dualtoken_s_160k",
    "segformer_160k": "mmseg/segformer_dualtoken_s_160k",
    "rtmdet": "mmdet/rtmdet_dualtoken_t",
    "in1k": "mmpretrain/dualtoken_s_mix_in1k",
}

WIDTHS = (16, 24, 32)
ARCH = dict(embed_dims=WIDTHS, depths=(1, 1, 2), num_heads=(2, 2, 4), ffn_ratios=(2, 2, 2))
SIZE = 64


def name_of(path):
    return str(path.relative_to(ROOT).with_suffix(""))


def levels(path):
    """How many files inherit each other, the toolbox's counted as one level."""
    bases = Config._get_base_files(path)
    return 1 + max((1 if "::" in b else levels(path.parent / b) for b in bases), default=0)


def build(cfg):
    """The config's model, by its toolbox's registry."""
    import_modules_from_strings(**cfg.get("custom_imports", {"imports": []}))
    init_default_scope(cfg.default_scope)
    registry = importlib.import_module(f"{cfg.default_scope}.registry").MODELS
    model = cfg.model
    if "data_preprocessor" in cfg:  # MMEngine's runner moves it into the model
        model = {"data_preprocessor": cfg.data_preprocessor, **model}
    return registry.build(model)


def narrow(path):
    """The config with a narrow DualTokenViT, if it has one, and narrow necks and heads."""
    cfg = Config.fromfile(path)
    model = cfg.model
    ours = model.backbone.type.startswith("DualTokenViT")
    if ours:
        model.backbone.arch = ARCH
        if model.backbone.get("init_cfg", {}).get("type") == "Pretrained":
            del model.backbone.init_cfg  # those weights are wider
    dict(mmdet=_narrow_detector, mmseg=_narrow_segmentor, mmpretrain=_narrow_classifier)[
        cfg.default_scope
    ](model, ours)
    return cfg


def widths_of(model):
    """Channels of the maps of a narrow backbone."""
    stride4 = WIDTHS[:1] if model.backbone.type == "DualTokenViTStride4" else ()
    return [*stride4, *WIDTHS]


def _narrow_detector(model, ours):
    if ours:
        model.neck.in_channels = widths_of(model)
    model.neck.out_channels = 16
    if "rpn_head" not in model:
        model.bbox_head.update(in_channels=16, feat_channels=16, stacked_convs=1)
        model.test_cfg.update(nms_pre=50, score_thr=0.0, max_per_img=5)
        return
    model.rpn_head.update(in_channels=16, feat_channels=16)
    roi_head = model.roi_head
    roi_head.bbox_roi_extractor.out_channels = roi_head.mask_roi_extractor.out_channels = 16
    roi_head.bbox_head.update(in_channels=16, fc_out_channels=32)
    roi_head.mask_head.update(in_channels=16, conv_out_channels=16, num_convs=1)
    model.test_cfg.rpn.update(nms_pre=50, max_per_img=20)
    model.test_cfg.rcnn.update(max_per_img=5, score_thr=0.0)


def _narrow_segmentor(model, ours):
    model.data_preprocessor.size = (SIZE, SIZE)
    for head in filter(None, (model.decode_head, model.auxiliary_head)):
        head.channels = 16
        if ours:
            widths = widths_of(model)
            index = head.in_index
            head.in_channels = (
                widths[index] if isinstance(index, int) else [widths[i] for i in index]
            )
            if "c1_channels" in head:  # DeepLabv3+'s, of the first map
                head.update(c1_in_channels=widths[0], c1_channels=8)


def _narrow_classifier(model, ours):
    if ours:
        model.neck.update(in_channels=WIDTHS[-1], out_channels=32)
        model.head.in_channels = 32


def detection_sample(classes):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    boxes = torch.tensor([[4.0, 6.0, 30.0, 40.0], [20.0, 10.0, 60.0, 50.0]])
    masks = torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    instances = InstanceData(
        bboxes=boxes,
        labels=torch.tensor([0, classes - 1]),
        masks=BitmapMasks(masks.numpy(), SIZE, SIZE),
    )
    meta = dict(
        img_shape=(SIZE, SIZE),
        ori_shape=(SIZE, SIZE),
        batch_input_shape=(SIZE, SIZE),
        pad_shape=(SIZE, SIZE),
        scale_factor=(1.0, 1.0),
        img_id=1,
        img_path="sample.jpg",
    )
    sample = DetDataSample(metainfo=meta, gt_instances=instances)
    sample.ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
    )
    return sample


def segmentation_sample(classes):
    from mmseg.structures import SegDataSample

    labels = torch.arange(SIZE * SIZE).reshape(1, SIZE, SIZE) % classes
    labels[0, :4] = 255  # ignored
    meta = dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE), pad_shape=(SIZE, SIZE))
    return SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=labels))


def classification_sample(classes):
    from mmpretrain.structures import DataSample

    return DataSample().set_gt_label(classes - 1)


SAMPLES = dict(mmdet=detection_sample, mmseg=segmentation_sample, mmpretrain=classification_sample)


def num_classes(cfg):
    """Classes of the model's main head."""
    model = cfg.model
    head = model.get("roi_head", model)
    return (head.get("bbox_head") or head.get("decode_head") or head.get("head")).num_classes


def has_masks(cfg):
    """Whether a detector predicts masks, too."""
    return "roi_head" in cfg.model or "loss_mask" in cfg.model.bbox_head


def batch(cfg):
    """Two images with labels, as a data loader gives them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    samples = [SAMPLES[cfg.default_scope](num_classes(cfg)) for _ in images]
    if cfg.default_scope == "mmdet" and not has_masks(cfg):
        for sample in samples:  # a set without masks: RTMDet would read them
            del sample.gt_instances.masks
    return dict(inputs=list(images), data_samples=samples)


def train_step(cfg, model):
    """Losses of one step of the config's own optimizer; the parameters change."""
    from mmengine.optim import build_optim_wrapper

    wrapper_cfg = ConfigDict(cfg.optim_wrapper)
    wrapper_cfg.setdefault("type", "OptimWrapper")
    model.train()
    return model.train_step(batch(cfg), build_optim_wrapper(model, wrapper_cfg))


def predict(cfg, model):
    model.eval()
    with torch.no_grad():
        return model.test_step(batch(cfg))

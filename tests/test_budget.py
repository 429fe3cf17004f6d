"""Parameters and multiply-accumulates of the paper's models, attention counted."""

from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config
from tasks import ROOT
from torch import nn

from mmdualtoken.export.complexity import count_macs, count_parameters
from mmdualtoken.export.measure import measure
from mmdualtoken.models import DualTokenClsNeck, DualTokenViT

R50 = Path(mmdet.__file__).parent / ".mim/configs/mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"


@pytest.mark.parametrize(
    "settings, parameters, macs",
    [
        (dict(arch="small", token_mlp="mlp"), 11.85e6, 1.026e9),
        (dict(arch="small", token_mlp="mix"), 11.39e6, 1.008e9),
        (dict(arch="small", token_module="none"), 10.80e6, 0.975e9),
        (dict(arch="tiny", token_mlp="mix"), 5.82e6, 0.522e9),
    ],
)
def test_classifier(settings, parameters, macs):
    backbone = DualTokenViT(out_indices=(2,), **settings).eval()
    neck = DualTokenClsNeck(backbone.arch["embed_dims"][-1])
    head = nn.Linear(1280, 1000)
    model = nn.ModuleList([backbone, neck, head])
    image = torch.zeros(1, 3, 224, 224)
    assert count_parameters(model) == pytest.approx(parameters, rel=0.01)
    assert count_macs(lambda: head(neck(backbone(image))[0])) == pytest.approx(macs, rel=0.01)


@pytest.mark.parametrize(
    "config, parameters, macs",
    [
        (ROOT / "configs/mmdet/maskrcnn_dualtoken_s_1x.py", 30.06e6, 190e9),
        (ROOT / "configs/mmdet/maskrcnn_dualtoken_t_1x.py", 24.5e6, 182e9),
        (R50, 44.4e6, 259e9),
    ],
    ids=["dualtoken_s", "dualtoken_t", "r50"],
)
def test_mask_rcnn(config, parameters, macs):
    """800x1280, 1000 box and 100 mask RoIs."""
    counted = measure(Config.fromfile(config))
    assert counted.params == pytest.approx(parameters, rel=0.01)
    assert counted.macs == pytest.approx(macs, rel=0.01)


def test_fused_and_plain_attention_count_the_same():
    model = DualTokenViT("tiny").eval()
    image = torch.zeros(1, 3, 64, 64)
    fused = count_macs(model, image)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        plain = count_macs(model, image)
    assert fused == plain > 0

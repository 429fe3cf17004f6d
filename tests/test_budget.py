"""Parameters and multiply-accumulates of the paper's models, attention counted."""

from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config
from tasks import ROOT

from mmdualtoken.export.breakdown import break_down, count_macs
from mmdualtoken.models import DualTokenViT

R50 = Path(mmdet.__file__).parent / ".mim/configs/mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"


@pytest.mark.parametrize(
    "config, parameters, macs",
    [
        ("mmpretrain/dualtoken_s_mlp_in1k.py", 11.85e6, 1.026e9),
        ("mmpretrain/dualtoken_s_mix_in1k.py", 11.39e6, 1.008e9),
        ("mmpretrain/dualtoken_s_mlp_no_tokens_in1k.py", 10.80e6, 0.975e9),
        ("mmpretrain/dualtoken_t_mix_in1k.py", 5.82e6, 0.522e9),
        ("mmdet/maskrcnn_dualtoken_s_1x.py", 30.06e6, 190e9),
        ("mmdet/maskrcnn_dualtoken_t_1x.py", 24.5e6, 182e9),
        (R50, 44.4e6, 259e9),
    ],
    ids=str,
)
def test_figures_of_the_paper(config, parameters, macs):
    """At 224x224, and 800x1280 with 1000 box and 100 mask RoIs."""
    counted = break_down(Config.fromfile(ROOT / "configs" / config))
    assert counted.params == pytest.approx(parameters, rel=0.01)
    assert counted.macs == pytest.approx(macs, rel=0.01)


def test_fused_and_plain_attention_count_the_same():
    model = DualTokenViT("tiny").eval()
    image = torch.zeros(1, 3, 64, 64)
    fused = count_macs(model, image)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        plain = count_macs(model, image)
    assert fused == plain > 0

"""One training step and one prediction of every config, narrow and at 64 pixels."""

import narrow
import pytest
import torch


def learns(losses):
    total = losses["loss"]
    return torch.isfinite(total).item() and total.item() > 0


def check_prediction(cfg, samples):
    assert len(samples) == 2
    for sample in samples:
        if cfg.default_scope == "mmseg":
            labels = sample.pred_sem_seg.data
            assert labels.shape == (1, narrow.SIZE, narrow.SIZE) and labels.min() >= 0
            assert labels.max() < narrow.num_classes(cfg)
        elif cfg.default_scope == "mmpretrain":
            assert sample.pred_score.shape == (narrow.num_classes(cfg),)
            assert sample.pred_score.sum().item() == pytest.approx(1, abs=1e-4)
        else:
            found = sample.pred_instances
            assert 0 < len(found) <= 5 and found.labels.max() < narrow.num_classes(cfg)
            assert found.bboxes.min() >= 0 and found.bboxes.max() <= narrow.SIZE
            assert hasattr(found, "masks") == narrow.has_masks(cfg)


ONE_EACH = [
    narrow.ROOT / "configs" / f"{name}.py"
    for name in (
        *(name for key, name in narrow.OURS.items() if "3x" not in key),
        "mmdet/rtmdet-ins_dualtoken_t",
        "mmseg/segformer_dualtoken_t_stride4_160k",
    )
]
#: The others are slow tests.
PATHS = [
    pytest.param(path, marks=[] if path in ONE_EACH else pytest.mark.slow, id=narrow.name_of(path))
    for path in narrow.CONFIGS
]


@pytest.mark.parametrize("path", PATHS)
def test_trains_and_predicts(path):
    torch.manual_seed(0)
    cfg = narrow.narrow(path)
    model = narrow.build(cfg)
    model.init_weights()
    before = [p.detach().clone() for p in model.parameters()]
    learning = set()
    for name, value in model.named_parameters():
        value.register_post_accumulate_grad_hook(lambda _, name=name: learning.add(name))
    losses = narrow.train_step(cfg, model)
    assert learns(losses)
    changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert all(p.requires_grad for p in model.parameters())  # from scratch: nothing is frozen
    # Not all: ResNet begins with zero at the end of each residual, whose convolutions then wait.
    assert sum(changed) > 0.6 * len(changed)
    # In several processes DDP stops at a parameter without a gradient, unless it is told to look.
    unused = {name for name, _ in model.named_parameters()} - learning
    assert cfg.get("find_unused_parameters", False) == bool(unused), sorted(unused)
    check_prediction(cfg, narrow.predict(cfg, model))

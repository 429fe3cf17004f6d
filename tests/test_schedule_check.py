"""A schedule that begins after the end of training is an error before anything is built."""

import pytest
from mmengine.config import Config

from mmdualtoken.errors import InputError
from mmdualtoken.training.schedule import check_schedule

EPOCHS = [dict(type="LinearLR", end=20), dict(type="CosineAnnealingLR", begin=20)]
ITERATIONS = [dict(type="PolyLR", by_epoch=False, begin=1500)]


@pytest.mark.parametrize(
    "parts, train_cfg, words",
    [
        (EPOCHS, dict(max_epochs=2), r"\[1\] \(CosineAnnealingLR\) has begin=20.*max_epochs=2"),
        (EPOCHS, dict(max_epochs=20), "begin=20"),
        (ITERATIONS[0], dict(max_iters=100), r"\[0\] \(PolyLR\) has begin=1500.*max_iters=100"),
    ],
)
def test_too_late(parts, train_cfg, words):
    with pytest.raises(InputError, match=words):
        check_schedule(Config(dict(param_scheduler=parts, train_cfg=train_cfg)))


@pytest.mark.parametrize(
    "cfg",
    [
        dict(param_scheduler=EPOCHS, train_cfg=dict(max_epochs=21)),
        dict(param_scheduler=ITERATIONS, train_cfg=dict(max_epochs=2)),  # counted otherwise
        dict(param_scheduler=None, train_cfg=None),
        dict(),
    ],
)
def test_in_time(cfg):
    check_schedule(Config(cfg))

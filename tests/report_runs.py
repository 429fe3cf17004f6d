"""Logs of runs as MMEngine writes them, for the tests of the report."""

import json
from pathlib import Path

from mmengine.config import Config

ROOT = Path(__file__).resolve().parent.parent
NARROW = {
    "mmpretrain": "tests/configs/classifier_narrow.py",
    "mmseg": "tests/configs/fcn_narrow.py",
    "mmdet": "tests/configs/maskrcnn_narrow.py",
}
EARLY, LATE, LATER = "20260101_000000", "20260102_000000", "20260103_000000"


def narrow(scope="mmpretrain", **train_cfg):
    cfg = Config.fromfile(ROOT / NARROW[scope])
    cfg.train_cfg.update(train_cfg)
    return cfg


def write_log(folder, cfg, lines, **settings):
    """Write a training's log and, with other settings, its config."""
    (folder / "vis_data").mkdir(parents=True)
    cfg = Config(cfg.to_dict())
    cfg.merge_from_dict(settings)
    cfg.dump(folder / "vis_data" / "config.py")
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "vis_data" / "scalars.json").write_text(text)


def train_log(work_dir, cfg, name, epochs, accuracy=50.0, first=1, **settings):
    """Write the log of a training by epochs, two iterations each."""
    lines = []
    for epoch in range(first, epochs + 1):
        for i in (2 * epoch - 1, 2 * epoch):
            lines.append(dict(loss=1 / i, epoch=epoch, iter=i, step=i))
        lines.append({"accuracy/top1": accuracy + epoch, "time": 0.1, "step": epoch})
    write_log(work_dir / name, cfg, lines, **settings)


def eval_log(work_dir, cfg, name, checkpoint, accuracy, **settings):
    """Write the outcome of tools/test.py."""
    folder = work_dir / "test" / name
    write_log(folder, cfg, [], load_from=str(work_dir / checkpoint), **settings)
    (folder / f"{name}.json").write_text(json.dumps({"accuracy/top1": accuracy, "time": 0.1}))

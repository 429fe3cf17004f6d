"""The real config on real photos, through the real tools."""

import json
import os
import re
import subprocess
import sys

import pytest
from mmdet.datasets import CocoDataset
from tasks import ROOT

CONFIG = "configs/mmdet/maskrcnn_dualtoken_s_1x.py"


def tool(name, *args, cwd):
    """Run a tool in a process of its own; returns what it printed."""
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, args)]
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.mark.timeout(1800)  # the real config at full size: ten minutes on a busy machine
@pytest.mark.slow
def test_coco_photos(real_data, tmp_path):
    """Four COCO photos at 1333x800: the loss falls, the COCO evaluation runs.

    Only data paths and schedule differ from the config.
    """
    # The sample lists one category; the real files have all 80, and predictions use them.
    content = json.loads((real_data / "coco_sample" / "instances.json").read_text())
    names = CocoDataset.METAINFO["classes"]
    content["categories"] = [dict(id=i, name=name) for i, name in enumerate(names, 1)]
    (tmp_path / "instances.json").write_text(json.dumps(content))
    data = [f"{real_data}/coco_sample/", f"{tmp_path}/instances.json", "images/"]
    options = ["train_cfg.max_epochs=3", "train_cfg.val_interval=100", "param_scheduler=[]"]
    options += ["default_hooks.logger.interval=1", f"test_evaluator.ann_file={data[1]}"]
    options += [f"val_evaluator.ann_file={data[1]}"]
    for loader in ("train", "val", "test"):
        keys = ("data_root", "ann_file", "data_prefix.img")
        options += [f"{loader}_dataloader.dataset.{k}={v}" for k, v in zip(keys, data, strict=True)]
    config = [CONFIG, "--cfg-options", *options]
    printed = tool("train", *config, "--work-dir", "run", cwd=tmp_path)
    losses = [float(v) for v in re.findall(r"Epoch\(train\).* loss: ([\d.]+)", printed)]
    assert len(losses) == 6
    assert sum(losses[-2:]) < 0.8 * sum(losses[:2])

    args = [CONFIG, tmp_path / "run" / "epoch_3.pth", *config[1:], "--work-dir", "eval"]
    args.insert(-2, "model.test_cfg.rcnn.score_thr=0.0")  # after so few steps no score is high

    tool("test", *args, cwd=tmp_path)
    (file,) = (tmp_path / "eval").glob("*/*.json")
    metrics = json.loads(file.read_text())
    assert 0 <= metrics["coco/bbox_mAP"] <= 1 and 0 <= metrics["coco/segm_mAP"] <= 1

"""The narrow config of each task, and the metric that its test prints."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "tests" / "configs"
DETECTOR = str(CONFIGS / "maskrcnn_narrow.py")
RTMDET = str(CONFIGS / "rtmdet_narrow.py")
TASKS = {
    "detection": (DETECTOR, "coco/bbox_mAP_50"),
    "segmentation": (str(CONFIGS / "fcn_narrow.py"), "mIoU"),
    "classification": (str(CONFIGS / "classifier_narrow.py"), "accuracy/top1"),
}
#: Options of a training with two evaluations.
SHORT = {
    "detection": ["train_cfg.max_iters=4", "train_cfg.val_interval=2"],
    "segmentation": ["train_cfg.max_iters=4", "train_cfg.val_interval=2"],
    "classification": ["train_cfg.max_epochs=2", "train_cfg.val_interval=1"],
}

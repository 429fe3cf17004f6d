"""Evaluate a checkpoint of a detector, segmentor or classifier, with mmdet's arguments.

Or a file of tools/export.py, with the same data and metric.
"""

import argparse
from collections.abc import Sequence
from copy import deepcopy
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.evaluator import DumpResults
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mmdualtoken.cli import add_common_arguments, load_config, run_tool
from mmdualtoken.data.check import check_data
from mmdualtoken.data.layout import innermost_datasets
from mmdualtoken.errors import InputError
from mmdualtoken.export.runner import RUNTIMES
from mmdualtoken.files import check_file, check_new_file
from mmdualtoken.training.interrupt import InterruptHook
from mmdualtoken.training.strict_load import StrictLoadHook

# Where a config has no tta_model of its own, as in the toolboxes' test.py.
TTA_MODELS = {
    "mmdet": dict(
        type="DetTTAModel", tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100)
    ),
    "mmseg": dict(type="SegTTAModel"),
    "mmpretrain": dict(type="AverageClsScoreTTA"),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file, or an exported one: .onnx, .xml")
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        help="what runs an exported file (onnxruntime; openvino for .xml)",
    )
    parser.add_argument(
        "--compare-with",
        metavar="CHECKPOINT",
        help="evaluate the exported file's checkpoint as well",
    )
    parser.add_argument("--out", metavar="FILE.pkl", help="write the predictions to this file")
    parser.add_argument("--show", action="store_true", help="show predictions in a window")
    parser.add_argument("--show-dir", help="save pictures of the predictions, below the work dir")
    parser.add_argument("--wait-time", type=float, default=2, help="seconds per shown picture")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    return parser.parse_args()


def set_visualization(cfg: Config, args: argparse.Namespace) -> None:
    """Turn the toolbox's visualization hook on, whose arguments differ between the three."""
    hook = cfg.get("default_hooks", {}).get("visualization")
    if hook is None:
        raise InputError("--show, --show-dir: the config has no default_hooks.visualization.")
    if cfg.get("default_scope") == "mmpretrain":
        hook.update(enable=True, interval=1, show=args.show, wait_time=args.wait_time)
        hook["out_dir"] = args.show_dir and str(Path(cfg.work_dir) / args.show_dir)
        return
    # interval: the official mmseg would draw every 50th batch only
    hook.update(draw=True, interval=1, show=args.show, wait_time=args.wait_time)
    if args.show_dir and cfg.get("default_scope") == "mmseg":
        cfg.visualizer["save_dir"] = str(Path(cfg.work_dir) / args.show_dir)
    elif args.show_dir:
        hook["test_out_dir"] = args.show_dir


def pictures_folder(cfg: Config, runner: Runner, show_dir: str) -> Path:
    """The folder into which the toolbox's hook has drawn; each toolbox has another."""
    scope = cfg.get("default_scope")
    if scope == "mmdet":
        return Path(cfg.work_dir) / runner.timestamp / show_dir
    folder = Path(cfg.work_dir) / show_dir
    return folder / "vis_data" / "vis_image" if scope == "mmseg" else folder


def set_tta(cfg: Config) -> None:
    """Test with the config's tta_model and tta_pipeline, or with flips where it has none."""
    scope = cfg.get("default_scope")
    if scope == "mmdet" and cfg.model.get("roi_head", {}).get("mask_head"):
        raise InputError(
            "--tta: mmdet has no rule for merging masks of augmented images. Test without --tta, "
            "or boxes alone: --cfg-options model.roi_head.mask_head=None test_evaluator.metric=bbox"
        )
    tta_model = cfg.get("tta_model") or TTA_MODELS.get(scope)
    if tta_model is None:
        raise InputError(f"--tta: the config has no tta_model, and default_scope is {scope!r}.")
    for dataset in innermost_datasets(cfg.test_dataloader.dataset):
        if "tta_pipeline" in cfg:
            dataset.pipeline = cfg.tta_pipeline
            continue
        pipeline = deepcopy(dataset.pipeline)
        pack = pipeline[-1]
        if scope == "mmdet":
            keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
            pack["meta_keys"] = (*pack.get("meta_keys", keys), "flip", "flip_direction")
        # The plain view first: the toolboxes take the annotations from that of the first.
        flips = [dict(type="RandomFlip", prob=p) for p in (0.0, 1.0)]
        pipeline[-1] = dict(type="TestTimeAug", transforms=[flips, [pack]])
        dataset.pipeline = pipeline
    cfg.model = ConfigDict(**tta_model, module=cfg.model)


class DumpPredictions(DumpResults):
    """MMEngine's, with copies of the tensors: a view would be pickled with its whole batch."""

    def process(self, data_batch: Any, predictions: Sequence[dict]) -> None:
        """Keep the predictions of a batch."""
        super().process(data_batch, tree_map_only(Tensor, Tensor.clone, predictions))


def dump_metric(cfg: Config, filename: str) -> DumpResults:
    """The metric that writes predictions; mmdet's own encodes masks."""
    if cfg.get("default_scope") == "mmdet":
        from mmdet.evaluation import DumpDetResults

        return DumpDetResults(out_file_path=filename)
    return DumpPredictions(out_file_path=filename)


def is_exported(args: argparse.Namespace) -> bool:
    """Whether the checkpoint is a file of tools/export.py."""
    return Path(args.checkpoint).suffix in (".onnx", ".xml")


def use_exported(cfg: Config, args: argparse.Namespace) -> None:
    """Put an exported file in the model's place.

    Raises:
        InputError: it is of another task than the config.
    """
    from mmdualtoken.export.deployed import load_deployed

    load_deployed(cfg, args.checkpoint, args.runtime)
    cfg.model = ConfigDict(type="DeployedModel", file=args.checkpoint, runtime=args.runtime)
    cfg.pop("data_preprocessor", None)
    cfg.custom_hooks = []  # averages of weights and the like, which a file has not
    cfg.load_from = None


def check_classes(runner: Runner, name: str) -> None:
    """Check that an exported file knows the classes of the data.

    Raises:
        InputError: its classes are others.
    """
    data = list(runner.test_dataloader.dataset.metainfo.get("classes") or ())
    known = runner.model.file.classes
    if data and known and data != known:
        # Both may be long: the first that differs says it.
        pairs = zip_longest(known, data, fillvalue="no class")
        number, (a, b) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        raise InputError(
            f"{name} has {len(known)} classes, number {number} of them {a}; the data has "
            f"{len(data)}, number {number} of them {b}. Evaluate it with the config that it was "
            "exported from, or name the classes: --cfg-options "
            "test_dataloader.dataset.metainfo.classes=[...]"
        )


def check_arguments(args: argparse.Namespace) -> None:
    """Check what can be wrong before anything is loaded."""
    hint = "Training writes checkpoints to work_dirs/CONFIG; last_checkpoint there names the last."
    check_file(args.checkpoint, "Checkpoint", hint, url=True)
    if not is_exported(args) and (args.compare_with or args.runtime):
        raise InputError(
            f"{args.checkpoint}: --runtime and --compare-with are for .onnx and .xml files."
        )
    if is_exported(args) and args.launcher != "none":
        raise InputError(
            f"{args.checkpoint}: an exported file is tested by one process: python tools/test.py, "
            "without --launcher."
        )
    if (args.show or args.show_dir) and args.launcher != "none":
        raise InputError(
            "--show, --show-dir: of several processes only the first would draw its images. Draw "
            "with one process: python tools/test.py, without --launcher."
        )
    if is_exported(args) and args.tta:
        raise InputError(f"{args.checkpoint}: --tta is for checkpoints alone.")
    if args.compare_with:
        check_file(args.compare_with, "--compare-with", url=True)
    if args.out and not args.out.endswith((".pkl", ".pickle")):
        raise InputError(f"--out {args.out}: predictions are written as .pkl or .pickle.")
    if args.out:
        check_new_file(args.out, "--out")


def evaluate(cfg: Config, args: argparse.Namespace, exported: bool) -> dict[str, float]:
    """Test a checkpoint, or an exported file; returns the metrics."""
    runner = (RUNNERS.build if "runner_type" in cfg else Runner.from_cfg)(cfg)
    if exported:
        check_classes(runner, args.checkpoint)
    else:
        runner.register_hook(StrictLoadHook())
    runner.register_hook(InterruptHook())  # for its workers, which end with a killed test
    if args.out:
        runner.test_evaluator.metrics.append(dump_metric(cfg, args.out))
    metrics = runner.test()
    if args.show_dir:
        print_log(f"Pictures: {pictures_folder(cfg, runner, args.show_dir)}", logger="current")
    return metrics


def main() -> None:
    args = parse_args()
    check_arguments(args)
    cfg = load_config(args)
    if args.work_dir is None:  # not over the config that training left in its own
        cfg.work_dir = str(Path(cfg.work_dir) / "test")
    cfg.load_from = args.compare_with or args.checkpoint
    cfg.resume = False
    check_data(cfg, "test_dataloader")
    if args.show or args.show_dir:
        set_visualization(cfg, args)
    if args.tta:
        set_tta(cfg)
    original = deepcopy(cfg)
    if is_exported(args):
        use_exported(cfg, args)
    found = evaluate(cfg, args, is_exported(args))
    if args.compare_with:
        args.out = args.show_dir = None
        original.experiment_name = "pytorch"
        pytorch = evaluate(original, args, exported=False)
        print(f"{'':24}{'PyTorch':>12}{'the file':>12}{'change':>12}")
        for name in (n for n in pytorch if isinstance(pytorch[n], float)):
            a, b = pytorch[name], found[name]
            print(f"{name:24}{a:12.4f}{b:12.4f}{b - a:+12.4f}")


if __name__ == "__main__":
    run_tool(main)

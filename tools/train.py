"""Train a detector, segmentor or classifier from a config, with mmdet's arguments."""

import argparse
import os
from contextlib import nullcontext
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmdualtoken.cli import add_common_arguments, load_config, run_tool
from mmdualtoken.config_files import MUON, config_path
from mmdualtoken.data.check import check_data
from mmdualtoken.errors import InputError, log_warning
from mmdualtoken.files import check_file, lock_work_dir
from mmdualtoken.training.allocator import keep_freed_pages
from mmdualtoken.training.distributed import is_first
from mmdualtoken.training.finetuning import add_class_layer_hook
from mmdualtoken.training.interrupt import exit_cleanly
from mmdualtoken.training.monitoring import add_monitoring
from mmdualtoken.training.nan_loss import ACTIONS
from mmdualtoken.training.reliability import add_reliability
from mmdualtoken.training.schedule import ScheduleHook, check_schedule, count_accumulation
from mmdualtoken.weights.pretrained import start_from_checkpoint
from mmdualtoken.weights.resume import moved_checkpoint
from mmdualtoken.weights.shipped import complete_name, list_weights


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_arguments(parser)
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision")
    parser.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the learning rate to the batch size"
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="FILE",
        help="resume from FILE, or without it from the work dir's last checkpoint",
    )
    parser.add_argument(
        "--pretrained",
        metavar="FILE",
        help="start the backbone from this classification checkpoint, or from shipped weights "
        f"({', '.join(list_weights())}), instead of from scratch",
    )
    parser.add_argument(
        "--load-from",
        metavar="FILE",
        help="start the whole model from this checkpoint, except class layers that differ",
    )
    parser.add_argument(
        "--muon",
        nargs="?",
        const=True,
        type=float,
        metavar="LR",
        help="replace the config's optimizer by configs/_base_/muon.py, with this learning rate",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="start a new run in a work dir that holds checkpoints of an earlier one",
    )
    parser.add_argument(
        "--on-nan-loss",
        choices=ACTIONS,
        help="when a loss is NaN: stop with a report (the default), only warn, or do not check",
    )
    parser.add_argument(
        "--no-watch",
        action="store_true",
        help="no curves, TensorBoard, pictures of predictions and summary",
    )
    args = parser.parse_args()
    if isinstance(args.muon, float) and not 0 < args.muon < 1:
        parser.error(f"--muon {args.muon:g}: the learning rate is a number between 0 and 1")
    return args


def protect_work_dir(cfg: Config, args: argparse.Namespace) -> None:
    """Refuse to write over the checkpoints of an earlier run unless asked to."""
    work_dir = Path(cfg.work_dir)
    hook = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    folders = [work_dir]
    if (other := hook.get("out_dir")) and "://" not in str(other):
        folders.append(Path(other, os.path.basename(os.path.abspath(work_dir))))  # as MMEngine
    found = sorted(p.name for folder in folders for p in folder.glob("*.pth"))
    if args.resume == "auto":
        continues = (work_dir / "last_checkpoint").is_file()  # else it would start a new run
    else:
        own = [folder.resolve() for folder in folders]
        continues = args.resume and Path(args.resume).resolve().parent in own
    if found and not continues and not args.overwrite:
        missing = ", but no last_checkpoint" if args.resume == "auto" else ""
        raise InputError(
            f"Work dir {cfg.work_dir} holds checkpoints of an earlier run ({', '.join(found[:3])}"
            f"{', ...' if len(found) > 3 else ''}){missing}. Continue with --resume"
            f"{' FILE, one of them' if missing else ''}, choose another with --work-dir, or "
            "replace them with --overwrite."
        )


def set_load_from(cfg: Config, args: argparse.Namespace) -> None:
    """Start the whole model from a checkpoint."""
    if args.pretrained or args.resume not in (None, "auto"):
        raise InputError(
            "--load-from starts the whole model from a checkpoint, --pretrained the backbone "
            "alone, and --resume FILE continues a run: give one of the three."
        )
    args.load_from = complete_name(args.load_from)
    check_file(args.load_from, "--load-from", url=True)
    cfg.load_from, cfg.resume = args.load_from, False


def set_resume(cfg: Config, args: argparse.Namespace) -> None:
    """Continue a run; without a checkpoint in the work dir, start as without --resume."""
    if args.resume != "auto":
        check_file(args.resume, "--resume")
        cfg.load_from, cfg.resume = args.resume, True
        return
    moved = moved_checkpoint(cfg.work_dir)
    if (Path(cfg.work_dir) / "last_checkpoint").is_file():
        cfg.load_from, cfg.resume = moved, True
        return
    start = f", from the weights of {cfg.load_from}" if cfg.get("load_from") else ""
    log_warning(
        f"--resume: {cfg.work_dir} has no checkpoint to resume from; a new run starts{start}."
    )


def merge_args(cfg: Config, args: argparse.Namespace) -> None:
    """Write the arguments of training into the config."""
    if cfg.get("resume") and not args.resume and "resume" not in (args.cfg_options or {}):
        raise InputError(
            "The config has resume=True, as a resumed run leaves it in its work dir. To continue a "
            "run, give --resume; to start one, --cfg-options resume=False load_from=None."
        )
    if args.muon is not None:
        optimizer = Config.fromfile(config_path(MUON)).muon
        if isinstance(args.muon, float):
            optimizer.lr = args.muon
        cfg.optim_wrapper.optimizer = optimizer
        options = (cfg.optim_wrapper.get("paramwise_cfg") or {}).get("custom_keys") or {}
        for name, option in options.items():
            if (times := option.get("lr_mult", 1.0)) > 1:
                log_warning(
                    f"--muon: {name} learns at {times:g} times the rate, which was meant for "
                    "another optimizer. To change it: --cfg-options "
                    f"optim_wrapper.paramwise_cfg.custom_keys.{name}.lr_mult=1"
                )
    if args.amp:
        if not torch.cuda.is_available():
            raise InputError("--amp: mixed precision needs a GPU; none was found.")
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
    if str(cfg.optim_wrapper.get("dtype")).endswith("bfloat16") and cfg.model.get("roi_head"):
        log_warning(
            "dtype=bfloat16: mmdet rounds the corners of proposals to its 8 bits, large ones by "
            "pixels, before RoI heads pool them. float16, the default of --amp, has 11."
        )
    if args.auto_scale_lr:
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise InputError(
                "--auto-scale-lr: the config has no auto_scale_lr.base_batch_size; add "
                "auto_scale_lr = dict(enable=True, base_batch_size=16), with the batch size that "
                "its learning rate is meant for."
            )
        cfg.auto_scale_lr.enable = True
    if args.load_from:
        set_load_from(cfg, args)
    if args.resume:
        set_resume(cfg, args)
    if args.pretrained:
        start_from_checkpoint(cfg, complete_name(args.pretrained))
        if cfg.get("load_from") and not cfg.get("resume"):
            print_log(f"--pretrained replaces load_from={cfg.load_from} of the config.", "current")
            cfg.load_from = None
    add_class_layer_hook(cfg)


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    merge_args(cfg, args)
    protect_work_dir(cfg, args)
    check_data(cfg, "train_dataloader", "val_dataloader")
    check_schedule(cfg)
    build = RUNNERS.build if "runner_type" in cfg else Runner.from_cfg
    add_reliability(cfg, args.on_nan_loss)
    keep_freed_pages()
    alone = lock_work_dir(cfg.work_dir) if is_first(cfg.launcher) else nullcontext()
    with exit_cleanly(cfg.work_dir), alone:
        if args.overwrite and not cfg.get("resume") and is_first(cfg.launcher):
            # It names a checkpoint of the earlier run, which --resume must not continue.
            Path(cfg.work_dir, "last_checkpoint").unlink(missing_ok=True)
        runner = build(cfg)
        count_accumulation(runner)
        runner.register_hook(ScheduleHook())
        if not args.no_watch:
            add_monitoring(runner, Path(__file__).with_name("test.py"))
        runner.train()


if __name__ == "__main__":
    run_tool(main)

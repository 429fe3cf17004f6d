"""The command line of the tools: arguments, configs and errors."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config, DictAction

from mmdualtoken.config_files import FOLDERS, PROJECT_ROOT, RIVALS, config_path, suggest
from mmdualtoken.config_variables import unused_changes
from mmdualtoken.errors import InputError, MissingPackage, explain, log_warning, print_stderr
from mmdualtoken.training.distributed import print_error, start_processes
from mmdualtoken.weights.checkpoints import (
    UNSAFE_FLAG,
    UNSAFE_TEXT,
    allow_unsafe_checkpoints,
    refuse_unsafe_checkpoints,
)
from mmdualtoken.weights.shipped import SCHEME, weights_info

if sys.platform == "win32":
    # Else the first import of fcntl or resource would fail, as if a package were missing.
    raise ImportError("The tools of mmdualtoken need Linux. On Windows, run them in WSL 2.")


def number(kind: type, low: float, high: float = float("inf")) -> Callable[[str], float]:
    """Make a `type` for argparse: an int or a float from `low` to `high`."""

    def convert(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:
            allowed = f"{low} or more" if high == float("inf") else f"a number from {low} to {high}"
            raise argparse.ArgumentTypeError(f"received {text}; allowed is {allowed}")
        return value

    convert.__name__ = kind.__name__  # in argparse's message on a text that is no number
    return convert


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what names a config and changes it, for tools that run in one process."""
    parser.add_argument("config", help="config file, relative to the working directory or project")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        help="override config values: key=value, nested keys as a.b=value, lists as key=[a,b]",
    )
    parser.set_defaults(launcher="none", work_dir=None, local_rank=0)  # what load_config asks for


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and testing share, named as in mmdet."""
    add_config_arguments(parser)
    parser.add_argument("--work-dir", help="folder for logs and checkpoints (work_dirs/CONFIG)")
    parser.add_argument(
        "--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="launcher"
    )
    parser.add_argument(UNSAFE_FLAG, action="store_true", help=f"DANGEROUS: {UNSAFE_TEXT}")
    # torch.distributed.launch passes one spelling or the other, by version.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)


def find_config(name: str) -> Path:
    """Find a config file, as named or by its name in this project.

    A clone keeps the configs of other models in lab/: 'configs/mmdet/maskrcnn_r50_1x.py' and
    'mmdet/maskrcnn_r50_1x.py' both name lab/configs/mmdet/maskrcnn_r50_1x.py. Shipped weights, such
    as 'mmdualtoken://tiny', name the config that they are of.

    Raises:
        InputError: there is none; the message names the nearest ones.
    """
    if name.startswith(SCHEME):
        return Path(config_path(weights_info(name)["config"]))
    folders = (*FOLDERS, RIVALS)
    inside = name.removeprefix("./").removeprefix("configs/")
    own = Path(os.path.expanduser(name))
    for path in (own, PROJECT_ROOT / name, *(f / inside for f in folders)):
        if path.is_file():
            return path
    known = {p.stem: p for folder in folders for p in sorted(folder.glob("mm*/*.py"))}
    raise InputError(
        f"Config {name} does not exist, neither in {Path.cwd()} nor in {PROJECT_ROOT}. "
        f"{suggest(name, known) or 'Is it misspelt?'}"
    )


def read_config(file: Path) -> Config:
    """Read a config file; its custom_imports may name a module of the clone, as lab.lightvit."""
    root, path = str(PROJECT_ROOT), sys.path
    added = root not in path
    if added:
        path.append(root)
    try:
        return Config.fromfile(file)
    finally:
        if added:
            path.remove(root)


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and merge what every tool's arguments say into it.

    Raises:
        InputError: the file is missing, or cannot be read as a config.
    """
    if getattr(args, "allow_unsafe_checkpoints", False):
        allow_unsafe_checkpoints()
    path = find_config(args.config)
    try:
        cfg = read_config(path)
        if args.cfg_options is not None:
            cfg.merge_from_dict(args.cfg_options)
    except Exception as error:  # a config is code: its errors are of any kind
        raise InputError(
            f"Config {path}, with --cfg-options {args.cfg_options or 'none'}, cannot be read "
            f"({type(error).__name__}: {error}). If a base config or package is missing, "
            "`python -m mmdualtoken.doctor` lists what is installed."
        ) from error
    if {"train", "val", "test"} & set(cfg.get("data") or ()) and not cfg.get("train_dataloader"):
        raise InputError(
            f"Config {path} has data=dict(train=..., val=..., test=...), which MMDetection 2 and "
            "its kin read. Their successors want train_dataloader, val_dataloader, train_cfg, "
            "optim_wrapper and param_scheduler: begin with one of our configs, or follow their "
            "migration guides."
        )
    for text in unused_changes(cfg, args.cfg_options or ()):
        log_warning(text)
    cfg.launcher = args.launcher
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    start_processes(cfg)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / path.stem)
    _complete_loops(cfg)
    return cfg


def _complete_loops(cfg: Config) -> None:
    """Let settings agree that PyTorch and MMEngine refuse apart.

    Without worker processes none can persist or prefetch. Without a val_dataloader or
    test_dataloader there is nothing to evaluate. mmpretrain's configs leave loader settings out,
    which its own train.py adds.
    """
    for split in ("train", "val", "test"):
        loader = cfg.get(f"{split}_dataloader")
        if loader and cfg.get("default_scope") == "mmpretrain":
            loader.setdefault("pin_memory", torch.cuda.is_available())
            loader.setdefault("persistent_workers", True)
            loader.setdefault("collate_fn", dict(type="default_collate"))
        if loader and not loader.get("num_workers"):
            loader.update(persistent_workers=False, prefetch_factor=None)
        elif not loader and split != "train":
            cfg.update({f"{split}_cfg": None, f"{split}_evaluator": None})


def run_tool(main: Callable[[], None]) -> None:
    """Run a tool; a user's error becomes one paragraph on stderr and exit status 2."""
    refuse_unsafe_checkpoints()
    try:
        main()
        return
    except InputError as error:
        known = None if isinstance(error, MissingPackage) else explain(error.__cause__)
        text = known or str(error)
    except KeyboardInterrupt:
        print_stderr("\nStopped by Ctrl-C.")
        sys.exit(130)
    except json.JSONDecodeError as error:
        text = (
            f"an annotation file is not valid JSON ({error}). If it is cut off, copy or download "
            "it again; if it begins with a byte order mark (BOM), save it as UTF-8 without."
        )
    except Exception as error:
        if (text := explain(error)) is None:
            raise
    print_error(text)
    sys.exit(2)

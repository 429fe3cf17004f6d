"""Runs of several processes: checks of the launcher, gloo without a GPU, and error messages."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import timedelta

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import all_reduce, is_distributed
from mmengine.logging import print_log

from mmdualtoken.errors import InputError, print_stderr

SYNC_BN = ("SyncBN", "SyncBatchNorm", "MMSyncBN")
#: FSDP's whole state dict without moving it to the CPU: from there, PyTorch 2.11 does not copy
#: tensors whose memory it frees afterwards, and crashes.
FULL_ON_CPU = dict(
    state_dict_type="FULL_STATE_DICT",
    state_dict_config=dict(type="FullStateDictConfig", rank0_only=True),
    optim_state_dict_config=dict(type="FullOptimStateDictConfig", rank0_only=True),
)
#: How long a process waits for the first one to print the same error.
PATIENCE = timedelta(seconds=5)
#: Where each launcher tells a process its number.
RANKS = dict(pytorch="RANK", slurm="SLURM_PROCID", mpi="OMPI_COMM_WORLD_RANK")
TORCHRUN = "tools/dist_train.sh CONFIG PROCESSES, or torchrun --nproc-per-node=PROCESSES"


def start_processes(cfg: Config) -> None:
    """Prepare a run of several processes by `cfg.launcher`, before the runner is built.

    With GPUs, one for each process, MMEngine does the rest. Without one, `--launcher pytorch`
    gets the backend gloo (or the config's `env_cfg.dist_cfg.backend`, if it is not nccl), model
    wrappers for the CPU, and BatchNorm in place of SyncBatchNorm, which computes on GPUs only.

    Raises:
        InputError: the process was not started by the launcher, a process has no GPU of its own,
            or the launcher does not work without one.
    """
    if cfg.launcher == "none":
        return
    if cfg.launcher == "pytorch":
        _check_torchrun()
    if torch.cuda.is_available():
        return
    if cfg.launcher != "pytorch":
        raise InputError(
            f"--launcher {cfg.launcher}: no GPU was found, and without one only --launcher pytorch "
            f"works: {TORCHRUN} (on several machines, one for each, also under srun)."
        )
    _start_gloo(cfg)
    _wrap_for_cpu(cfg)
    _replace_sync_bn(cfg)


def is_first(launcher: str) -> bool:
    """Whether this is the first process, or the only one; known before they have joined."""
    return os.environ.get(RANKS.get(launcher, ""), "0") == "0"


def max_over_processes(number: int) -> int:
    """The largest of the numbers that the processes pass; with one process, its own."""
    if not is_distributed():
        return int(number)
    value = torch.tensor([int(number)])
    all_reduce(value, op="max")
    return int(value)


def _check_torchrun() -> None:
    missing = [n for n in ("RANK", "WORLD_SIZE", "MASTER_ADDR") if n not in os.environ]
    if missing:
        raise InputError(
            f"--launcher pytorch: {', '.join(missing)} not set in the environment; start the "
            f"processes with {TORCHRUN}. For a single process leave --launcher out."
        )
    local_rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if torch.cuda.is_available() and local_rank >= gpus:
        raise InputError(
            f"--launcher pytorch: this is process {local_rank + 1} of this machine, which has "
            f"{gpus} GPU(s); start at most {gpus}, or none on GPUs: CUDA_VISIBLE_DEVICES=-1."
        )


def _start_gloo(cfg: Config) -> None:
    """Join the process group, with the config's timeout in seconds."""
    if not torch.distributed.is_available():
        raise InputError("--launcher pytorch: this build of torch has no torch.distributed.")
    settings = dict(cfg.get("env_cfg", {}).get("dist_cfg") or {})
    backend = settings.pop("backend", "nccl")
    backend = "gloo" if backend == "nccl" else backend
    if "timeout" in settings:
        settings["timeout"] = timedelta(seconds=settings["timeout"])
    torch.distributed.init_process_group(backend, **settings)


def _wrap_for_cpu(cfg: Config) -> None:
    """Take the GPU, which MMEngine assumes for each process, out of the model wrappers.

    Runner reads `model_wrapper_cfg`, FlexibleRunner `strategy`.
    """
    unused = cfg.get("find_unused_parameters", False)
    ddp = dict(
        type="MMDistributedDataParallel", broadcast_buffers=False, find_unused_parameters=unused
    )
    if "runner_type" not in cfg:
        wrapper = cfg.get("model_wrapper_cfg") or ddp
        cfg.model_wrapper_cfg = ConfigDict({**wrapper, "device_ids": None})
        return
    strategy = dict(cfg.get("strategy") or dict(type="DDPStrategy"))
    wrapper = strategy.get("model_wrapper")
    kind = strategy.get("type")
    if getattr(kind, "__name__", kind).endswith("FSDPStrategy"):
        strategy["model_wrapper"] = {**(wrapper or {}), "device_id": "cpu"}
        if strategy.get("state_dict_cfg") == "full":
            strategy["state_dict_cfg"] = deepcopy(FULL_ON_CPU)
    else:
        strategy["model_wrapper"] = {**(wrapper or ddp), "device_ids": None}
    cfg.strategy = ConfigDict(strategy)


def _dicts(node: object) -> Iterator[dict]:
    """All dicts within lists, tuples and dicts."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            yield from _dicts(value)


def _replace_sync_bn(cfg: Config) -> None:
    """Let each process normalise by its own batch, as MMEngine does in a single process."""
    found = bool(cfg.pop("sync_bn", None))
    if cfg.get("strategy"):
        found |= bool(cfg.strategy.pop("sync_bn", None))
    for node in _dicts(cfg.get("model")):
        kind = node.get("type")
        name = getattr(kind, "__name__", kind)
        if isinstance(name, str) and name.split(".")[-1] in SYNC_BN:  # also 'mmengine.SyncBN'
            node["type"], found = "BN", True
    if found:
        print_log(
            "SyncBatchNorm computes on GPUs only: without one, each process normalises by its own "
            "batch (BN). Names in checkpoints stay the same.",
            logger="current",
            level=logging.WARNING,
        )


@contextmanager
def explain_sync_bn() -> Iterator[None]:
    """Explain the error about a SyncBatchNorm that is a class's default, not the config's choice.

    `start_processes` replaces what the config names; PyTorch refuses the others on the CPU when
    the model is wrapped.

    Raises:
        InputError: inside, PyTorch has refused a SyncBatchNorm on the CPU.
    """
    try:
        yield
    except ValueError as error:
        if "SyncBatchNorm" not in str(error):
            raise
        raise InputError(
            "A part of the model is normalised by SyncBatchNorm, which computes on GPUs only, "
            "though the config does not say so: it is the default of its class. Give that part "
            "norm_cfg=dict(type='BN'), by which each process normalises by its own batch; or use "
            "a single process, without --launcher; or GPUs."
        ) from error


def print_error(text: str) -> None:
    """Print on stderr why a tool ends; of several processes with the same text, the first one.

    Another process waits a moment for the first one's text, and prints its own if that differs.
    """
    if not _first_process_prints(text):
        print_stderr(f"\nerror: {text}")


def _first_process_prints(text: str) -> bool:
    """Compare the text with the first process's in the group's store, or before it in torchrun's.

    torchrun's own `record` would print a traceback for each process.
    """
    dist = torch.distributed
    if int(os.environ.get("WORLD_SIZE", 1)) < 2 or not dist.is_available():
        return False
    # torchrun can start all processes again, with the same store.
    key = f"mmdualtoken_error_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    try:
        if dist.is_initialized():
            store = dist.distributed_c10d._get_default_store()
        elif os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store = dist.TCPStore(address, port, is_master=False, timeout=PATIENCE)
        else:
            return False
        if int(os.environ["RANK"]) == 0:
            store.set(key, text)
            return False
        store.wait([key], PATIENCE)
        return store.get(key).decode() == text
    except (RuntimeError, KeyError, ValueError):  # no store, no text in it, a launcher's mistake
        return False

"""Runs of several processes: checks of the launcher, gloo without a GPU, and error messages."""

import os
import time
from collections.abc import Sequence
from copy import deepcopy
from datetime import timedelta
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import all_reduce, is_distributed
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS
from torch import nn

from mmdualtoken.config_files import type_name
from mmdualtoken.errors import InputError, log_warning, print_stderr

#: FSDP's whole state dict without moving it to the CPU: from there, PyTorch 2.11 does not copy
#: tensors whose memory it frees afterwards, and crashes.
FULL_ON_CPU = dict(
    state_dict_type="FULL_STATE_DICT",
    state_dict_config=dict(type="FullStateDictConfig", rank0_only=True),
    optim_state_dict_config=dict(type="FullOptimStateDictConfig", rank0_only=True),
)
#: Seconds that the first process has to end with an error before others print theirs.
PATIENCE = 15
#: Where each launcher tells a process its number.
RANKS = dict(pytorch="RANK", slurm="SLURM_PROCID", mpi="OMPI_COMM_WORLD_RANK")
TORCHRUN = "tools/dist_train.sh CONFIG PROCESSES, or torchrun --nproc-per-node=PROCESSES"


def start_processes(cfg: Config) -> None:
    """Prepare a run of several processes by `cfg.launcher`, before the runner is built.

    With GPUs, one for each process, MMEngine does the rest. Without one, `--launcher pytorch`
    gets the backend gloo (or the config's `env_cfg.dist_cfg.backend`, if it is not nccl) and model
    wrappers for the CPU.

    Raises:
        InputError: the process was not started by the launcher, a process has no GPU of its own,
            or the launcher does not work without one.
    """
    if cfg.launcher == "none":
        return
    if cfg.launcher == "pytorch":
        _check_torchrun()
    if torch.cuda.is_available():
        if cfg.launcher == "slurm":
            _check_srun()
        if cfg.launcher == "mpi":
            _check_mpirun()
        return
    if cfg.launcher != "pytorch":
        raise InputError(
            f"--launcher {cfg.launcher}: no GPU was found, and without one only --launcher pytorch "
            f"works: {TORCHRUN} (on several machines, one for each, also under srun)."
        )
    _start_gloo(cfg)
    _wrap_for_cpu(cfg)


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


def _require_variables(launcher: str, names: Sequence[str], how: str) -> None:
    """Refuse a process that its launcher did not start; `how` says the right way."""
    if missing := [name for name in names if name not in os.environ]:
        raise InputError(
            f"--launcher {launcher}: {', '.join(missing)} not set in the environment; start the "
            f"processes {how}. For a single process leave --launcher out."
        )


def _check_torchrun() -> None:
    _require_variables("pytorch", ("RANK", "WORLD_SIZE", "MASTER_ADDR"), f"with {TORCHRUN}")
    local_rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if torch.cuda.is_available() and local_rank >= gpus:
        raise InputError(
            f"--launcher pytorch: this is process {local_rank + 1} of this machine, which has "
            f"{gpus} GPU(s); start at most {gpus}, or none on GPUs: CUDA_VISIBLE_DEVICES=-1."
        )


def _check_srun() -> None:
    names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST")
    how = "with tools/slurm_train.sh PARTITION JOB_NAME CONFIG, or by srun"
    _require_variables("slurm", names, how)


def _check_mpirun() -> None:
    """Check mpirun's environment, and set LOCAL_RANK, the GPU of the model wrappers."""
    number = "OMPI_COMM_WORLD_LOCAL_RANK"
    names = (number, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "MASTER_ADDR")
    how = "by Open MPI: mpirun -n PROCESSES -x MASTER_ADDR=HOST python ... --launcher mpi, with "
    _require_variables("mpi", names, how + "the first machine as HOST")
    os.environ["LOCAL_RANK"] = os.environ[number]


def _start_gloo(cfg: Config) -> None:
    """Join the process group, with the config's timeout in seconds."""
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
    if "runner_type" not in cfg:
        unused = cfg.get("find_unused_parameters", False)
        cfg.model_wrapper_cfg = _ddp_for_cpu(cfg.get("model_wrapper_cfg"), unused)
        return
    strategy = dict(cfg.get("strategy") or dict(type="DDPStrategy"))
    if type_name(strategy).endswith("FSDPStrategy"):
        strategy["model_wrapper"] = {**(strategy.get("model_wrapper") or {}), "device_id": "cpu"}
        if strategy.get("state_dict_cfg") == "full":
            strategy["state_dict_cfg"] = deepcopy(FULL_ON_CPU)
    else:
        strategy["model_wrapper"] = _ddp_for_cpu(strategy.get("model_wrapper"))
    cfg.strategy = ConfigDict(strategy)


def _ddp_for_cpu(wrapper: dict | None, unused: bool = False) -> ConfigDict:
    stock = "MMDistributedDataParallel"
    wrapper = dict(wrapper or dict(broadcast_buffers=False, find_unused_parameters=unused))
    if type_name({"type": stock, **wrapper}) == stock:
        wrapper["type"] = "CPUDistributedDataParallel"
    return ConfigDict(wrapper, device_ids=None)


def without_sync_bn(model: nn.Module) -> nn.Module:
    """Let each process normalise by its own batch, as MMEngine does in a single process."""
    if not any(type(module).__name__ == "SyncBatchNorm" for module in model.modules()):
        return model
    log_warning(
        "SyncBatchNorm computes on GPUs only: without one, each process normalises by its own "
        "batch (BatchNorm). Names in checkpoints stay the same."
    )
    return revert_sync_batchnorm(model)


@MODEL_WRAPPERS.register_module(force=True)
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """`MMDistributedDataParallel` of a model `without_sync_bn`."""

    def __init__(self, module: nn.Module, **kwargs: Any):
        super().__init__(without_sync_bn(module), **kwargs)


def print_error(text: str) -> None:
    """Print on stderr why a tool ends; of several processes, the first one to end does it.

    Processes mostly end with the same error. A launcher that sees the first one end ends those that
    still wait here; without such a launcher each prints its own.
    """
    if any(os.environ.get(name, "0") != "0" for name in RANKS.values()):
        time.sleep(PATIENCE)
    print_stderr(f"\nerror: {text}")

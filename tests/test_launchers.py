"""What a launcher needs is checked; machines without a GPU get gloo, wrappers and BatchNorm."""

import os
import subprocess

import pytest
import torch
from helpers import build, log_lines
from mmengine.config import Config
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS
from ranks import ROOT, environment, free_port
from tasks import TASKS
from torch import nn

from mmdualtoken.errors import InputError
from mmdualtoken.training.distributed import FULL_ON_CPU, is_first, start_processes


@pytest.fixture
def alone(monkeypatch):
    """The environment of torchrun for a single process; the group is left afterwards."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, value in dict(
        RANK=0, LOCAL_RANK=0, WORLD_SIZE=1, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port()
    ).items():
        monkeypatch.setenv(name, str(value))
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def started(**cfg):
    cfg = Config(dict(launcher="pytorch", **cfg))
    start_processes(cfg)
    return cfg


def test_gloo_in_place_of_nccl(alone):
    cfg = started(env_cfg=dict(dist_cfg=dict(backend="nccl", timeout=77)))
    assert torch.distributed.get_backend() == "gloo"
    group = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
    assert group.options._timeout.total_seconds() == 77
    assert cfg.model_wrapper_cfg == dict(
        type="CPUDistributedDataParallel",
        broadcast_buffers=False,
        find_unused_parameters=False,
        device_ids=None,
    )


CPU = dict(type="CPUDistributedDataParallel")
WRAPPERS = [
    (dict(type="MMDistributedDataParallel", static_graph=True), dict(CPU, static_graph=True)),
    (dict(type="Own", a=1), dict(type="Own", a=1)),
    (None, dict(CPU, broadcast_buffers=False, find_unused_parameters=True)),
]


@pytest.mark.parametrize("given, expected", WRAPPERS)
def test_settings_of_the_wrapper_stay(given, expected, alone):
    cfg = dict(model_wrapper_cfg=given) if given else dict(find_unused_parameters=True)
    assert started(**cfg).model_wrapper_cfg == dict(expected, device_ids=None)


def test_strategies_get_the_cpu(alone):
    policy = dict(auto_wrap_policy="dualtoken_wrap_policy")
    fsdp = dict(type="ResumingFSDPStrategy", model_wrapper=policy, state_dict_cfg="full")
    cfg = started(runner_type="FlexibleRunner", strategy=fsdp)
    assert cfg.strategy == dict(
        type="ResumingFSDPStrategy",
        model_wrapper=dict(policy, device_id="cpu"),
        state_dict_cfg=FULL_ON_CPU,
    )
    torch.distributed.destroy_process_group()
    cfg = started(runner_type="FlexibleRunner")
    assert cfg.strategy.type == "DDPStrategy"
    assert cfg.strategy.model_wrapper.device_ids is None


@pytest.mark.parametrize("named", [True, False])
def test_sync_bn_becomes_bn(named, alone):
    """Whether the config names it or a class has it by default; names in checkpoints stay."""
    started()
    model = build(out_norm_cfg=dict(type="SyncBN", eps=1e-3) if named else dict(type="BN"))
    model.default = nn.Sequential(nn.SyncBatchNorm(4))
    names = list(model.state_dict())
    wrapper = dict(type="CPUDistributedDataParallel", module=model, device_ids=None)
    with log_lines() as lines:
        wrapped = MODEL_WRAPPERS.build(wrapper).module
    assert not kinds(wrapped, nn.SyncBatchNorm) and list(wrapped.state_dict()) == names
    assert wrapped.norm0.eps == (1e-3 if named else 1e-5)
    wrapped.train()(torch.rand(2, 3, 64, 64))
    assert wrapped.norm0.num_batches_tracked == 1
    assert len([line for line in lines if "SyncBatchNorm computes on GPUs only" in line]) == 1


def test_without_torchrun(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match=r"RANK.* not set.*tools/dist_train\.sh"):
        started()


def test_more_processes_than_gpus(alone, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match=r"process 3 .* 2 GPU.*start at most 2"):
        started()
    monkeypatch.setenv("LOCAL_RANK", "1")
    cfg = started()  # MMEngine does the rest
    assert not torch.distributed.is_initialized() and "model_wrapper_cfg" not in cfg


def test_without_srun(alone, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("SLURM_PROCID", "0")
    for name in ("SLURM_NTASKS", "SLURM_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=r"slurm: SLURM_NTASKS, SLURM_NODELIST not set"):
        start_processes(Config(dict(launcher="slurm")))
    for name in ("SLURM_NTASKS", "SLURM_NODELIST"):
        monkeypatch.setenv(name, "1")
    start_processes(Config(dict(launcher="slurm")))  # MMEngine does the rest


def test_mpirun_gives_each_process_its_gpu(alone, monkeypatch):
    """MMEngine puts the process on its GPU, and takes LOCAL_RANK for the model's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("LOCAL_RANK", "RANK", "SIZE"):
        monkeypatch.delenv(f"OMPI_COMM_WORLD_{name}", raising=False)
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "1")
    with pytest.raises(InputError, match=r"OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE not set"):
        start_processes(Config(dict(launcher="mpi")))
    for name in ("RANK", "SIZE"):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", "1")
    start_processes(Config(dict(launcher="mpi")))
    assert os.environ["LOCAL_RANK"] == "1"


@pytest.mark.parametrize("launcher", ["slurm", "mpi"])
def test_launchers_that_need_gpus(launcher, alone):
    with pytest.raises(InputError, match=f"--launcher {launcher}: no GPU.*torchrun"):
        start_processes(Config(dict(launcher=launcher)))


def kinds(model, kind):
    return [name for name, m in model.named_modules() if isinstance(m, kind)]


@pytest.mark.parametrize("out_norm_cfg", [dict(type="BN"), dict(type="SyncBN"), dict(type="LN")])
def test_sync_bn_conversion(out_norm_cfg):
    """`sync_bn = 'torch'` reaches the stem's and the outputs' BatchNorm; names stay."""
    model = build(out_norm_cfg=out_norm_cfg)
    names = list(model.state_dict())
    outputs = [] if out_norm_cfg["type"] == "LN" else ["norm0", "norm1", "norm2"]
    if out_norm_cfg["type"] == "SyncBN":
        assert kinds(model, nn.SyncBatchNorm) == outputs
    synced = convert_sync_batchnorm(model, "torch")
    stem = [f"stem.convs.{i}" for i in (1, 4, 7, 10)]
    assert kinds(synced, nn.SyncBatchNorm) == stem + outputs
    assert not kinds(synced, nn.BatchNorm2d)
    assert list(synced.state_dict()) == names
    assert list(revert_sync_batchnorm(synced).state_dict()) == names


def test_sync_bn_by_the_tool(alone, project, tool):
    options = ["model.decode_head.norm_cfg.type=SyncBN", "find_unused_parameters=True"]
    arguments = [TASKS["segmentation"][0], "--launcher", "pytorch", "--cfg-options", *options]
    status, printed = tool("train", *arguments)
    assert status == 0, printed[-3000:]
    assert "SyncBatchNorm computes on GPUs only" in printed


@pytest.mark.parametrize(
    "launcher, name",
    [("pytorch", "RANK"), ("slurm", "SLURM_PROCID"), ("mpi", "OMPI_COMM_WORLD_RANK")],
)
def test_first_process(launcher, name, monkeypatch):
    for rank in ("0", "1", "10"):
        monkeypatch.setenv(name, rank)
        assert is_first(launcher) is (rank == "0")
    assert is_first("none")


TORCHRUN = "-m torch.distributed.run --nnodes={} --node-rank={} --master-addr={} --master-port={}"
SRUN = "-p part --job-name=job --gres=gpu:4 --ntasks=4 --ntasks-per-node=4 --cpus-per-task=5"
SCRIPTS = {
    "dist_train.sh c.py 8 --amp": (
        dict(NNODES="2", NODE_RANK="1", MASTER_ADDR="host0", PORT="29501"),
        f"{TORCHRUN.format(2, 1, 'host0', 29501)} --nproc-per-node=8 "
        f"{ROOT}/tools/train.py c.py --launcher pytorch --amp",
    ),
    "dist_test.sh c.py a.pth 8 --tta": (
        dict(PORT="1"),
        f"{TORCHRUN.format(1, 0, '127.0.0.1', 1)} --nproc-per-node=8 "
        f"{ROOT}/tools/test.py c.py a.pth --launcher pytorch --tta",
    ),
    "slurm_train.sh part job c.py --amp": (
        dict(GPUS="4", PORT="29501"),
        f"29501 {SRUN} --kill-on-bad-exit=1 echo -u "
        f"{ROOT}/tools/train.py c.py --launcher slurm --amp",
    ),
}


@pytest.mark.parametrize("command", SCRIPTS)
def test_scripts(command, tmp_path):
    """What they hand to torchrun and srun, in whose place something prints it."""
    (tmp_path / "srun").write_text('#!/bin/sh\necho "$MASTER_PORT $*"\n')
    (tmp_path / "srun").chmod(0o755)
    variables, said = SCRIPTS[command]
    script, *words = command.split()
    own = environment(PATH=f"{tmp_path}:/usr/bin:/bin", PYTHON="echo", **variables)
    for name in {"NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "SRUN_ARGS"} - set(variables):
        own.pop(name, None)
    done = subprocess.run(
        [ROOT / "tools" / script, *words], env=own, capture_output=True, text=True
    )
    assert done.stdout == f"{said}\n", done.stderr

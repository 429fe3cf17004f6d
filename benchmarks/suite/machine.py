"""The machine: what it is, and what it can do at most."""

import os
import platform
import shlex
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

GEMM_SIZES = (1024, 2048, 4096)
COPY_BYTES = 1 << 28  # far more than the caches hold


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _installed(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def describe(device: torch.device) -> dict[str, str]:
    """Hardware, versions and command of this run, for its records."""
    import mmcv
    import mmengine

    packages = ("timm", "onnxruntime", "openvino", "nncf")
    others = ", ".join(f"{name} {_installed(name)}" for name in packages)
    hardware = f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        hardware = f"{torch.cuda.get_device_name(device)} (CUDA {torch.version.cuda}); {hardware}"
    return {
        "command": shlex.join(["python", *map(str, sys.argv)]),
        "hardware": hardware,
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"mmengine {mmengine.__version__}, mmcv {mmcv.__version__}, {others}",
    }


def gemms(device: torch.device, dtype: torch.dtype) -> dict[str, tuple[Callable, float]]:
    """Square matrix products, each with its multiply-accumulates, by name."""
    made = {}
    for n in GEMM_SIZES:
        a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        out = torch.empty_like(a)
        made[f"gemm {n}"] = (lambda a=a, b=b, out=out: torch.mm(a, b, out=out), float(n**3))
    return made


def copy_candidate(device: torch.device) -> tuple[Callable, float]:
    """A copy of a large tensor, and the bytes that it reads and writes."""
    source = torch.ones(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2.0 * COPY_BYTES


def limits(seconds: dict[str, list[float]], macs: dict[str, float]) -> list[float]:
    """Per round the highest multiply-accumulates per second of the candidates named 'gemm …'."""
    rates = [[macs[name] / s for s in seconds[name]] for name in macs if name.startswith("gemm ")]
    return [max(column) for column in zip(*rates, strict=True)]

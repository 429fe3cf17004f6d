"""How a model is run: as it is, in bf16, fused, compiled, or by another runtime."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from mmdualtoken.errors import InputError
from mmdualtoken.export.formats import RUNTIMES, Onnx
from mmdualtoken.export.quantization import Nncf

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def fuse(model: nn.Module) -> nn.Module:
    """A copy with what its author folds for deployment: switch_to_deploy, or timm's fuse."""
    model = copy.deepcopy(model).eval()
    for module in list(model.modules()):
        if hasattr(module, "switch_to_deploy"):
            module.switch_to_deploy()
            return model
    try:
        from timm.utils.model import reparameterize_model
    except ImportError:
        return model
    return reparameterize_model(model)


def autocast(device: torch.device, dtype: str):
    """Mixed precision as training uses it; nothing for fp32."""
    if dtype == "fp32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[dtype])


def inference(
    model: nn.Module, images: torch.Tensor, variant: str, dtype: str
) -> Callable[[], object]:
    """A function that runs the model on the images once, by one of VARIANTS."""
    return VARIANTS[variant](model.eval(), images, dtype)


def _eager(model: nn.Module, images: torch.Tensor, dtype: str) -> Callable[[], object]:
    def run():
        with torch.inference_mode(), autocast(images.device, dtype):
            return model(images)

    return run


def _channels_last(model: nn.Module, images: torch.Tensor, dtype: str) -> Callable[[], object]:
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    return _eager(model, images.to(memory_format=torch.channels_last), dtype)


def _bf16(model: nn.Module, images: torch.Tensor, dtype: str) -> Callable[[], object]:
    return _eager(model, images, "bf16")


def _fused(model: nn.Module, images: torch.Tensor, dtype: str) -> Callable[[], object]:
    return _eager(fuse(model), images, dtype)


def _compiled(model: nn.Module, images: torch.Tensor, dtype: str) -> Callable[[], object]:
    # Freezing makes constants of the weights: BatchNorms are folded and matrices packed, for peers
    # as for ours.
    from torch._inductor import config

    compiled = torch.compile(fuse(model))

    def run():
        with config.patch(freezing=True), torch.no_grad(), autocast(images.device, dtype):
            return compiled(images)

    return run


def _aoti(model: nn.Module, images: torch.Tensor, dtype: str) -> Callable[[], object]:
    # As a file that a program without Python loads, too.
    from torch._inductor import aoti_compile_and_package, aoti_load_package, config

    with TemporaryDirectory() as folder, torch.no_grad(), autocast(images.device, dtype):
        program = torch.export.export(fuse(model), (images,))
        with config.patch(freezing=True):
            file = aoti_compile_and_package(program, package_path=f"{folder}/model.pt2")
        compiled = aoti_load_package(file)
    return lambda: compiled(images)


def _onnx(
    model: nn.Module,
    images: torch.Tensor,
    dtype: str,
    runtime: str = "onnxruntime",
    shrink: Callable[[Path, torch.Tensor], Path] = lambda file, images: file,
) -> Callable[[], object]:
    if dtype != "fp32" or images.device.type != "cpu":
        raise InputError("--variants onnx, openvino, int8: measured in fp32 on the CPU alone")
    RUNTIMES[runtime].check()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        torch.onnx.export(
            fuse(model),
            (images,),
            input_names=["images"],
            dynamo=True,
            opset_version=Onnx.opset,
            verbose=False,
        ).save(file)
        run = RUNTIMES[runtime].load(shrink(file, images), torch.get_num_threads())
    return lambda: run(images)


def _openvino(model: nn.Module, images: torch.Tensor, dtype: str) -> Callable[[], object]:
    return _onnx(model, images, dtype, "openvino")


def _openvino_int8(model: nn.Module, images: torch.Tensor, dtype: str) -> Callable[[], object]:
    def by_nncf(file: Path, images: torch.Tensor) -> Path:
        target = file.with_suffix(".xml")
        Nncf.quantize(file, target, [image[None].numpy() for image in images])
        return target

    return _onnx(model, images, dtype, "openvino", by_nncf)


def _int8(model: nn.Module, images: torch.Tensor, dtype: str) -> Callable[[], object]:
    def products(file: Path, images: torch.Tensor) -> Path:
        Onnx.quantize(file)
        return file

    return _onnx(model, images, dtype, shrink=products)


VARIANTS: dict[str, Callable] = {
    "eager": _eager,
    "channels_last": _channels_last,
    "bf16": _bf16,
    "fused": _fused,
    "compiled": _compiled,
    "aoti": _aoti,
    "onnx": _onnx,
    "openvino": _openvino,
    "openvino-int8": _openvino_int8,
    "int8": _int8,
}


def training_step(
    model: nn.Module, images: torch.Tensor, variant: str, dtype: str
) -> Callable[[], object]:
    """A function that makes one step: forward, backward and AdamW; 'eager' or 'compiled'."""
    if variant not in ("eager", "channels_last", "compiled"):
        raise InputError(f"--variants {variant}: for inference only; training: eager, compiled")
    model.train()
    if variant == "channels_last":
        model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    scaler = torch.amp.GradScaler(images.device.type, enabled=dtype == "fp16")

    def loss_of(images):
        with autocast(images.device, dtype):
            outputs = model(images)
            outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
            return sum(out.float().square().mean() for out in outputs)

    compiled = torch.compile(loss_of) if variant == "compiled" else loss_of

    def run():
        scaler.scale(compiled(images)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return run

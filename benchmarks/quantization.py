"""What do bf16 and 8 bits gain on a CPU, in OpenVINO and in ONNX Runtime?

    python benchmarks/quantization.py                                  # DualToken-ViT, 224 x 224
    python benchmarks/quantization.py --models dualtoken_s mobilenetv4_conv_medium repvit_m1_0
    python benchmarks/quantization.py --configs mmdet/retinanet_dualtoken_t_1x.py --shape 640 640

Classifiers and whole detectors with random weights. The files are those of tools/export.py, for any
size of images; OpenVINO runs them as they are, and with the size fixed before they are compiled.
The candidates of a model are timed in turn, in one run, in one thread, by the process's CPU time.
Speed-ups are over OpenVINO's fp32 of the same model at a fixed size.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from suite.machine import describe
from suite.peers import choose, randomise
from suite.results import keep, new_folder, show
from suite.timing import alternate, ratio
from suite.variants import fuse
from torch import nn

from mmdualtoken.cli import find_config, read_config, run_tool
from mmdualtoken.export import raw_outputs as export
from mmdualtoken.export.formats import Onnx
from mmdualtoken.export.measure import build_model
from mmdualtoken.export.quantization import Nncf, StaticOnnx
from mmdualtoken.export.results import Results

REFERENCE = "OpenVINO fp32"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=["dualtoken_t", "dualtoken_s"])
    parser.add_argument("--configs", nargs="*", default=[], help="whole models, by their configs")
    parser.add_argument("--shape", type=int, nargs=2, default=[224, 224], metavar=("H", "W"))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="images per batch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", help="a new folder (default: benchmarks/results/quantization_*)")
    return parser.parse_args()


def write(name: str, whole: bool, shape: list[int], folder: Path) -> tuple[Path, nn.Module]:
    """Write a model as ONNX: timm's for one size of images and all batches, ours for all sizes.

    Also returned: the model itself.
    """
    file, images = folder / "model.onnx", torch.randn(1, 3, *shape)
    torch.manual_seed(0)
    if whole:
        cfg = read_config(find_config(name))
        outputs = Results(randomise(build_model(cfg)), cfg).eval()
    else:
        model = randomise(choose([name])[0].classifier()).eval()
        if not name.startswith("dualtoken"):
            model = fuse(model)
            torch.onnx.export(
                model,
                (images,),
                input_names=["images"],
                dynamic_shapes=({0: "batch"},),
                dynamo=True,
                opset_version=Onnx.opset,
                verbose=False,
            ).save(file)
            return file, model
        outputs = export.RawOutputs(model, "mmpretrain").eval()
    Onnx.save(export.record(outputs), outputs.names(), {}, file)
    return file, fuse(outputs)


def openvino(file: Path, images: np.ndarray, precision: str, one_size: bool) -> Callable:
    """A function that runs a file on the images in OpenVINO."""
    import openvino

    model = openvino.Core().read_model(file)
    if one_size:
        model.reshape(list(images.shape))
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1}
    options["ENABLE_CPU_PINNING"] = False
    ready = openvino.Core().compile_model(model, "CPU", options)
    return lambda: ready({"images": images})


def onnxruntime(file: Path, images: np.ndarray) -> Callable:
    """A function that runs a file on the images in ONNX Runtime."""
    run, images = Onnx.load(file, 1), torch.from_numpy(images)
    return lambda: run(images)


def eager(model: nn.Module, images: np.ndarray) -> Callable:
    """A function that runs the model itself on the images."""
    return lambda: torch.inference_mode()(model)(torch.from_numpy(images))


def candidates(
    file: Path, model: nn.Module, quantized: dict, images: np.ndarray
) -> tuple[dict, list[str]]:
    """Functions to time by name, and what does not run."""
    makers = {
        "PyTorch": lambda: eager(model, images),
        REFERENCE: lambda: openvino(file, images, "f32", True),
        "OpenVINO bf16": lambda: openvino(file, images, "bf16", True),
        "OpenVINO 8 bits": lambda: openvino(quantized[Nncf], images, "f32", True),
        "OpenVINO fp32, any size": lambda: openvino(file, images, "f32", False),
        "OpenVINO bf16, any size": lambda: openvino(file, images, "bf16", False),
        "OpenVINO 8 bits, any size": lambda: openvino(quantized[Nncf], images, "f32", False),
    }
    for name, source in (("fp32", file), ("8 bits", quantized[StaticOnnx])):
        makers[f"ONNX Runtime {name}"] = lambda file=source: onnxruntime(file, images)
    found, failed = {}, []
    for name, make in makers.items():
        try:
            found[name] = make()
            found[name]()
        except RuntimeError as error:
            found.pop(name, None)
            failed.append(f"{name}: {str(error).strip().splitlines()[-1]}")
    return found, failed


def measure(name: str, whole: bool, args: argparse.Namespace) -> tuple[list[dict], list[str]]:
    """Rows of one model, and what did not run."""
    rows, notes = [], []
    with TemporaryDirectory() as text:
        folder = Path(text)
        file, model = write(name, whole, args.shape, folder)
        generator = np.random.default_rng(0)
        images = generator.standard_normal((max(args.batch), 3, *args.shape), np.float32)
        quantized = {StaticOnnx: folder / "small.onnx", Nncf: folder / "small.xml"}
        for quantizer, target in quantized.items():
            quantizer.quantize(file, target, [image[None] for image in images[:4]])
        for batch in args.batch:
            functions, failed = candidates(file, model, quantized, images[:batch])
            seconds = alternate(functions, args.rounds, torch.device("cpu"), 1, time.process_time)
            for candidate, taken in seconds.items():
                row = dict(model=name, batch=batch, candidate=candidate, ms=1000 * median(taken))
                row["speedup"], row["low"], row["high"] = ratio(seconds[REFERENCE], taken)
                rows.append(row)
            notes += [f"{name}, {batch} images, {line}" for line in failed]
    return rows, notes


def main() -> None:
    args = parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    Nncf.check()
    folder = new_folder("quantization", args.out)
    machine, rows, notes = describe(torch.device("cpu")), [], []
    models = [(name, False) for name in args.models] + [(name, True) for name in args.configs]
    for name, whole in models:
        found, failed = measure(name, whole, args)
        rows, notes = rows + found, notes + failed
        show(f"{name}: speed-up over {REFERENCE} at a fixed size", found, failed)
        keep(folder, "quantization", rows, machine | {"not run": "; ".join(notes) or "nothing"})
    print(f"written: {folder}")


if __name__ == "__main__":
    run_tool(main)

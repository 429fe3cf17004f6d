"""The files that a recorded graph is written to: ONNX, and PyTorch's own."""

import json
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from mmdualtoken.errors import InputError, MissingPackage, reason_of
from mmdualtoken.export import runner
from mmdualtoken.export.detection import onnx_nms
from mmdualtoken.export.measure import quiet

Run = Callable[[torch.Tensor], Sequence[torch.Tensor]]


def set_metadata(path: Path, metadata: dict[str, str]) -> None:
    """Give an ONNX file this metadata and no other: quantisers add marks of their own."""
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


class Onnx:
    """ONNX, run by ONNX Runtime on the CPU.

    Attributes:
        runtime: what runs the file.
        packages: what writing and running it needs; the extra of setup.py that brings it.
        purpose: what they are needed for.
        sizes: how torch.export treats batch, height and width.
        opset: the first that has GELU as one operator; below, runtimes compute it in five steps.
    """

    runtime, key = "ONNX Runtime", "onnxruntime"
    packages, extra = ("onnx", "onnxscript", "onnxruntime"), "export"
    purpose = "Exporting"
    sizes = Dim.DYNAMIC
    opset = 20

    @classmethod
    def check(cls) -> None:
        """Raise MissingPackage if what ONNX or the runtime needs is missing."""
        missing = []
        for name in cls.packages:
            try:
                __import__(name)
            except ImportError:
                missing.append(name)
        if missing:
            raise MissingPackage(
                f"{cls.purpose} needs {', '.join(missing)}. "
                f"Install: pip install {' '.join(missing)} "
                f'(the tested versions: pip install ".[{cls.extra}]" in the project).'
            )

    @classmethod
    def save(
        cls,
        program: ExportedProgram,
        names: Sequence[str],
        metadata: dict[str, str],
        path: Path,
    ) -> None:
        """Write a recorded graph, with standard operators alone.

        Raises:
            InputError: an operator of the graph has no counterpart in ONNX.
        """
        import onnx

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                result = torch.onnx.export(
                    program,
                    input_names=["images"],
                    output_names=list(names),
                    # Names for what the recorded graph calls s34 and s54.
                    dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
                    dynamo=True,
                    opset_version=cls.opset,
                    verbose=False,
                    custom_translation_table={torch.ops.mmdualtoken.nms.default: onnx_nms},
                )
            except torch.onnx.OnnxExporterError as error:
                raise InputError(
                    f"The model cannot be written as ONNX: {reason_of(error)}"
                ) from error
        model = result.model_proto
        onnx.helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        domains = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
        if domains:
            raise InputError(
                f"The graph needs operators of {sorted(domains)}, which are no standard."
            )
        onnx.save(model, path)

    @staticmethod
    def quantize(path: Path) -> None:
        """Replace a file by one whose matrix products are in 8 bits.

        ONNX Runtime's dynamic quantisation: weights by output channel, inputs by a scale that each
        run finds for its whole batch.
        """
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        model = onnx.load(path)
        # Some weights get transposed, and the sizes noted beside them would be called wrong.
        del model.graph.value_info[:]
        with quiet(logging.WARNING):
            quantize_dynamic(
                model,
                path,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
        set_metadata(path, {prop.key: prop.value for prop in model.metadata_props})

    @classmethod
    def load(cls, path: Path, threads: int) -> Run:
        """The file as a function of images."""
        run, *_ = runner.load(str(path), cls.key, threads)
        return lambda images: [torch.from_numpy(out) for out in run(images.contiguous().numpy())]


class OpenVino(Onnx):
    """The same ONNX file, run by OpenVINO on the CPU."""

    runtime, key = "OpenVINO", "openvino"
    packages, extra = (*Onnx.packages, "openvino"), "openvino"


class Pt2:
    """torch.export's file, for images from 33 pixels on; not of whole detectors.

    The highest levels of a detector's pyramid make torch 2.11 put conditions on an image's size.
    """

    runtime = "the exported program"
    #: With Dim.DYNAMIC torch 2.11 makes a condition of whether a side is even, for pools.
    sizes = Dim.AUTO

    @staticmethod
    def check() -> None:
        """torch alone is needed."""

    @staticmethod
    def save(
        program: ExportedProgram, names: Sequence[str], metadata: dict[str, str], path: Path
    ) -> None:
        """Write a recorded graph; the metadata is the extra file metadata.json."""
        metadata = {**metadata, "output_names": json.dumps(list(names))}
        metadata["input"] = metadata.get("input", "").replace("any size", "from 33 pixels on")
        torch.export.save(program, path, extra_files={"metadata.json": json.dumps(metadata)})

    @staticmethod
    def load(path: Path, threads: int) -> Run:
        """The file as a function of images; threads are those of the process.

        Raises:
            InputError: by the function, for an image whose size the file does not take.
        """
        module = torch.export.load(path).module()

        def run(images: torch.Tensor) -> Sequence[torch.Tensor]:
            try:
                return module(images)
            except (AssertionError, RuntimeError) as error:  # guards, and bounds of sizes
                raise InputError(
                    f"The graph does not take images of {tuple(images.shape)}: {reason_of(error)}. "
                    "Sides of 33 pixels on are taken, whole detectors as .onnx alone."
                ) from error

        return run


FORMATS = {".onnx": Onnx, ".pt2": Pt2}
#: What can run an ONNX file here.
RUNTIMES = {"onnxruntime": Onnx, "openvino": OpenVino}

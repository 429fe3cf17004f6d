"""Static 8-bit quantisation of a file of tools/export.py, with scales from its config's images.

Convolutions and matrix products with weights get those, and their inputs, in 8 bits. All else stays
in float: decoding and NMS, since a box needs more than 256 places, norms, activations, and products
of two activations, as attention has them.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.evaluator import Evaluator

from mmdualtoken.data.check import check_data
from mmdualtoken.errors import InputError
from mmdualtoken.export.deployed import DeployedModel
from mmdualtoken.export.formats import Onnx, OpenVino, set_metadata
from mmdualtoken.export.measure import quiet
from mmdualtoken.export.runner import Model
from mmdualtoken.inference.model import registry

#: The metric of each toolbox that a search for layers to keep in float looks at.
METRICS = dict(mmpretrain="accuracy/top1", mmdet="coco/bbox_mAP", mmseg="mIoU")
#: Steps between a layer of an OpenVINO graph and the constant that its weights come from.
ON_THE_WAY = ("Convert", "FakeQuantize", "Multiply", "Reshape", "Subtract", "Transpose")


class ValidationData:
    """The validation set of a config, image by image, and its metric.

    Raises:
        InputError: there is no validation set, nothing in it, or something is wrong with it.
    """

    def __init__(self, cfg: Config):
        if not cfg.get("val_dataloader"):
            raise InputError(
                f"{cfg.filename} has no val_dataloader, whose images set the scales. Add one."
            )
        check_data(cfg, "val_dataloader")
        self.dataset = registry(cfg, "DATASETS").build(cfg.val_dataloader.dataset)
        self.evaluator, self.metric = cfg.val_evaluator, METRICS[cfg.default_scope]

    def batch(self, index: int) -> dict:
        """One image as a data loader gives it."""
        return {key: [value] for key, value in self.dataset[index].items()}

    def spread(self, count: int) -> list[int]:
        """Indices of so many images, or of all, evenly over the set."""
        return np.unique(np.linspace(0, len(self.dataset) - 1, count).astype(int)).tolist()

    def inputs(self, model: DeployedModel, count: int) -> list[np.ndarray]:
        """So many images as a file takes them: (1, C, H, W) each."""
        found, run = [], model.file.run

        def record(images: np.ndarray) -> list[np.ndarray]:
            found.append(images)
            return run(images)

        model.file.run = record
        for index in self.spread(count):
            model.test_step(self.batch(index))
        model.file.run = run
        return found

    def evaluate(self, model: DeployedModel, indices: Iterable[int], metric: str) -> float:
        """The metric of some images; 0 where the evaluator finds nothing to evaluate.

        Raises:
            InputError: the evaluator has no such metric.
        """
        evaluator, count = Evaluator(deepcopy(self.evaluator)), 0
        evaluator.dataset_meta = self.dataset.metainfo
        for index in indices:
            data = self.batch(index)
            evaluator.process(model.test_step(data), data)
            count += 1
        found = evaluator.evaluate(count)
        if found and metric not in found:
            raise InputError(f"--metric {metric}: the config's are {', '.join(found)}.")
        return float(found.get(metric, 0.0))


class StaticOnnx(Onnx):
    """ONNX Runtime's static quantiser: QuantizeLinear and DequantizeLinear around the layers."""

    layers = ("Conv", "ConvTranspose", "Gemm", "MatMul")
    decoding = ("GatherElements", "NonMaxSuppression", "TopK")
    purpose = "Quantising"

    @classmethod
    def quantize(cls, source: Path, target: Path, inputs: Sequence[np.ndarray]) -> None:
        """Write an 8-bit file: weights by output channel, inputs by their range."""
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

        class Images(CalibrationDataReader):
            rest = iter([{"images": images} for images in inputs])

            def get_next(self) -> dict | None:
                return next(self.rest, None)

        model = onnx.load(source)
        props = {prop.key: prop.value for prop in model.metadata_props}
        with quiet(logging.WARNING):
            quantize_static(
                model,
                target,
                Images(),
                op_types_to_quantize=list(cls.layers),
                nodes_to_exclude=cls.last_convolutions(model.graph),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options=dict(
                    MatMulConstBOnly=True,  # not attention's products of two activations
                    # A convolution runs in 8 bits only between two quantised maps; a matrix
                    # product returns floats as it is.
                    OpTypesToExcludeOutputQuantization=["Gemm", "MatMul"],
                ),
            )
        set_metadata(target, props)

    @classmethod
    def last_convolutions(cls, graph: object) -> list[str]:
        """Names of convolutions whose maps are decoded: of boxes, scores and labels of pixels.

        ONNX Runtime would have their outputs in 8 bits, too.
        """
        users = {}
        for node in graph.node:
            for name in node.input:
                users.setdefault(name, []).append(node)

        @cache
        def feeds_a_layer(value: str) -> bool:
            return any(
                user.op_type in cls.layers
                or (user.op_type not in cls.decoding and any(map(feeds_a_layer, user.output)))
                for user in users.get(value, ())
            )

        convolutions = (node for node in graph.node if node.op_type.startswith("Conv"))
        return [node.name for node in convolutions if not feeds_a_layer(node.output[0])]

    @classmethod
    def count(cls, file: Path) -> tuple[int, int]:
        """How many layers with weights are in 8 bits, and how many there are."""
        import onnx

        graph = onnx.load(file).graph
        exact = {tensor.name for tensor in graph.initializer}
        small = {
            node.output[0]
            for node in graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in exact
        }
        weights = [node.input[1] for node in graph.node if node.op_type in cls.layers]
        quantized = sum(name in small for name in weights)
        return quantized, quantized + sum(name in exact for name in weights)


class Nncf(OpenVino):
    """OpenVINO's own quantiser, NNCF: FakeQuantize before the layers."""

    #: OpenVINO runs depthwise convolutions in float in any case, and 8 bits cost them most.
    layers = ("Convolution", "ConvolutionBackpropData", "MatMul")
    packages, extra = (*OpenVino.packages, "nncf"), "quantize"
    purpose = "Quantising"

    @classmethod
    def weights(cls, layer: object) -> object | None:
        """The constant that the weights of an operator come from; None if it has none."""
        if layer.get_type_name() not in cls.layers:
            return None
        source = layer.input_value(1).get_node()
        while source.get_type_name() in ON_THE_WAY:
            source = source.input_value(0).get_node()
        return source if source.get_type_name() == "Constant" else None

    @classmethod
    def quantize(
        cls,
        source: Path,
        target: Path,
        inputs: Sequence[np.ndarray],
        validate: Callable[[Callable, Iterable[int]], float] | None = None,
        indices: Sequence[int] = (),
        max_drop: float = 0.0,
    ) -> None:
        """Write an 8-bit file.

        Args:
            target: NAME.xml; NAME.bin gets the weights.
            inputs: images (1, C, H, W), of which the scales are taken.
            validate: the metric of a function of images on images by index; layers that cost most
                of it are put back into float until it falls by `max_drop` at most.
            indices: of the images for `validate`.
            max_drop: in the metric's unit.
        """
        import nncf
        import openvino

        model = openvino.Core().read_model(source)
        types = {op.get_type_name() for op in model.get_ops()}
        layers = [op for op in model.get_ops() if op.get_type_name() in cls.layers]
        products = [op.get_friendly_name() for op in layers if cls.weights(op) is None]
        in_float = dict(types=sorted(types - set(cls.layers)), names=products)
        images = nncf.Dataset(inputs, lambda images: {"images": images})
        options = dict(
            subset_size=len(inputs),
            ignored_scope=nncf.IgnoredScope(**in_float, validate=False),
        )

        def score(compiled: object, some: Iterable[int]) -> tuple[float, list[float]]:
            some = list(some)
            metric = validate(lambda x: list(compiled({"images": x}).to_tuple()), some)
            return metric, [metric] * len(some)

        with quiet(logging.WARNING):
            if validate is None:
                found = nncf.quantize(model, images, **options)
            else:
                found = nncf.quantize_with_accuracy_control(
                    model, images, nncf.Dataset(list(indices)), score, max_drop=max_drop, **options
                )
        openvino.save_model(found, target, compress_to_fp16=False)

    @classmethod
    def count(cls, file: Path) -> tuple[int, int]:
        """How many layers with weights are in 8 bits, and how many there are."""
        import openvino

        layers = map(cls.weights, openvino.Core().read_model(file).get_ops())
        sizes = [weights.get_element_type().size for weights in layers if weights is not None]
        return sizes.count(1), len(sizes)


#: By the ending of the file to write.
QUANTIZERS = {".onnx": StaticOnnx, ".xml": Nncf}


def check_quantized(file: Path, exact: Model, runtime: str, inputs: Sequence[np.ndarray]) -> None:
    """Check that an 8-bit file stands in for the exact one.

    Raises:
        InputError: it does not run, has other outputs or metadata, or returns no numbers.
    """
    advice = "Keep the exact file, and report it."
    try:
        quantized = Model(file, runtime)
        outputs = [quantized.run(images) for images in inputs]
    except Exception as error:  # each runtime has its own
        line = f"{error}".splitlines()[0]
        raise InputError(f"The 8-bit file does not run: {line}. {advice}") from error
    if (quantized.names, quantized.meta) != (exact.names, exact.meta):
        raise InputError(f"The 8-bit file has other outputs or metadata. {advice}")
    if not all(np.isfinite(value).all() for found in outputs for value in found):
        raise InputError(f"The 8-bit file returns values that are not finite. {advice}")

"""Quantise a file of tools/export.py to 8 bits, with images of the config's validation set.

The ending of the file to write says for what: .onnx for ONNX Runtime, .xml for OpenVINO. The images
set the scales of what goes into each convolution and matrix product.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path

from mmdualtoken.cli import add_config_arguments, load_config, number, run_tool
from mmdualtoken.errors import InputError
from mmdualtoken.export.deployed import load_deployed
from mmdualtoken.export.quantization import QUANTIZERS, ValidationData, check_quantized
from mmdualtoken.files import check_file, check_new_file


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("file", help="exported model, .onnx, that ends in results")
    parser.add_argument("out", metavar="OUT", help="file to write: NAME.onnx or NAME.xml")
    parser.add_argument(
        "--images",
        type=number(int, 1),
        default=300,
        help="validation images for the scales (%(default)s)",
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        help="put the layers that cost most back into float, until the metric on the validation "
        "set falls by no more than this, in the metric's unit (.xml; takes many evaluations)",
    )
    parser.add_argument("--metric", help="the metric for --max-drop (top-1, mIoU or box AP)")
    return parser.parse_args()


def check_arguments(args: argparse.Namespace) -> None:
    """Check what can be wrong before anything is loaded."""
    out = Path(args.out)
    if out.suffix not in QUANTIZERS:
        raise InputError(f"{out}: the ending says the format; allowed: {', '.join(QUANTIZERS)}.")
    if args.max_drop is not None and out.suffix != ".xml":
        raise InputError(
            "--max-drop is for .xml files: NNCF, OpenVINO's quantiser, has the search."
        )
    if args.metric and args.max_drop is None:
        raise InputError("--metric is the metric of --max-drop, which is not given.")
    check_file(args.file, "File", "Write one with tools/export.py.")
    for file in {out, out.with_suffix(".bin") if out.suffix == ".xml" else out}:
        check_new_file(file, "OUT")
    QUANTIZERS[out.suffix].check()


def main() -> None:
    args = parse_args()
    check_arguments(args)
    out = Path(args.out)
    quantizer = QUANTIZERS[out.suffix]
    with contextlib.redirect_stdout(sys.stderr):  # progress, and what imported packages have to say
        cfg = load_config(args)
        data = ValidationData(cfg)
        runtime = "openvino" if out.suffix == ".xml" else "onnxruntime"
        model = load_deployed(cfg, args.file, runtime)
        inputs = data.inputs(model, args.images)
        search = {}
        if args.max_drop is not None:
            everything, metric = range(len(data.dataset)), args.metric or data.metric
            search = dict(max_drop=args.max_drop, indices=everything)

            def validate(run, indices):
                model.file.run = run
                return data.evaluate(model, indices, metric)

            search["validate"] = validate
            exact = data.evaluate(model, everything, metric)
            if not exact:
                raise InputError(
                    f"--max-drop: {metric} of {args.file} on the validation set is 0, which "
                    "cannot fall. Train longer, name another --metric, or leave the option out."
                )
            if args.max_drop > exact / 4:
                raise InputError(
                    f"--max-drop {args.max_drop:g} is more than a quarter of the exact file's "
                    f"{metric}, {exact:.4g}. It is in the metric's unit: AP counts from 0 to 1, "
                    "where half a point is 0.005."
                )
        # Elsewhere until it is checked; beside the file, so that moving it is one step.
        with tempfile.TemporaryDirectory(prefix=".quantize-", dir=out.absolute().parent) as folder:
            unchecked = Path(folder) / out.name
            quantizer.quantize(Path(args.file), unchecked, inputs, **search)
            check_quantized(unchecked, model.file, runtime, inputs[:4])
            quantized, layers = quantizer.count(unchecked)
            for file in sorted(Path(folder).iterdir()):  # NAME.bin before NAME.xml
                os.replace(file, out.absolute().parent / file.name)
    print(f"{out}: {quantized} of {layers} layers with weights are in 8 bits.")
    print(f"Scales: {len(inputs)} images of the validation set of {args.config}.")
    print(f"What it costs: python tools/test.py {args.config} {out} --compare-with CHECKPOINT")


if __name__ == "__main__":
    run_tool(main)

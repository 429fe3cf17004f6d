"""Inputs of mmcv's operators, and what they gave with mmcv's own compiled kernels.

    python tests/operator_cases.py

writes tests/fixtures/operators.npz, in an environment whose mmcv was compiled. Scores have no ties:
mmcv sorts them by an order that is not stable.
"""

import sys
import zlib
from pathlib import Path

import numpy as np
import torch

FILE = Path(__file__).resolve().parent / "fixtures" / "operators.npz"


def drawn(name, *shape):
    """float32 numbers in [0, 1), the same for ever for a name."""
    state = np.random.RandomState(zlib.crc32(name.encode()))
    return torch.from_numpy(state.random_sample(shape).astype(np.float32))


def boxes(name, count, width=100, height=70):
    """Boxes (count, 4) of all sizes; some reach over the edges, one has no extent."""
    found = drawn(name, count, 4) * torch.tensor([width, height, width * 0.5, height * 0.5])
    found[:, :2] -= 10
    found[:, 2:] += found[:, :2]
    found[0, 2:] = found[0, :2]
    return found


def rois(name, count, images):
    """RoIs (count, 5) of ``images`` images, on maps of 20 × 30 cells at stride 4."""
    index = (drawn(f"{name} images", count, 1) * images).floor()
    return torch.cat([index, boxes(name, count, 140, 100)], 1)


def with_gradients(function, *inputs, frozen=()):
    """Result of ``function`` and its gradients by the inputs, for a fixed gradient."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    output = function(*inputs, *frozen)
    slope = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return [output.detach(), *torch.autograd.grad(output, inputs, slope)]


def suppression():
    """Cases of the non-maximum suppressions, by name: lists of tensors."""
    from mmcv import ops

    found, b = {}, boxes("nms", 200)
    scores = torch.from_numpy(np.random.RandomState(1).permutation(200).astype(np.float32)) / 200
    for offset in (0, 1):
        for threshold in (0.1, 0.3, 0.5, 0.7):
            found[f"nms {offset} {threshold}"] = ops.nms(b, scores, threshold, offset=offset)
        for method in ("naive", "linear", "gaussian"):
            kept = ops.soft_nms(b, scores, 0.4, 0.5, 0.05, method, offset)
            found[f"soft {method} {offset}"] = kept
    found["nms limited"] = ops.nms(b, scores, 0.5, score_threshold=0.4, max_num=20)
    classes = (drawn("classes", 200) * 3).long()
    found["nms of classes"] = ops.batched_nms(
        b, scores, classes, dict(type="nms", iou_threshold=0.5)
    )
    # 20 scores for 200 boxes: soft NMS has an order of its own for equal ones.
    ties = (scores * 20).floor() / 20
    found["soft ties"] = ops.soft_nms(b, ties, 0.4, 0.5, 0.05, "linear", 0)
    groups = ops.nms_match(torch.cat([b, scores[:, None]], 1), 0.5)
    found["match"] = [torch.cat(groups), torch.tensor([len(group) for group in groups])]
    return found


def pooling():
    """Cases of RoIAlign, forward and backward."""
    from mmcv.ops import roi_align

    found, x = {}, drawn("map", 2, 3, 20, 30) - 0.5
    for mode in ("avg", "max"):
        for samples in (0, 2):
            for aligned in (True, False):
                arguments = (rois("rois", 25, 2), (3, 5), 0.25, samples, mode, aligned)
                name = f"roi_align {mode} {samples} {aligned}"
                found[name] = with_gradients(roi_align, x, frozen=arguments)
    return found


def convolution():
    """Cases of deformable convolution and of PSANet's mask, forward and backward."""
    from mmcv.ops import deform_conv2d, modulated_deform_conv2d
    from mmcv.ops.psa_mask import psa_mask

    x, weight = drawn("x", 2, 4, 12, 9) - 0.5, drawn("weight", 6, 2, 3, 3) - 0.5
    offset = (drawn("offset", 2, 2 * 2 * 9, 6, 5) - 0.5) * 8  # beyond the edges, too
    mask, bias = drawn("mask", 2, 2 * 9, 6, 5), drawn("bias", 6)
    sizes = (2, 1, 1, 2, 2)  # stride, padding, dilation, groups, groups of offsets
    found = {
        "deform_conv": with_gradients(deform_conv2d, x, offset, weight, frozen=sizes),
        "modulated_deform_conv": with_gradients(
            modulated_deform_conv2d, x, offset, mask, weight, bias, frozen=sizes
        ),
    }
    diverged = offset.clone()
    for first, value in enumerate((float("nan"), float("inf"), -float("inf"))):
        diverged[:, first::7] = value
    found["deform_conv diverged"] = [deform_conv2d(x, diverged, weight, *sizes)]
    small = drawn("small", 2, 4, 8, 7)  # an output of 4 x 4 for offsets of 6 x 5
    found["modulated_deform_conv larger offsets"] = with_gradients(
        modulated_deform_conv2d, small, offset, mask, weight, bias, frozen=sizes
    )
    for kind in (0, 1):
        found[f"psa_mask {kind}"] = with_gradients(
            psa_mask, drawn("psa", 2, 15, 7, 6), frozen=(kind, (3, 5))
        )
    return found


def prediction(config):
    """Boxes, scores, labels and mask sums that a narrow detector predicts for two images.

    Its weights are drawn from the names of its parameters.
    """
    import narrow

    cfg = narrow.narrow(narrow.ROOT / "configs" / config)
    cfg.model.test_cfg.get("rcnn", cfg.model.test_cfg).score_thr = 0.0
    model = narrow.build(cfg).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan = max(1, parameter[0].numel()) if parameter.dim() > 1 else 1
            noise = (drawn(name, *parameter.shape) - 0.5) * (12 / fan) ** 0.5
            parameter.copy_(noise if parameter.dim() > 1 else 0.3 * noise + (name[-6:] == "weight"))
        images = [drawn(f"image {i}", 3, 96, 128) * 255 for i in range(2)]
        samples = model.data_preprocessor(
            dict(inputs=images, data_samples=[sample(image) for image in images])
        )
        found = model.predict(samples["inputs"], samples["data_samples"], rescale=False)
    results = [s.pred_instances for s in found]
    tensors = [torch.cat([r[key] for r in results]) for key in ("bboxes", "scores", "labels")]
    if "masks" in results[0]:
        tensors.append(torch.cat([r.masks.flatten(1).sum(1) for r in results]))
    return [torch.tensor([len(r) for r in results]), *tensors]


def sample(image):
    """What a detector is told of an image that was not resized."""
    from mmdet.structures import DetDataSample

    size = tuple(image.shape[1:])
    meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
    return DetDataSample(metainfo=meta)


DETECTORS = ("mmdet/maskrcnn_dualtoken_s_1x.py", "mmdet/retinanet_dualtoken_s_1x.py")


def cases():
    """All cases but those of whole detectors, by name: lists of tensors."""
    return {**suppression(), **pooling(), **convolution()}


def main():
    import mmdualtoken  # noqa: F401 - registers the models
    from mmdualtoken.ops import operators_in_use

    if operators_in_use() != "compiled":
        sys.exit("mmcv has no compiled operators here, or MMDUALTOKEN_OPS replaces them")
    found = cases() | {config: prediction(config) for config in DETECTORS}
    arrays = {f"{k}/{i}": t.numpy() for k, ts in found.items() for i, t in enumerate(ts)}
    np.savez_compressed(FILE, **arrays)
    print(f"{FILE}: {len(found)} cases, {FILE.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()

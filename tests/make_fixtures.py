"""Write the checkpoints of tests/fixtures/checkpoints that are not there yet.

    python tests/make_fixtures.py

Each holds what a user's checkpoint means for ever: the constructor's settings as a user would
write them, the state dict, an input and the outputs. One that is there is never written again: if
a change of the code makes it fail, users' checkpoints fail as well.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from helpers import VARIANTS, rand, randomise

from mmdualtoken import models

FOLDER = Path(__file__).resolve().parent / "fixtures" / "checkpoints"
WIDTHS = (8, 12, 16)
#: Three widths and head sizes, two blocks where tokens are handed on, and few parameters.
ARCH = dict(embed_dims=WIDTHS, depths=(1, 2, 1), num_heads=(2, 2, 4), ffn_ratios=(2, 1.25, 1))
#: The archs of full width would take megabytes; their names and shapes are kept in NAMES_FILE.
FULL_WIDTH = {"tiny-mlp": "tiny", "small-mix": "small"}
NAMES_FILE = FOLDER / "names.json"
#: Weights are multiples of it: exact in float16, and files of half the size.
GRAIN = 1 / 16
HALF = np.float16


def backbone_settings() -> dict[str, dict]:
    """Settings of each variant of tests/helpers.py that has a checkpoint, by its name."""
    found = {}
    for name, settings in VARIANTS.items():
        if name not in FULL_WIDTH:
            arch = settings.get("arch", {})
            own = {k: arch[k] for k in ("kernel_sizes", "down_convs") if k in arch}
            found[name] = {**settings, "arch": {**ARCH, **own}}
    return found


STRIDE4 = {"stride4": ("DualTokenViTStride4", dict(arch=ARCH, token_mlp="mix"))}
NECKS = {
    "fpn": ("DualTokenFPN", dict(in_channels=WIDTHS, out_channels=4)),
    "fpn-norm-act": (
        "DualTokenFPN",
        dict(
            in_channels=WIDTHS,
            out_channels=4,
            num_outs=6,
            norm_cfg=dict(type="BN"),
            act_cfg=dict(type="ReLU"),
        ),
    ),
    "cls-neck": ("DualTokenClsNeck", dict(in_channels=16, out_channels=12)),
    "resize-neck": ("ResizeNeck", {}),
    "resize-neck-nearest": ("ResizeNeck", dict(source=1, target=0, mode="nearest")),
}


def all_settings() -> dict[str, tuple[str, dict]]:
    """Class and settings of every checkpoint, by its name."""
    plain = {n: ("DualTokenViT", s) for n, s in backbone_settings().items()}
    return plain | STRIDE4 | NECKS


def class_named(name: str) -> type:
    """A model of the project; DualTokenFPN needs mmdet."""
    return getattr(models, name, None) or getattr(models.necks, name)


def inputs_of(kind: str) -> list[torch.Tensor]:
    """An image of 40 x 33 for a backbone, the maps of such an image for a neck."""
    shapes = [(1, 3, 40, 33)]
    if not kind.startswith("DualTokenViT"):
        shapes = [(1, w, *hw) for w, hw in zip(WIDTHS, [(5, 5), (3, 3), (2, 2)], strict=True)]
    return [(4 * rand(*s, seed=i)).round().div(4) for i, s in enumerate(shapes)]


def outputs_of(module: torch.nn.Module, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """What the module gives for the fixture's inputs."""
    with torch.no_grad():
        return module(*inputs) if isinstance(module, models.DualTokenViT) else module(inputs)


def load(file: Path) -> tuple[str, dict, dict[str, torch.Tensor], list, list]:
    """Class name, settings, state dict, inputs and outputs of a fixture. Nothing is unpickled."""
    with np.load(file, allow_pickle=False) as content:
        shapes = {k: tuple(v) for k, v in json.loads(str(content["shapes"])).items()}
        values = torch.from_numpy(content["values"]).split([math.prod(s) for s in shapes.values()])
        state = {k: v.view(s) for (k, s), v in zip(shapes.items(), values, strict=True)}
        inputs, outputs = (
            [torch.from_numpy(content[k]) for k in content.files if k.startswith(f"{kind}.")]
            for kind in ("input", "output")
        )
        return str(content["kind"]), json.loads(str(content["settings"])), state, inputs, outputs


def sharpen(module: torch.nn.Module) -> None:
    """Let each cell attend to few: all but equal averages would hide what queries and keys do."""
    with torch.no_grad():
        for name, value in module.named_parameters():
            width = value.shape[-1]
            if name.endswith("qkv.weight"):
                value[: 2 * width] += 4 * torch.eye(width).repeat(2, 1)
            elif name.endswith(("fuse.q.weight", "broadcast.q.weight")):
                value *= 4
            elif name.endswith(("fuse.kv.weight", "broadcast.kv.weight")):
                value[:width] *= 4


def make(kind: str, settings: dict) -> dict[str, np.ndarray]:
    """The content of one fixture; outputs are computed in float64."""
    module = randomise(class_named(kind)(**settings))
    sharpen(module)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.copy_((value / GRAIN).round() * GRAIN)
    module, inputs = module.double().eval(), inputs_of(kind)
    state = module.state_dict()
    content = {
        "kind": np.array(kind),
        "settings": np.array(json.dumps(settings)),
        # One array of all values: hundreds of small ones would be headers for the most part.
        "shapes": np.array(json.dumps({name: list(value.shape) for name, value in state.items()})),
        "values": np.concatenate([v.numpy().ravel() for v in state.values()] or [[]], dtype=HALF),
    }
    content |= {f"input.{i}": x.numpy().astype(HALF) for i, x in enumerate(inputs)}
    content |= {f"output.{i}": y.numpy() for i, y in enumerate(outputs_of(module, inputs))}
    return content


def names_of_full_width() -> dict[str, dict[str, list[int]]]:
    """Names and shapes of the state dicts of the archs that have a name."""
    return {
        name: {
            k: list(v.shape) for k, v in models.DualTokenViT(**VARIANTS[name]).state_dict().items()
        }
        for name in FULL_WIDTH
    }


def write_missing(folder: Path = FOLDER) -> list[Path]:
    """Write the fixtures that are missing, and names.json if it is."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (kind, settings) in all_settings().items():
        file = folder / f"{name}.npz"
        if not file.exists():
            np.savez_compressed(file, **make(kind, settings))
            written.append(file)
    file = folder / NAMES_FILE.name
    if not file.exists():
        text = json.dumps(names_of_full_width(), separators=(",", ":"))
        file.write_text(text.replace("],", "],\n") + "\n", encoding="utf-8")
        written.append(file)
    return written


if __name__ == "__main__":
    print(*write_missing(), sep="\n")

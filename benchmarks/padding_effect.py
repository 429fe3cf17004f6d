"""How far does padding to a common batch size change what the backbone says of an image?

    python benchmarks/padding_effect.py                      # a narrow model, random weights
    python benchmarks/padding_effect.py --train-steps 2000   # the same, trained on scenes first
    python benchmarks/padding_effect.py --train-steps 2000 --train-padding
    python benchmarks/padding_effect.py --config CONFIG --checkpoint FILE

Prints, per stage and width of the padding, the relative change of the features inside the image,
||f(padded) - f|| / ||f||, as the median over generated scenes: in all, and with the padding kept
out of the global tokens' grid, out of BiDim's global average, and out of both. What is left then
are the convolutions and windows at the border, which every backbone has. With --train-steps also
the accuracy of the classifier that was trained, which reads the features inside the image alone.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import nn

from mmdualtoken.cli import find_config, read_config, run_tool
from mmdualtoken.errors import InputError
from mmdualtoken.models import DualTokenClsNeck, DualTokenViT
from mmdualtoken.weights.pretrained import load_backbone

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for lab

from lab.scenes import CLASSES, render_scene  # noqa: E402

NARROW = dict(embed_dims=(24, 48, 96), depths=(1, 2, 1), num_heads=(2, 4, 8), ffn_ratios=(4, 4, 4))
SIDE = 160  # px, of images in training and after it; a multiple of 32, so that maps are cut exactly
BATCH = 16
SHARES = (0, 10, 20, 30, 40, 50)  # padding, in % of the image's width
#: What the padding is kept out of, by the name of the column.
PARTS = {
    "in all": (),
    "without tokens' share": ("tokens",),
    "without BiDim's": ("bidim",),
    "without both": ("tokens", "bidim"),
}


def scenes(split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised images (count, 3, SIDE, SIDE) of one main object each, and their classes."""
    drawn = [
        render_scene(0, split, i, (SIDE, SIDE), (CLASSES[i % len(CLASSES)],), main_object=True)
        for i in range(count)
    ]
    images = torch.stack([torch.from_numpy(s.image).permute(2, 0, 1) for s in drawn]).float()
    mean = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)  # BGR; mmdet's
    std = torch.tensor([57.375, 57.12, 58.395]).view(3, 1, 1)
    return (images - mean) / std, torch.tensor([s.objects[0].label for s in drawn])


def randomise(model: nn.Module) -> None:
    """Weights that keep activations near 1: as built, most branches are all but zero."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name == "global_tokens":
                nn.init.normal_(value)
            elif value.dim() > 1:
                nn.init.normal_(value, std=value[0].numel() ** -0.5)
            elif name.endswith("gamma"):
                nn.init.ones_(value)


def train(backbone: DualTokenViT, steps: int, padding: bool) -> nn.Module:
    """Train it as a classifier of scenes; return the head, which reads the backbone's maps.

    With `padding`, half of the batches are padded, by up to the largest of SHARES.
    """
    width = backbone.arch["embed_dims"][2]
    head = nn.Sequential(DualTokenClsNeck(width, 256), First(), nn.Linear(256, len(CLASSES)))
    images, labels = scenes("train", 1600)
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.04)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps)
    for _ in range(steps):
        chosen = torch.randint(len(images), (BATCH,))
        flip = torch.rand(BATCH, 1, 1, 1) < 0.5
        batch = torch.where(flip, images[chosen].flip(3), images[chosen])
        if padding and torch.rand(()) < 0.5:
            batch = F.pad(batch, (0, int(torch.rand(()) * SIDE * SHARES[-1] / 100)))
        maps = [backbone(batch)[-1][..., : SIDE // 32]]
        loss = F.cross_entropy(head(maps), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    return head.eval()


class First(nn.Module):
    """The first of a tuple."""

    def forward(self, maps: tuple) -> torch.Tensor:
        """(x, ...) -> x."""
        return maps[0]


def build(args: argparse.Namespace) -> tuple[DualTokenViT, nn.Module | None]:
    """The backbone that the arguments ask for, and the head if it is trained here."""
    if bool(args.config) != bool(args.checkpoint):
        raise InputError("--config and --checkpoint are needed together, or neither.")
    head = None
    if args.config:
        cfg = read_config(find_config(args.config)).model.backbone
        model = MODELS.build(cfg)
        if not isinstance(model, DualTokenViT):
            raise InputError(f"{args.config} has a backbone of type {cfg.type}, not DualTokenViT.")
        load_backbone(model, args.checkpoint, "backbone.")
    else:
        model = DualTokenViT(arch=NARROW, token_mlp="mix")
        if args.train_steps:
            head = train(model, args.train_steps, args.train_padding)
        else:
            randomise(model)
    return model.eval(), head


@contextmanager
def kept_out(model: DualTokenViT, width: int, parts: tuple[str, ...]) -> Iterator[None]:
    """Inside: the global tokens, or BiDim's average, see only the leftmost `width` pixels."""
    handles, modules = [], []
    for i, stage in enumerate(model.stages):
        cells = -(-width // (8 << i))
        for block in stage.blocks:
            if "tokens" in parts:
                module = block.token_module
                module.gather = partial(_gather, module.gather, cells)
                modules.append(module)
            if "bidim" in parts:
                handles += _average_of(block.bidim, cells)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in modules:
            del module.gather


def _gather(original: Callable, cells: int, x_local: torch.Tensor) -> torch.Tensor:
    return original(x_local[:, :, :cells])


def _average_of(bidim: nn.Module, cells: int) -> list:
    """Hooks that give `global_reduce` the mean of the first `cells` columns of the norm's map."""
    seen = []

    def keep(module: nn.Module, args: tuple, y: torch.Tensor) -> None:
        seen[:] = [y]

    def replace(module: nn.Module, args: tuple) -> torch.Tensor:
        return seen[0][:, :, :cells].mean((1, 2), keepdim=True)

    return [
        bidim.norm.register_forward_hook(keep),
        bidim.global_reduce.register_forward_pre_hook(replace),
    ]


def maps_of(model: DualTokenViT, image: torch.Tensor, pad: int, parts: tuple = ()) -> list:
    """Maps of `image` (1, 3, H, W) with `pad` columns of zeros, cut to the image."""
    width = image.shape[3]
    with torch.no_grad(), kept_out(model, width, parts):
        maps = model(F.pad(image, (0, pad)))
    cells = [width // (8 << i) for i in model.out_indices]
    return [m[..., :n] for m, n in zip(maps, cells, strict=True)]


def row(model: DualTokenViT, head: nn.Module | None, share: int, args: argparse.Namespace) -> str:
    """One row of the table: padding of `share` percent of the width."""
    pad, right = SIDE * share // 100, []
    changes = []  # per image, part and stage
    images, labels = scenes("val", args.images)
    for image, label in zip(images[:, None], labels, strict=True):
        before = maps_of(model, image, 0)
        after = [maps_of(model, image, pad, parts) for parts in PARTS.values()]
        pairs = [zip(maps, before, strict=True) for maps in after]
        changes.append([[(a - b).norm() / b.norm() for a, b in pair] for pair in pairs])
        if head is not None:
            right.append(head(after[0]).argmax() == label)
    medians = torch.tensor(changes).median(0).values.T.flatten()
    cells = [f"{share} %", *(f"{100 * value:.1f} %" for value in medians)]
    if right:
        cells.append(f"{torch.stack(right).float().mean():.3f}")
    return f"| {' | '.join(cells)} |"


def table(model: DualTokenViT, head: nn.Module | None, args: argparse.Namespace) -> str:
    """The figures as a Markdown table."""
    columns = ["padding"]
    columns += [f"stage {i + 1} {p}" for i in model.out_indices for p in PARTS]
    columns += ["accuracy"] if head is not None else []
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *(row(model, head, share, args) for share in SHARES)])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="config whose backbone is measured")
    parser.add_argument("--checkpoint", help="checkpoint of that config")
    parser.add_argument("--train-steps", type=int, default=0, help=f"of batch {BATCH}")
    parser.add_argument("--train-padding", action="store_true", help="pad half of the batches")
    parser.add_argument("--images", type=int, default=100, help="number of scenes")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    print(table(*build(args), args))


if __name__ == "__main__":
    run_tool(main)

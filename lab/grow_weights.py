"""Start `small` from `tiny`'s weights: wider by 4/3, two blocks deeper (Net2Net, arXiv 1511.05641).

    python lab/grow_weights.py mmdualtoken://tiny grown.pth

Each new channel repeats an old one. Weights that read a repeated channel share the old weight
unevenly, so that the copies learn different things. Sums stay what they were, norms over the
channels see slightly other statistics, and the new blocks of stage 3 begin by adding nothing.
"""

import argparse
import re

import torch
from mmengine.runner import CheckpointLoader

import mmdualtoken  # noqa: F401  (the scheme mmdualtoken://)
from mmdualtoken.models import DualTokenViT

TINY = DualTokenViT.arch_settings["tiny"]
COPIED = (0, 1, 1, 2, 3, 3)  # the block of tiny's stage 3 that each block of small's copies
NEW = (2, 5)  # those of small's that begin by adding nothing: these layers start at zero
SILENT = ("proj", "ffn.fc2", "token_module.mlp.channel_mix")


def repeat(channels: int, groups: int = 1) -> torch.Tensor:
    """Return which old channel each of the 4/3 * `channels` new ones repeats, group by group."""
    size = channels // groups
    parts = []
    for group in range(groups):
        again = torch.randperm(size)[: size // 3].sort().values
        parts.append(torch.cat([torch.arange(size), again]) + group * size)
    return torch.cat(parts)


def shares(source: torch.Tensor) -> torch.Tensor:
    """Return the part of its old weight that each channel gets; the copies of one sum to 1."""
    parts = 0.25 + 0.5 * torch.rand(len(source))
    return parts / torch.zeros(int(source.max()) + 1).index_add(0, source, parts)[source]


def stack(*sources: torch.Tensor) -> torch.Tensor:
    """Join the maps of blocks of channels that lie one after the other."""
    starts = torch.tensor([0, *(int(s.max()) + 1 for s in sources[:-1])]).cumsum(0)
    return torch.cat([s + start for s, start in zip(sources, starts, strict=True)])


class Growth:
    """Which old channel each new one repeats, the same in all layers whose outputs add up."""

    def __init__(self):
        dims, heads = TINY["embed_dims"], TINY["num_heads"]
        self.stem = repeat(dims[0] // 2)
        self.stages = [repeat(dim, n) for dim, n in zip(dims, heads, strict=True)]
        self.hidden: dict[str, torch.Tensor] = {}

    def inner(self, name: str, channels: int) -> torch.Tensor:
        """Return the map of a hidden layer, drawn when it is first asked for."""
        if name not in self.hidden:
            self.hidden[name] = repeat(channels)
        return self.hidden[name]

    def maps(self, name: str) -> tuple:
        """Return the maps of a layer's outputs and inputs; None for an axis that stays."""
        if name.startswith("stem.convs"):
            return (self.stages[0], self.stem) if name.endswith(".12") else (self.stem, None)
        if not (place := re.match(r"(stages\.(\d)\.(?:blocks\.\d+\.)?)(.+)", name)):
            return self.stages[2 if name == "norm2" else 0], None
        block, stage, layer = place[1], int(place[2]), place[3]
        width, before = self.stages[stage], self.stages[max(stage - 1, 0)]
        dim = TINY["embed_dims"][stage]
        conv = self.inner(block + "conv", 4 * dim)
        ffn = self.inner(block + "ffn", TINY["ffn_ratios"][stage] * dim)
        near, mean = (self.inner(block + gate, dim // 4) for gate in ("local", "global"))
        known = {
            "merging.norm": (stack(*[before] * 4), None),
            "merging.reduction": (width, stack(*[before] * 4)),
            "merging.pool_proj": (width, before),
            "token_proj.norm": (before, None),
            "token_proj.proj": (width, before),
            "local_encoder.pwconv1": (conv, width),
            "local_encoder.pwconv2": (width, conv),
            "local_encoder.dwconv": (width, None),
            "token_module.aggregate.qkv": (stack(width, width, width), width),
            "token_module.broadcast.kv": (stack(width, width), width),
            "token_module.mlp.token_mix": (None, None),
            "ffn.fc1": (ffn, width),
            "ffn.fc2": (width, ffn),
            "bidim.global_reduce": (mean, width),
            "bidim.local_reduce": (near, width),
            "bidim.channel_gate": (width, mean),
            "bidim.position_gate": (None, stack(near, mean)),
        }
        return known.get(layer, (width, width))  # the rest: C -> C, or one value per channel

    def grow(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return small's tensor for tiny's tensor of that name."""
        if name == "global_tokens":
            return tensor[..., self.stages[0]]
        layer, kind = name.rsplit(".", 1)
        rows, columns = self.maps(layer)
        if not tensor.dim():  # BatchNorm's count
            return tensor
        new = tensor if rows is None else tensor[rows]
        if kind == "weight" and tensor.dim() > 1 and columns is not None:
            new = new[:, columns] * shares(columns).view(-1, *[1] * (tensor.dim() - 2))
        if layer.endswith(("qkv", "broadcast.q")):
            # A repeated channel counts twice in q k^T, whose scale follows the wider heads.
            width = self.stages[int(name[7])]
            scale = torch.ones(len(new))
            scale[: len(width)] = shares(width) * (4 / 3) ** 0.5
            new = new * scale.view(-1, *[1] * (new.dim() - 1))
        return new


def grow_classifier(state: dict[str, torch.Tensor], growth: Growth) -> dict[str, torch.Tensor]:
    """Return the state dict of a small classifier for that of a tiny one."""
    grown = {}
    for name, tensor in state.items():
        inner = name.removeprefix("backbone.")
        if name == "neck.fc.weight":
            grown[name] = tensor[:, growth.stages[2]] * shares(growth.stages[2])
        elif name == inner:  # the rest of the neck, and the head
            grown[name] = tensor
        elif not (place := re.match(r"stages\.2\.blocks\.(\d+)\.(.+)\.\w+$", inner)):
            grown[name] = growth.grow(inner, tensor)
        else:
            for block in [new for new, old in enumerate(COPIED) if old == int(place[1])]:
                new = growth.grow(inner, tensor)
                if block in NEW:
                    if place[2] in SILENT:
                        new = torch.zeros_like(new)
                    elif place[2] == "token_module.aggregate.qkv":
                        new[-len(growth.stages[2]) :] = 0.0  # the values: no new tokens
                grown[f"backbone.stages.2.blocks.{block}.{inner.split('.', 4)[4]}"] = new
    return grown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="of a tiny classifier")
    parser.add_argument("output", help="file to write")
    args = parser.parse_args()
    torch.manual_seed(0)
    state = CheckpointLoader.load_checkpoint(args.checkpoint, "cpu")
    torch.save(dict(state_dict=grow_classifier(state["state_dict"], Growth())), args.output)


if __name__ == "__main__":
    main()

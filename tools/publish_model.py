"""Write the weights of a checkpoint alone, without optimizer and random state, to hand on.

As .safetensors, which cannot hold code, or as .pth with the classes' names. Of a training with
averaged weights (EMAHook) they are the averaged ones.
"""

import argparse
import hashlib
import io
import json
import os
from pathlib import Path

import torch

from mmdualtoken.cli import run_tool
from mmdualtoken.errors import InputError
from mmdualtoken.files import check_new_file, replace_file
from mmdualtoken.version import __version__
from mmdualtoken.weights.checkpoints import (
    UNSAFE_FLAG,
    UNSAFE_TEXT,
    allow_unsafe_checkpoints,
    load_file,
)
from mmdualtoken.weights.pretrained import tensors_of

FORMATS = (".safetensors", ".pth")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="checkpoint that training wrote")
    parser.add_argument("out", metavar="FILE", help="file to write: NAME.safetensors or NAME.pth")
    parser.add_argument(UNSAFE_FLAG, action="store_true", help=f"DANGEROUS: {UNSAFE_TEXT}")
    return parser.parse_args()


def content_of(tensors: dict[str, torch.Tensor], meta: dict, suffix: str) -> bytes:
    """The bytes of the file."""
    if suffix == ".pth":
        buffer = io.BytesIO()
        torch.save(dict(meta=meta, state_dict=tensors), buffer)
        return buffer.getvalue()
    from safetensors.torch import save

    # One memory each: the format has no tensors that share theirs.
    separate = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    return save(separate, {"mmdualtoken": __version__, "meta": json.dumps(meta)})


def main() -> None:
    args = parse_args()
    out = Path(args.out)
    if out.suffix not in FORMATS:
        raise InputError(f"{out}: the ending says the format; allowed: {', '.join(FORMATS)}.")
    if args.allow_unsafe_checkpoints:
        allow_unsafe_checkpoints()
    checkpoint = load_file(args.checkpoint, "cpu")
    tensors = dict(tensors_of(checkpoint, args.checkpoint))
    found = checkpoint.get("meta") if isinstance(checkpoint, dict) else None
    names = (found.get("dataset_meta") or {}) if isinstance(found, dict) else {}
    meta = dict(dataset_meta={k: names[k] for k in ("classes", "palette") if names.get(k)})
    check_new_file(out, "FILE")
    content = content_of(tensors, meta, out.suffix)
    replace_file(out, content)
    before = os.path.getsize(os.path.expanduser(args.checkpoint))
    print(
        f"{out}: {len(tensors)} tensors, {len(content) / 1e6:.1f} MB of {before / 1e6:.1f}; "
        f"sha256 {hashlib.sha256(content).hexdigest()}"
    )


if __name__ == "__main__":
    run_tool(main)

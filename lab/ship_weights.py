"""Write a trained classifier as shipped weights: half precision, with what is known of it.

    python tools/test.py CONFIG CHECKPOINT --out results.pkl
    python lab/ship_weights.py tiny CONFIG CHECKPOINT results.pkl --photos-seen 1000000

writes mmdualtoken/weights/files/tiny.safetensors. The accuracy comes from results.pkl, the photos
per source from the training folder's file names (SOURCE_NUMBER.jpg).
"""

import argparse
import json
import pickle
from collections import Counter
from pathlib import Path

import pandas as pd
import timm
import torch
from mmengine.config import Config
from safetensors.torch import save_file

from mmdualtoken import __version__
from mmdualtoken.config_files import PROJECT_ROOT
from mmdualtoken.weights.checkpoints import load_file
from mmdualtoken.weights.pretrained import tensors_of
from mmdualtoken.weights.shipped import FOLDER

LICENCE = (
    "Trained on photos under the terms of ImageNet and Places: for research. The weights come "
    "without a warranty, the code is under Apache-2.0."
)


def class_names(folders: list[str]) -> list[str]:
    """Names of the classes: ImageNet's words for its wnids, the place for 'place_NAME'."""
    file = Path(timm.__file__).parent / "data" / "_info" / "imagenet_synset_to_lemma.txt"
    words = dict(line.split("\t")[:2] for line in file.read_text().splitlines())
    names = [words[f].split(",")[0] for f in folders if f in words]
    for folder in folders[len(names) :]:  # after the wnids
        place = folder.removeprefix("place_").replace("_", " ")
        names.append(f"{place} (place)" if place in names else place)
    return names


def accuracy(results: list[dict]) -> dict[str, dict[str, float]]:
    """Top-1 and top-5 in percent per source, over all classes and over the source's own."""
    table = pd.DataFrame(
        dict(
            source=[Path(r["img_path"]).name.split("_")[0] for r in results],
            label=[int(r["gt_label"]) for r in results],
            scores=[r["pred_score"].float() for r in results],
        )
    )
    found = {}
    for source, rows in table.groupby("source"):
        scores, labels = torch.stack(list(rows.scores)), torch.tensor(list(rows.label))
        own = torch.full_like(scores[0], -1.0)
        own[labels.unique()] = 0.0
        hits = {
            "top1": scores.topk(1).indices,
            "top5": scores.topk(5).indices,
            "top1_own_classes": (scores + own).topk(1).indices,
        }
        found[source] = {
            name: round(100 * (top == labels[:, None]).any(1).float().mean().item(), 2)
            for name, top in hits.items()
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="tiny, small, ...")
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("results", help="what tools/test.py --out wrote")
    parser.add_argument("--photos-seen", type=int, required=True)
    parser.add_argument("--grown-from", help="weights that lab/grow_weights.py started from")
    args = parser.parse_args()
    cfg = Config.fromfile(args.config)
    content = load_file(args.checkpoint, "cpu")
    folders = list(content["meta"]["dataset_meta"]["classes"])
    with open(args.results, "rb") as file:
        results = pickle.load(file)
    train = cfg.train_dataloader.dataset
    photos = Path(train.data_root, train.data_prefix).glob("*/*")
    info = dict(
        config=Path(args.config).resolve().relative_to(PROJECT_ROOT / "configs").as_posix(),
        classes=class_names(folders),
        data=dict(Counter(p.name.split("_")[0] for p in photos)),
        photos_seen=args.photos_seen,
        grown_from=args.grown_from,
        teacher=None,
        accuracy=accuracy(results),
        version=__version__,
        licence=LICENCE,
    )
    state = tensors_of(content, args.checkpoint)
    state = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}
    target = FOLDER / f"{args.name}.safetensors"
    if target.exists():
        parser.error(f"{target} exists; remove it first")
    target.parent.mkdir(exist_ok=True)
    save_file(state, target, metadata={"format": "pt", "mmdualtoken": json.dumps(info)})
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
    print(json.dumps(info["accuracy"], indent=1))


if __name__ == "__main__":
    main()

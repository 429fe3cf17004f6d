"""Checks of a config's data before anything is built, with messages that say what to do."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from .cli import PROJECT_ROOT
from .errors import InputError

FULL_PARSE_BYTES = 64 * 2**20  # COCO's own 450 MB would be parsed twice otherwise

LAYOUTS = {
    "mmdet": (
        "{root}annotations/instances_train2017.json, {root}annotations/instances_val2017.json, "
        "{root}train2017/*.jpg, {root}val2017/*.jpg"
    ),
    "mmseg": (
        "{root}images/training/*.jpg, {root}images/validation/*.jpg, "
        "{root}annotations/training/*.png, {root}annotations/validation/*.png"
    ),
    "mmpretrain": "{root}train/CLASS/*.jpg, {root}val/CLASS/*.jpg",
}


def _datasets(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """The innermost data set configs below wrappers such as RepeatDataset or ConcatDataset."""
    inner = dataset.get("datasets") or [d for d in [dataset.get("dataset")] if d]
    if not inner:
        yield dataset
    for child in inner:
        yield from _datasets(child)


def _use_project_data(cfg: Config, root: str) -> None:
    """Read data from the project's folder where the working directory has none of that name."""
    there = PROJECT_ROOT / root
    if not root or Path(root).is_absolute() or Path(root).exists() or not there.exists():
        return

    def moved(node):
        if isinstance(node, dict):
            for key, value in node.items():
                node[key] = moved(value)
        elif isinstance(node, list):
            node[:] = [moved(value) for value in node]
        elif isinstance(node, str) and node.startswith(root):
            return str(PROJECT_ROOT / node) + ("/" if node.endswith("/") else "")
        return node

    for key in list(cfg):
        if key.endswith(("_dataloader", "_evaluator")):
            moved(cfg[key])


def _fail(cfg: Config, dataset: ConfigDict, what: str) -> None:
    root = dataset.get("data_root") or ""
    layout = LAYOUTS.get(cfg.get("default_scope"), "{root}...").format(root=root)
    raise InputError(
        f"{what} (working directory: {Path.cwd()}). The usual layout is {layout}. Put the data "
        f"there, link to it (ln -s /path/to/data {root.rstrip('/') or 'data'}), or name your "
        "own paths with --cfg-options: train_dataloader.dataset.data_root=/path/ , likewise for "
        "val_dataloader and test_dataloader, and val_evaluator.ann_file. "
        "For a small set to try things out: python tools/make_scenes.py data/scenes"
    )


def _check_coco(cfg: Config, dataset: ConfigDict, path: Path) -> None:
    """Check that `path` is a readable COCO annotation file with the config's classes."""
    if path.stat().st_size > FULL_PARSE_BYTES:
        with path.open("rb") as file:
            start = file.read(1)
            file.seek(-16, 2)
            if start != b"{" or not file.read().rstrip().endswith(b"}"):
                raise InputError(f"Annotation file {path} is cut off; copy or download it again.")
        return
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"Annotation file {path} is not valid JSON ({error}); it may be cut off. Copy or "
            "download it again."
        ) from error
    keys = ["images", "categories"] + ["annotations"] * (not dataset.get("test_mode"))
    missing = [k for k in keys if not isinstance(content, dict) or not content.get(k)]
    if missing:
        raise InputError(
            f"Annotation file {path} lacks or has empty {missing}; a COCO annotation file has the "
            f"lists {keys}."
        )
    _check_classes(cfg, dataset, path, [c.get("name") for c in content["categories"]])
    needs_masks = any(step.get("with_mask") for step in dataset.get("pipeline", ()))
    annotations = content.get("annotations", [])
    if needs_masks and annotations and not any(a.get("segmentation") for a in annotations):
        raise InputError(
            f"Annotation file {path} has boxes only (no 'segmentation'), but the config trains "
            "masks (LoadAnnotations with_mask=True). Use a config without a mask head."
        )
    prefix = dataset.get("data_prefix", {}).get("img", "")
    folder = Path(dataset.get("data_root") or "") / prefix
    image = folder / content["images"][0].get("file_name", "")
    if not image.is_file():
        _fail(cfg, dataset, f"Image {image}, named in {path}, does not exist")


def _check_classes(cfg: Config, dataset: ConfigDict, path: Path, names: list[str]) -> None:
    """Compare the classes of the config, of its heads, and of the annotation file."""
    own = (dataset.get("metainfo") or {}).get("classes")
    if isinstance(own, str):  # a file of names, which MMEngine reads later
        return
    if own is None:
        from mmdet.registry import DATASETS

        kind = dataset["type"]
        kind = kind if isinstance(kind, type) else DATASETS.get(kind)
        classes = getattr(kind, "METAINFO", {}).get("classes", ())
    else:
        classes = own
        head = cfg.model.get("roi_head", cfg.model).get("bbox_head", {})
        count = head.get("num_classes", len(own)) if isinstance(head, dict) else len(own)
        if count != len(own):
            raise InputError(
                f"The data set of {path} has {len(own)} classes by metainfo.classes {list(own)}, "
                f"the model's bbox_head has num_classes={count}. Set num_classes of every head "
                f"(bbox_head, mask_head) to {len(own)}."
            )
    missing = [c for c in classes if c not in names]
    if classes and len(missing) == len(classes):
        raise InputError(
            f"No class of the config occurs in {path}: the config has {list(classes)[:8]}, the "
            f"file has {names[:8]}. Set metainfo=dict(classes=(...)) of the data sets, and "
            "num_classes of the heads, to your own classes."
        )
    if missing:
        # mmdet numbers the classes that it finds, so that later ones move up.
        print_log(
            f"{path} lacks {len(missing)} of the config's {len(classes)} classes ({missing[:3]}"
            "...): classes after a missing one get other labels than in the config. Set "
            "metainfo=dict(classes=(...)) to those of the file.",
            logger="current",
            level=logging.WARNING,
        )


def _type_name(dataset: ConfigDict) -> str:
    kind = dataset.get("type")
    return getattr(kind, "__name__", str(kind))


def _check_dataset(cfg: Config, dataset: ConfigDict) -> None:
    root = Path(dataset.get("data_root") or "")
    ann_file = dataset.get("ann_file")
    if ann_file:
        path = root / ann_file
        if not path.is_file():
            _fail(cfg, dataset, f"Annotation file {path} does not exist")
        name = _type_name(dataset)
        if path.suffix == ".json" and "Coco" in name and "Panoptic" not in name:
            _check_coco(cfg, dataset, path)
    prefix = dataset.get("data_prefix") or ""
    folders = [prefix] if isinstance(prefix, str) else list(prefix.values())
    if dataset.get("split") and not any(folders):
        # mmpretrain's ImageNet finds its folder by the split; others download or know their own.
        folders = [dataset["split"]] if _type_name(dataset).endswith("ImageNet") else []
    for folder in folders:
        if not isinstance(folder, str):
            continue
        path = root / folder
        if not path.is_dir() or not any(path.iterdir()):
            state = "is empty" if path.is_dir() else "does not exist"
            _fail(cfg, dataset, f"Data folder {path} {state}")


def check_data(cfg: Config, *dataloaders: str) -> None:
    """Check that the data of the named dataloaders is there and readable.

    A relative data_root that the working directory lacks is looked for in the project, too.

    Args:
        cfg: a complete config of mmdet, mmseg or mmpretrain; data paths may be changed in place.
        dataloaders: names such as 'train_dataloader'.

    Raises:
        InputError: something is missing or broken; the message names the path and the remedy.
    """
    loaders = [cfg[name] for name in dataloaders if cfg.get(name)]
    for loader in loaders:
        for dataset in _datasets(loader["dataset"]):
            _use_project_data(cfg, dataset.get("data_root") or "")
    for loader in loaders:
        for dataset in _datasets(loader["dataset"]):
            _check_dataset(cfg, dataset)
    for name in dataloaders:
        evaluators = cfg.get(name.replace("_dataloader", "_evaluator")) or []
        for evaluator in [evaluators] if isinstance(evaluators, dict) else evaluators:
            file = evaluator.get("ann_file")
            if file and not Path(file).is_file():
                dataset = next(_datasets(cfg[name]["dataset"]))
                _fail(cfg, dataset, f"The evaluator's ann_file {file} does not exist")

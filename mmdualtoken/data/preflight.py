"""Checks of a config's data before anything is built, with messages that say what to do."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from mmdualtoken.data.class_folders import check_class_folders
from mmdualtoken.config_files import PROJECT_ROOT
from mmdualtoken.errors import InputError

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
SCENES = {
    "mmseg": "data/scenes-ade20k --layout ade20k",
    "mmpretrain": "data/scenes-imagenet --layout imagenet",
}


def innermost_datasets(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """The innermost data set configs below wrappers such as RepeatDataset or ConcatDataset."""
    inner = dataset.get("datasets") or [d for d in [dataset.get("dataset")] if d]
    if not inner:
        yield dataset
    for child in inner:
        yield from innermost_datasets(child)


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


def layout_advice(cfg: Config, dataset: ConfigDict) -> str:
    """What to do about data that is not where the config says."""
    root = str(Path(dataset.get("data_root") or ".")) + "/"
    scope = cfg.get("default_scope")
    layout = LAYOUTS.get(scope, "{root}...").format(root=root)
    scenes = SCENES.get(scope, "data/scenes")
    return (
        f"The usual layout is {layout}. Put the data "
        f"there, link to it (ln -s /path/to/data {root[:-1]}), or name your "
        "own paths with --cfg-options: train_dataloader.dataset.data_root=/path/ , likewise for "
        "val_dataloader and test_dataloader, and val_evaluator.ann_file. "
        f"For a small set to try things out: python tools/make_scenes.py {scenes}"
    )


def _fail(cfg: Config, dataset: ConfigDict, what: str) -> None:
    raise InputError(f"{what} (working directory: {Path.cwd()}). {layout_advice(cfg, dataset)}")


def _check_coco(cfg: Config, dataset: ConfigDict, path: Path) -> None:
    """Check that `path` is a readable COCO annotation file with the config's classes."""
    if path.stat().st_size > FULL_PARSE_BYTES:
        with path.open("rb") as file:
            start = file.read(1)
            file.seek(-16, 2)
            if start != b"{" or not file.read().rstrip().endswith(b"}"):
                raise InputError(f"Annotation file {path} is cut off; copy or download it again.")
        return
    content = read_coco(dataset, path)
    for warning in check_coco_classes(cfg, dataset, path, content):
        print_log(warning, logger="current", level=logging.WARNING)
    prefix = dataset.get("data_prefix", {}).get("img", "")
    folder = Path(dataset.get("data_root") or "") / prefix
    image = folder / content["images"][0].get("file_name", "")
    if not image.is_file():
        _fail(cfg, dataset, f"Image {image}, named in {path}, does not exist")


def read_coco(dataset: ConfigDict, path: Path) -> dict[str, list]:
    """Read a COCO annotation file that has all lists which the data set needs.

    Raises:
        InputError: the file is cut off, no JSON, or lacks a list.
    """
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"Annotation file {path} is not valid JSON ({error}); it may be cut off. Copy or "
            "download it again."
        ) from error
    keys = ["images", "categories"] + ["annotations"] * (not dataset.get("test_mode"))
    lists = content if isinstance(content, dict) else {}
    missing = [k for k in keys if not lists.get(k) or not isinstance(lists[k], list)]
    if missing:
        raise InputError(
            f"Annotation file {path} lacks or has empty {missing}; a COCO annotation file has the "
            f"lists {keys}."
        )
    return content


def check_coco_classes(
    cfg: Config, dataset: ConfigDict, path: Path, content: dict[str, list]
) -> list[str]:
    """Compare what the config wants to learn with what a COCO annotation file has.

    Returns:
        Warnings: training works, but perhaps not as meant.

    Raises:
        InputError: classes or masks do not fit at all.
    """
    needs_masks = any(step.get("with_mask") for step in dataset.get("pipeline", ()))
    annotations = content.get("annotations", [])
    if needs_masks and annotations and not any(a.get("segmentation") for a in annotations):
        raise InputError(
            f"Annotation file {path} has boxes only (no 'segmentation'), but the config trains "
            "masks (LoadAnnotations with_mask=True). Use a config without a mask head."
        )
    return _check_classes(cfg, dataset, path, [c.get("name") for c in content["categories"]])


def _check_classes(cfg: Config, dataset: ConfigDict, path: Path, names: list[str]) -> list[str]:
    """Compare the classes of the config, of its heads, and of the annotation file."""
    own = (dataset.get("metainfo") or {}).get("classes")
    if isinstance(own, str):  # a file of names, which MMEngine reads later
        return []
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
    if not missing:
        return []
    # mmdet numbers the classes that it finds, so that later ones move up.
    if own is not None:
        raise InputError(
            f"{path} has no category {' nor '.join(map(repr, missing[:3]))}, which is among the "
            f"config's classes {list(own)[:8]}: mmdet would number the other classes without it, "
            "and its evaluation would stop. Name the classes as the file does, "
            f"{names[:8]}, or add the category to the file's 'categories' (objects it needs none)."
        )
    return [
        f"{path} lacks {len(missing)} of the config's {len(classes)} classes ({missing[:3]}"
        "...): classes after a missing one get other labels than in the config. Set "
        "metainfo=dict(classes=(...)) to those of the file."
    ]


def type_name(dataset: ConfigDict) -> str:
    kind = dataset.get("type")
    return getattr(kind, "__name__", str(kind))


def is_coco_file(dataset: ConfigDict, path: Path) -> bool:
    """Whether `path`, the annotation file of a data set, is in COCO's format of instances."""
    name = type_name(dataset)
    return path.suffix == ".json" and "Coco" in name and "Panoptic" not in name


def layout_problems(dataset: ConfigDict) -> Iterator[tuple[Path, str]]:
    """The annotation file and folders of a data set that are missing or empty, and which it is."""
    root = Path(dataset.get("data_root") or "")
    ann_file = dataset.get("ann_file")
    if ann_file and not (root / ann_file).is_file():
        yield root / ann_file, f"Annotation file {root / ann_file} does not exist"
    prefix = dataset.get("data_prefix") or ""
    folders = [prefix] if isinstance(prefix, str) else list(prefix.values())
    if dataset.get("split") and not any(folders):
        # mmpretrain's ImageNet finds its folder by the split; others download or know their own.
        folders = [dataset["split"]] if type_name(dataset).endswith("ImageNet") else []
    for folder in folders:
        if not isinstance(folder, str):
            continue
        path = root / folder
        if not path.is_dir() or not any(path.iterdir()):
            state = "is empty" if path.is_dir() else "does not exist"
            yield path, f"Data folder {path} {state}"


def evaluator_problems(cfg: Config, name: str) -> Iterator[tuple[Path, str]]:
    """Annotation files of the evaluators of a dataloader that do not exist."""
    evaluators = cfg.get(name.replace("_dataloader", "_evaluator")) or []
    for evaluator in [evaluators] if isinstance(evaluators, dict) else evaluators:
        file = evaluator.get("ann_file")
        if file and not Path(file).is_file():
            yield Path(file), f"The evaluator's ann_file {file} does not exist"


def _check_dataset(cfg: Config, dataset: ConfigDict) -> None:
    for _, what in layout_problems(dataset):
        _fail(cfg, dataset, what)
    path = Path(dataset.get("data_root") or "") / (dataset.get("ann_file") or "")
    if path.is_file() and is_coco_file(dataset, path):
        _check_coco(cfg, dataset, path)


def locate_data(cfg: Config, *dataloaders: str) -> list[tuple[str, ConfigDict]]:
    """The innermost data sets of the named dataloaders, each with the name of its dataloader.

    A relative data_root that the working directory lacks is looked for in the project, too; the
    paths in the config are changed in place.
    """
    found = [
        (name, dataset)
        for name in dataloaders
        if cfg.get(name)
        for dataset in innermost_datasets(cfg[name]["dataset"])
    ]
    for _, dataset in found:
        _use_project_data(cfg, dataset.get("data_root") or "")
    return found


def check_data(cfg: Config, *dataloaders: str) -> None:
    """Check that the data of the named dataloaders is there and readable.

    A relative data_root that the working directory lacks is looked for in the project, too.

    Args:
        cfg: a complete config of mmdet, mmseg or mmpretrain; data paths may be changed in place.
        dataloaders: names such as 'train_dataloader'.

    Raises:
        InputError: something is missing or broken; the message names the path and the remedy.
    """
    found = locate_data(cfg, *dataloaders)
    for _, dataset in found:
        _check_dataset(cfg, dataset)
    check_class_folders(dataset for _, dataset in found)
    for name, dataset in found:
        for _, what in evaluator_problems(cfg, name):
            _fail(cfg, dataset, what)


def check_schedule(cfg: Config) -> None:
    """Check that no part of the learning rate's schedule begins after the end of training.

    Raises:
        InputError: one does, for instance after a warm-up that is longer than the run.
    """
    schedulers = cfg.get("param_scheduler") or []
    for i, part in enumerate([schedulers] if isinstance(schedulers, dict) else schedulers):
        key = "max_epochs" if part.get("by_epoch", True) else "max_iters"
        begin, last = part.get("begin", 0), (cfg.get("train_cfg") or {}).get(key)
        if last and begin >= last:
            raise InputError(
                f"param_scheduler[{i}] ({part.get('type')}) has begin={begin}, but training ends "
                f"at {key}={last}. Train longer, or give param_scheduler parts that begin before "
                f"{last} (a shorter warm-up and what follows it)"
            )

"""The worked examples of docs/own-data.md, on real data: each command, a few iterations, narrow."""

import json
import re
import zipfile
from pathlib import Path

import pytest
from documents import BLOCKS, commands_of, tool_of
from narrow import narrow

PAGE = "docs/own-data.md"
CONFIGS = {b.name: b.text for b in BLOCKS if b.page == PAGE and b.name}
COMMANDS = [
    w for b in BLOCKS if b.page == PAGE and b.language == "bash" for w in commands_of(b.text)
]

METRIC = {
    "cells.py": "coco/bbox_mAP",
    "nuclei.py": "coco/segm_mAP",
    "streets.py": "mIoU",
    "things.py": "accuracy/top1",
}


def make_narrow(config):
    """Rewrite the config: a narrow model at 64 pixels, a step or two on four images."""
    cfg = narrow(Path(config))
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.indices = 4
        for step in loader.dataset.pipeline:
            for key in {"scale", "crop_size", "size"} & set(step):
                step[key] = 64 if isinstance(step[key], int) else (64, 64)
    cfg.train_dataloader.batch_size, cfg.param_scheduler = 2, []
    cfg.load_from = cfg.model.backbone.init_cfg = None  # the weights are no narrow ones
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint.interval = 2
    cfg.dump(config)


def place(real_data, config):
    """The data where the page says, links to the real ones or a few of them."""
    if config == "things.py":
        for split in ("train", "val"):
            with zipfile.ZipFile(real_data / "cifar10" / f"{split}.zip") as file:
                names = [n for n in file.namelist() if re.search(r"/000[01]\.jpg$", n)]
                file.extractall(Path("data/things") / split, names)
        return
    name = {"cells.py": "bccd", "streets.py": "camvid"}.get(config, "nuclei")
    Path("data").mkdir()
    Path("data", name).symlink_to(real_data / name)


def test_every_block_is_run():
    assert set(CONFIGS) == set(METRIC)
    assert [tool_of(w)[0] for w in COMMANDS] == 4 * [
        "check_data",
        "browse_dataset",
        "train",
        "test",
        "predict",
    ]


def test_one_file_is_divided(here):
    """Each image with its objects in one of the two files; everything else in both."""
    (block,) = (b for b in BLOCKS if b.page == PAGE and "all.json" in b.text)
    images = [dict(id=i) for i in range(10)]
    boxes = [dict(id=i, image_id=i % 10) for i in range(30)]
    kinds = [dict(id=1, name="cell")]
    content = dict(images=images, annotations=boxes, categories=kinds)
    Path("all.json").write_text(json.dumps(content))
    exec(compile(block.text, block.id, "exec"), {})  # noqa: S102
    train, val = (json.loads(Path(f"{name}.json").read_text()) for name in ("train", "val"))
    assert (len(train["images"]), len(val["images"])) == (8, 2)
    for key, expected in content.items():
        both = kinds + kinds if key == "categories" else expected
        assert sorted(train[key] + val[key], key=lambda x: x["id"]) == both
    for part in (train, val):
        assert {b["image_id"] for b in part["annotations"]} == {i["id"] for i in part["images"]}


def test_from_voc(real_data, here):
    """XML made from three photos' JSON of each part becomes that JSON again."""
    (block,) = (b for b in BLOCKS if b.page == PAGE and "BCCD_Dataset/BCCD" in b.text)
    source = Path("BCCD_Dataset/BCCD")
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (source / folder).mkdir(parents=True)
    expected = {}
    for split in ("train", "val"):
        content = json.loads((real_data / f"bccd/annotations/{split}.json").read_text())
        classes = {kind["id"]: kind["name"] for kind in content["categories"]}
        images = sorted(content["images"], key=lambda image: image["id"])[:3]
        boxes = [a for a in content["annotations"] if a["image_id"] <= images[-1]["id"]]
        expected[split] = dict(images=images, annotations=boxes, categories=content["categories"])
        for image in images:
            xml = f"<size><width>{image['width']}</width><height>{image['height']}</height></size>"
            for box in (box for box in boxes if box["image_id"] == image["id"]):
                left, top, width, height = box["bbox"]
                sides = dict(xmin=left + 1, ymin=top + 1, xmax=left + width, ymax=top + height)
                inside = "".join(f"<{key}>{int(value)}</{key}>" for key, value in sides.items())
                name = f"<name>{classes[box['category_id']]}</name>"
                xml += f"<object>{name}<bndbox>{inside}</bndbox></object>"
            name = Path(image["file_name"]).stem
            (source / f"Annotations/{name}.xml").write_text(f"<annotation>{xml}</annotation>")
            (source / f"JPEGImages/{name}.jpg").write_text(name)
        names = "\n".join(Path(image["file_name"]).stem for image in images)
        (source / f"ImageSets/Main/{split}.txt").write_text(names)
    exec(compile(block.text, block.id, "exec"), {})  # noqa: S102
    for split, content in expected.items():
        assert json.loads(Path(f"data/bccd/annotations/{split}.json").read_text()) == content
        assert {path.stem for path in Path("data/bccd", split).iterdir()} == {
            Path(image["file_name"]).stem for image in content["images"]
        }


@pytest.mark.slow
@pytest.mark.parametrize("config", METRIC)
def test_example(config, real_data, here, tool):
    """The config word for word; the commands too, after the check with a narrow model."""
    place(real_data, config)
    Path(config).write_text(CONFIGS[config])
    for words in COMMANDS:
        if config not in words:
            continue
        name, arguments = tool_of(words)
        arguments = [word.replace("iter_600.pth", "iter_2.pth") for word in arguments]
        if name == "browse_dataset":
            make_narrow(config)
        if name == "predict":
            few = here / "few"
            few.mkdir()
            for image in sorted(Path(arguments[2]).iterdir())[:2]:
                (few / image.name).symlink_to(image.resolve())
            arguments[2] = str(few)
        status, printed = tool(name, *arguments)
        assert status == 0, printed[-3000:]
    (file,) = Path("work_dirs", Path(config).stem, "test").glob("*/*.json")
    assert 0 <= json.loads(file.read_text())[METRIC[config]] <= 100
    stem = Path(config).stem
    assert len(list(Path(f"found-{stem}", "preds").glob("*.json"))) == 2
    assert Path(f"seen-{stem}", "contact_sheet.png").is_file()

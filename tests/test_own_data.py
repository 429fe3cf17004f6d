"""The worked examples of docs/own-data.md, on real data: each command, a few iterations, narrow."""

import json
import re
import zipfile
from pathlib import Path

import pytest
from documents import BLOCKS, commands_of, tool_of

PAGE = "docs/own-data.md"
CONFIGS = {b.name: b.text for b in BLOCKS if b.page == PAGE and b.language == "python"}
COMMANDS = [
    w for b in BLOCKS if b.page == PAGE and b.language == "bash" for w in commands_of(b.text)
]

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
NARROW = [
    "model.backbone.arch._delete_=True",
    "model.backbone.arch.embed_dims=(16,16,16)",
    "model.backbone.arch.depths=(1,1,1)",
    "model.backbone.arch.num_heads=(2,2,2)",
    "model.backbone.arch.ffn_ratios=(2,2,2)",
    "train_dataloader.batch_size=2",
    *(f"{loader}.num_workers=0" for loader in LOADERS),
    *(f"{loader}.persistent_workers=False" for loader in LOADERS),
]
SIXTEEN = {
    "cells.py": "neck.out_channels bbox_head.in_channels bbox_head.feat_channels",
    "nuclei.py": "neck.out_channels rpn_head.in_channels rpn_head.feat_channels "
    "roi_head.bbox_roi_extractor.out_channels roi_head.mask_roi_extractor.out_channels "
    "roi_head.bbox_head.in_channels roi_head.bbox_head.fc_out_channels "
    "roi_head.mask_head.in_channels roi_head.mask_head.conv_out_channels",
    "streets.py": "decode_head.in_channels decode_head.channels auxiliary_head.in_channels "
    "auxiliary_head.channels",
    "things.py": "neck.in_channels",
}
OPTIONS = {
    "cells.py": [
        "model.neck.in_channels=[16,16,16]",
        "model.test_cfg.score_thr=0.0",  # after so few iterations no score is high
        "train_cfg.max_epochs=1",
        "train_dataloader.dataset.pipeline.2.scale=(64,64)",
        *(f"{s}_dataloader.dataset.pipeline.1.scale=(64,64)" for s in ("val", "test")),
    ],
    "nuclei.py": [
        "model.neck.in_channels=[16,16,16,16]",
        "model.test_cfg.rcnn.score_thr=0.0",
        "train_cfg.max_epochs=1",
        "train_dataloader.dataset.pipeline.2.scale=(64,64)",
        *(f"{s}_dataloader.dataset.pipeline.1.scale=(64,64)" for s in ("val", "test")),
    ],
    "streets.py": [
        "model.data_preprocessor.size=(64,64)",
        "train_dataloader.dataset.pipeline.2.scale=(128,64)",
        "train_dataloader.dataset.pipeline.3.crop_size=(64,64)",
        *(f"{s}_dataloader.dataset.pipeline.1.scale=(128,64)" for s in ("val", "test")),
        "train_cfg.max_iters=2",
        "train_cfg.val_interval=2",
        "default_hooks.checkpoint.interval=2",
    ],
    "things.py": [
        "train_cfg.max_epochs=1",
        "param_scheduler=[]",
        "train_dataloader.dataset.pipeline.1.scale=64",
        *(f"{s}_dataloader.dataset.pipeline.2.crop_size=64" for s in ("val", "test")),
    ],
}
METRIC = {
    "cells.py": "coco/bbox_mAP",
    "nuclei.py": "coco/segm_mAP",
    "streets.py": "mIoU",
    "things.py": "accuracy/top1",
}
LAST = {name: "iter_2.pth" if name == "streets.py" else "epoch_1.pth" for name in METRIC}


def options(config):
    sixteen = [f"model.{name}=16" for name in SIXTEEN[config].split()]
    few = [f"{loader}.dataset.indices=4" for loader in LOADERS]
    return ["--cfg-options", *NARROW, *OPTIONS[config], *sixteen, *few]


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
    assert set(CONFIGS) == set(OPTIONS)
    assert [tool_of(w)[0] for w in COMMANDS] == 4 * [
        "check_data",
        "browse_dataset",
        "train",
        "test",
        "predict",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("config", OPTIONS)
def test_example(config, real_data, tmp_path, monkeypatch, tool):
    """The config word for word; the commands too, with options that make the model narrow."""
    monkeypatch.chdir(tmp_path)
    place(real_data, config)
    Path(config).write_text(CONFIGS[config])
    for words in COMMANDS:
        if config not in words:
            continue
        name, arguments = tool_of(words)
        given = re.compile(rf"(work_dirs/{Path(config).stem}/).*\.pth")
        arguments = [given.sub(rf"\g<1>{LAST[config]}", word) for word in arguments]
        more = [] if name == "check_data" else options(config)
        if name == "predict":
            few = tmp_path / "few"
            few.mkdir()
            for image in sorted(Path(arguments[2]).iterdir())[:2]:
                (few / image.name).symlink_to(image.resolve())
            arguments[2] = str(few)
        status, printed = tool(name, *arguments, *more)
        assert status == 0, printed[-3000:]
    (file,) = Path("work_dirs", Path(config).stem, "test").glob("*/*.json")
    assert 0 <= json.loads(file.read_text())[METRIC[config]] <= 100
    stem = Path(config).stem
    assert len(list(Path(f"found-{stem}", "preds").glob("*.json"))) == 2
    assert Path(f"seen-{stem}", "contact_sheet.png").is_file()

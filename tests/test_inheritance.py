"""config_path, and the configs that the documents tell users to write."""

import importlib
import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.utils import import_modules_from_strings
from tasks import ROOT

import mmdualtoken
from mmdualtoken.errors import InputError

README = (ROOT / "README.md").read_text()
DOCUMENTS = [README, *(p.read_text() for p in sorted((ROOT / "configs").glob("*/README.md")))]
#: What the documents call NAME.py, word for word.
RECIPES = {
    name: text
    for document in DOCUMENTS
    for text, name in re.findall(r"```python\n(# (\w+)\.py\n.*?)```", document, re.S)
}
SCOPES = dict(vehicles="mmdet", parcels="mmdet", roads="mmseg", cracks="mmseg", pets="mmpretrain")


def test_every_config_is_found():
    names = mmdualtoken.list_configs()
    assert "mmdet/maskrcnn_dualtoken_s_1x.py" in names and len(names) == len(set(names))
    tree = {p.relative_to(ROOT / "configs").as_posix() for p in (ROOT / "configs").rglob("*.py")}
    assert set(names) == {name for name in tree if "_base_/" not in name}
    assert all("dualtoken" in name for name in names)  # the rivals are not packaged
    for name in names:
        assert Path(mmdualtoken.config_path(name)) == ROOT / "configs" / name


@pytest.mark.parametrize(
    "name, hint",
    [
        ("maskrcnn_dualtoken_s_1x.py", "Did you mean mmdet/maskrcnn_dualtoken_s_1x.py"),
        ("mmdet/maskrcnn_dualtoken_s_1x", "Did you mean mmdet/maskrcnn_dualtoken_s_1x.py"),
        ("mmseg/pspnet_dualtoken_small.py", "mmseg/pspnet_dualtoken_s_160k.py"),
        ("../setup.py", "list_configs()"),
        ("_base_/resnet18.py", "list_configs()"),
    ],
)
def test_unknown_config(name, hint, tmp_path):
    """The message is what a user of the stock tools sees, through MMEngine."""
    (tmp_path / "a.py").write_text(f'_base_ = __import__("mmdualtoken").config_path("{name}")\n')
    with pytest.raises(InputError, match=re.escape(f"no config '{name}'")) as caught:
        Config.fromfile(tmp_path / "a.py")
    assert hint in str(caught.value)


def test_incomplete_installation(tmp_path, monkeypatch):
    monkeypatch.setattr("mmdualtoken.config_files.FOLDERS", (tmp_path / "a", tmp_path / "b"))
    with pytest.raises(InputError, match="(?s)neither in .*/a nor in .*/b.*Install the wheel"):
        mmdualtoken.config_path("mmdet/maskrcnn_dualtoken_s_1x.py")


def values(node, key):
    """All values of `key` anywhere in a nested config."""
    if isinstance(node, dict):
        found = [node[key]] if key in node else []
        return found + [v for child in node.values() for v in values(child, key)]
    return [v for child in node for v in values(child, key)] if isinstance(node, list) else []


def test_every_toolbox_has_a_recipe():
    assert set(RECIPES) == set(SCOPES)


@pytest.mark.parametrize("name", SCOPES)
def test_recipe_merges(name, tmp_path):
    """Classes and data root arrive everywhere, all else is inherited; a dump loads as it was."""
    text = RECIPES[name]
    assert len(text.splitlines()) <= 10
    (tmp_path / f"{name}.py").write_text(text)
    cfg = Config.fromfile(tmp_path / f"{name}.py")
    base = Config.fromfile(mmdualtoken.config_path(re.search(r'config_path\("(.+?)"\)', text)[1]))
    assert cfg.default_scope == base.default_scope == SCOPES[name]

    classes = cfg.train_dataloader.dataset.metainfo.classes
    assert len(classes) in (2, 3)
    counts, before = (
        values([c.model, c.get("data_preprocessor", {})], "num_classes") for c in (cfg, base)
    )
    assert set(counts) == {len(classes)} and len(counts) == len(before)
    for split in ("train", "val", "test"):
        dataset = cfg[f"{split}_dataloader"].dataset
        assert dataset.metainfo.classes == classes
        assert dataset.data_root == f"data/{name}/"
        assert len(dataset.pipeline) == len(base[f"{split}_dataloader"].dataset.pipeline)
    for split in ("val", "test"):
        for file in values(cfg[f"{split}_evaluator"], "ann_file"):
            assert file.startswith(f"data/{name}/")
    for key in ("optim_wrapper", "param_scheduler", "train_cfg", "custom_imports"):
        assert cfg[key] == base[key]

    cfg.dump(tmp_path / "dump.py")
    assert Config.fromfile(tmp_path / "dump.py").to_dict() == cfg.to_dict()


def test_registration_is_idempotent(tmp_path):
    names = ("DualTokenViT", "DualTokenClsNeck", "DualTokenFPN")
    before = [MODELS.get(name) for name in names]
    (tmp_path / "vehicles.py").write_text(RECIPES["vehicles"])
    for _ in range(2):  # by _base_ and by custom_imports
        cfg = Config.fromfile(tmp_path / "vehicles.py")
        import_modules_from_strings(**cfg.custom_imports)
        importlib.reload(mmdualtoken)
    assert [MODELS.get(name) for name in names] == before and None not in before
    assert mmdualtoken.config_path.__module__ == "mmdualtoken.config_files"

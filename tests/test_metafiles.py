"""model-index.yml, the metafiles and the READMEs of configs/: complete, and counted."""

import itertools
import re
from pathlib import Path

import modelindex
import pytest
import yaml
from mmengine.config import Config
from tasks import ROOT

import mmdualtoken
from mmdualtoken.export.breakdown import break_down
from mmdualtoken.weights.shipped import weights_info

FOLDERS = ("mmdet", "mmpretrain", "mmseg")
METAFILES = {
    folder: yaml.safe_load((ROOT / "configs" / folder / "metafile.yml").read_text())
    for folder in FOLDERS
}
READMES = {folder: (ROOT / "configs" / folder / "README.md").read_text() for folder in FOLDERS}
MODELS = {model["Name"]: model for content in METAFILES.values() for model in content["Models"]}
#: No row of a table and no results: the demo's and those for a user's few images.
DEMO = [name for name in MODELS if name.endswith(("_demo", "_finetune"))]
SHIPPED = [f"dualtoken_{size}_mix_photos393_96px" for size in "ts"]
SAMPLE = (
    "maskrcnn_dualtoken_t_1x",
    "retinanet_dualtoken_t_1x",
    "dualtoken_s_mlp_grid9_in1k",
    "deeplabv3_dualtoken_s_stride32_160k",
    "pspnet_dualtoken_t_160k",
    "rtmdet_dualtoken_t",
    "segformer_dualtoken_t_160k",
)


def folder_of(model):
    return model["Config"].split("/")[1]


def test_index_loads():
    """By the parser that MIM uses; it also finds unknown collections and wrong fields."""
    index = modelindex.load(str(ROOT / "model-index.yml"))
    # The toolboxes' metafiles name READMEs from the root; the parser looks beside the metafile.
    assert [e for e in index.check(silent=True) if "Path to README file" not in e] == []
    assert all((ROOT / collection.readme).is_file() for collection in index.collections)
    assert [model.name for model in index.models] == list(MODELS)
    for model in index.models:
        weights = "in the package" if model.name in SHIPPED else "no weights published"
        assert model.full_model.metadata.data["Weights"] == weights


def test_every_model_of_ours_is_listed():
    listed = [model["Config"] for content in METAFILES.values() for model in content["Models"]]
    ours = [f"configs/{name}" for name in mmdualtoken.list_configs()]
    assert sorted(listed) == sorted(ours)
    for name, model in MODELS.items():
        assert Path(model["Config"]).stem == name
    assert yaml.safe_load((ROOT / "model-index.yml").read_text()) == {
        "Import": [f"configs/{folder}/metafile.yml" for folder in FOLDERS]
    }


def test_nothing_is_invented():
    """No link to weights, no accuracy, but those of the weights in the package."""
    measured = {"mini-ImageNet": "mini", "MiniPlaces": "places"}
    for entry in map(MODELS.get, SHIPPED):
        info = weights_info(entry["Weights"])
        assert entry["Config"] == f"configs/{info['config']}"
        for result in entry["Results"]:
            expected = info["accuracy"][measured[result["Dataset"]]]["top1"]
            assert result["Metrics"] == {"Top 1 Accuracy": expected}
    for content in METAFILES.values():
        for entry in content["Models"] + content["Collections"]:
            if entry["Name"] not in SHIPPED:
                assert "Weights" not in entry
                assert all(result["Metrics"] == {} for result in entry.get("Results", []))
    for name, model in MODELS.items():
        assert ("Results" in model) == (name not in DEMO)


@pytest.mark.parametrize(
    "name", [*SAMPLE, *(pytest.param(n, marks=pytest.mark.slow) for n in MODELS if n not in SAMPLE)]
)
def test_figures(name):
    """Parameters and FLOPs are counted, schedule and batch size are the config's."""
    metadata = MODELS[name]["Metadata"]
    cfg = Config.fromfile(ROOT / MODELS[name]["Config"])
    counted = break_down(cfg, (640, 640) if cfg.model.type == "RTMDet" else None)
    assert metadata["Parameters"] == counted.params
    if name in DEMO:
        assert "FLOPs" not in metadata
        assert metadata["Batch Size"] == cfg.train_dataloader.batch_size
    else:
        assert metadata["FLOPs"] == pytest.approx(counted.macs, rel=1e-3)
        assert metadata["Batch Size"] == cfg.auto_scale_lr.base_batch_size
    length = {k: v for k, v in metadata.items() if k in ("Epochs", "Iterations")}
    keys = dict(Epochs="max_epochs", Iterations="max_iters")
    assert len(length) == 1
    assert all(cfg.train_cfg[keys[key]] == value for key, value in length.items())


@pytest.mark.parametrize("folder", FOLDERS)
def test_table(folder):
    """A row for each model but the demo, with the metafile's figures and no accuracy."""
    rows = re.findall(r"^\| ([\w-]+) \| .* \| \[config\]\((.+)\) \|$", READMES[folder], re.M)
    models = {n: m for n, m in MODELS.items() if folder_of(m) == folder and n not in DEMO}
    assert sorted(rows) == sorted((name, f"{name}.py") for name in models)
    for line in READMES[folder].splitlines():
        name = line.removeprefix("| ").split(" ")[0]
        if name in models:
            counted = models[name]["Metadata"]
            figures = f"| {counted['Parameters'] / 1e6:.2f} | {counted['FLOPs'] / 1e9:.2f} |"
            _, accuracies = line.split(figures)
            assert set(accuracies.split(" | ")[:-1]) <= {" not run", "not run", "-"}
            assert " not run" in accuracies


def expand(pattern):
    """What a shell makes of braces."""
    parts = [part.split(",") for part in re.split(r"[{}]", pattern)]
    return ["".join(choice) for choice in itertools.product(*parts)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_config_is_named(folder):
    named = [n for p in re.findall(r"`([\w{},-]+\.py)`", READMES[folder]) for n in expand(p)]
    named += re.findall(r"\[config\]\((.+)\)", READMES[folder])
    configs = [n.split("/")[1] for n in mmdualtoken.list_configs() if n.startswith(folder)]
    assert sorted(named) == configs


def test_every_rival_is_named():
    lab = ROOT / "lab" / "configs"
    rows = re.findall(r"^\| `(\w+)` \| `(\S+)` \|$", (lab / "README.md").read_text(), re.M)
    named = [f"{folder}/{name}" for folder, pattern in rows for name in expand(pattern)]
    assert sorted(named) == sorted(p.relative_to(lab).as_posix() for p in lab.glob("mm*/*.py"))

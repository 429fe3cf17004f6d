"""The site of the documentation: complete, its names exist, and it builds without a warning."""

import importlib
import re
import shutil
import subprocess

import pytest
import yaml
from documents import ROOT

import mmdualtoken
from mmdualtoken import models
from mmdualtoken.registration import COMPONENTS

#: Names the pages of the site from outside docs/
HOOKS = (ROOT / "docs" / "site" / "hooks.py").read_text()


def nav_of(node):
    if isinstance(node, str):
        return [node]
    values = node.values() if isinstance(node, dict) else node
    return [page for value in values for page in nav_of(value)]


def test_every_page_is_in_the_navigation():
    pages = nav_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert len(pages) == len(set(pages))
    assert {p.name for p in (ROOT / "docs").glob("*.md")} <= set(pages)
    for page in set(pages):
        assert (ROOT / "docs" / page).is_file() or page in HOOKS or page.startswith("configs/")


CARDS = (ROOT / "docs" / "model-cards.md").read_text()
CARD_ROWS = {
    "`mix`: parameters": "dualtoken_{}_mix_in1k",
    "`mlp`: parameters": "dualtoken_{}_mlp_in1k",
    "Mask R-CNN": "maskrcnn_dualtoken_{}_1x",
    "RetinaNet": "retinanet_dualtoken_{}_1x",
    "DeepLabv3": "deeplabv3_dualtoken_{}_160k",
    "PSPNet": "pspnet_dualtoken_{}_160k",
    "RTMDet": "rtmdet_dualtoken_{}",
    "SegFormer": "segformer_dualtoken_{}_160k",
}


METAFILES = (ROOT / "configs").glob("*/metafile.yml")
MODELS = [m for file in METAFILES for m in yaml.safe_load(file.read_text())["Models"]]
FIGURES = {m["Name"]: m["Metadata"] for m in MODELS}


def figures_of(name, between):
    """The figures of the metafiles, which test_metafiles.py counts again."""
    counted = FIGURES[name]
    return f"{counted['Parameters'] / 1e6:.2f} M{between}{counted['FLOPs'] / 1e9:.2f} G"


@pytest.mark.parametrize("row", CARD_ROWS)
def test_model_cards(row):
    (line,) = re.findall(rf"^\| {row}.*$", CARDS, re.M)
    expected = [figures_of(CARD_ROWS[row].format(size), ", ") for size in "ts"]
    assert line.endswith(f"| {' | '.join(expected)} |")


def test_readme():
    """Its length, and the figures of its classifiers."""
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 110
    for arch, mlp in (("tiny", "mix"), ("small", "mix"), ("small", "mlp")):
        figures = figures_of(f"dualtoken_{arch[0]}_{mlp}_in1k", " | ")
        assert f'`arch="{arch}"`, `token_mlp="{mlp}"` | {figures} |' in text


NAMES = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "api.md").read_text(), re.M)


@pytest.mark.parametrize("name", NAMES)
def test_api_names_exist_and_are_described(name):
    module, _, attribute = name.rpartition(".")
    try:
        thing = importlib.import_module(name)
    except ImportError:
        thing = getattr(importlib.import_module(module), attribute)
    assert len(thing.__doc__.strip()) > 20


def test_public_names_are_in_the_reference():
    """What configs can name, the models, and what `import mmdualtoken` has."""
    text = (ROOT / "docs" / "api.md").read_text()
    named = {name for _, _, names in COMPONENTS for name in names} - {"dualtoken_wrap_policy"}
    own = {*mmdualtoken.__all__} - {"__version__"}
    for name in {*named, *models.__all__, *own}:
        assert re.search(rf"\b{name}\b", text), name


@pytest.mark.slow
def test_site_builds(tmp_path):
    """Links between pages, also to those outside docs/, lead to pages of the site."""
    own = ROOT / ".venv-docs" / "bin" / "mkdocs"
    mkdocs = str(own) if own.is_file() else shutil.which("mkdocs")
    if mkdocs is None:
        pytest.skip("mkdocs is not installed; make docs installs it in .venv-docs")
    command = [mkdocs, "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "readme.html").read_text()
    assert 'href="own-data.html"' in page and 'href="configs/mmdet.html"' in page
    api = (tmp_path / "site" / "api.html").read_text()
    assert 'id="mmdualtoken.models.dualtoken_vit.DualTokenViT"' in api
    assert (tmp_path / "site" / "images" / "architecture.svg").is_file()

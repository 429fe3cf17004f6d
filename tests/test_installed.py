"""Users' projects that inherit our configs, with nothing but the wheel installed."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from test_inheritance import RECIPES, ROOT, SCOPES

import mmdualtoken
from lab.scene_writers import write_ade20k, write_coco, write_imagenet

pytestmark = pytest.mark.processes
INSTALLATION = (ROOT / "docs" / "installation.md").read_text()

# --- packaging


def copy_sources(folder):
    """A copy of what packaging reads: building in place would leave files behind."""
    folder.mkdir(exist_ok=True)
    ignore = shutil.ignore_patterns("__pycache__", ".mim")
    for name in ("mmdualtoken", "lab", "tools", "configs", "requirements"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    names = ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "model-index.yml")
    names += ("_mmdualtoken_operators.py", "mmdualtoken-operators.pth")
    for name in names:
        shutil.copy(ROOT / name, folder)
    return folder


def files_below(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def setup_py(clone, *arguments):
    subprocess.run([sys.executable, "setup.py", "-q", *arguments], cwd=clone, check=True)


DEVELOP = """
import distutils.core, setuptools
dist = distutils.core.run_setup("setup.py", stop_after="init")
command = dist.cmdclass["develop"]
command.__bases__[0].run = lambda self: None  # installs nothing
for _ in range(2):
    develop = command(dist)
    develop.install_dir = "site"
    develop.run()
"""


def test_what_is_packed(tmp_path):
    """configs, tools and model-index.yml once each; nothing stale, nothing of an earlier link."""
    clone = copy_sources(tmp_path)
    wanted = {"model-index.yml"}
    for name in ("configs", "tools", "requirements"):
        wanted |= {f"{name}/{file}" for file in files_below(clone / name)}
    # These need the clone: its lab/, tests/ and requirements/.
    alone = ("demo", "make_scenes", "reproduce", "setup_env", "test_all")
    wanted -= {f"tools/{tool}.py" for tool in alone}
    assert {"configs/mmdet/metafile.yml", "configs/mmseg/_base_/ade20k.py"} < wanted
    (clone / "configs" / "gone.py").touch()
    setup_py(clone, "build_py", "--build-lib", "lib")
    assert (clone / "lib" / "mmdualtoken-operators.pth").is_file()
    (clone / "configs" / "gone.py").unlink()
    (clone / "site").mkdir()
    subprocess.run([sys.executable, "-W", "ignore", "-c", DEVELOP], cwd=clone, check=True)
    assert (clone / "site" / "mmdualtoken-operators.pth").is_file()
    links = clone / "mmdualtoken" / ".mim"
    assert (links / "configs" / "mmdet" / "metafile.yml").is_file()
    assert {p.name for p in links.iterdir()} == {
        "configs",
        "tools",
        "requirements",
        "model-index.yml",
    }
    setup_py(clone, "build_py", "--build-lib", "lib")
    packed = files_below(clone / "lib" / "mmdualtoken" / ".mim")
    assert packed == wanted
    assert not (clone / "lib" / "mmdualtoken" / ".mim" / "configs").is_symlink()


PIP = [sys.executable, "-m", "pip"]


def environment(folder, *install):
    """Python of a fresh environment after `pip install *install`; torch and the mm packages are
    those of this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    # A plain path: the .pth files in there, an editable install's among them, are not read.
    (site_packages / "stack.pth").write_text(sysconfig.get_path("purelib"))
    python = folder / "bin" / "python"
    options = ["-q", "--no-deps", "--no-build-isolation", *install]
    subprocess.run([*PIP, "--python", python, "install", *options], check=True)
    return python


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Python of an environment with the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    clone = copy_sources(folder / "clone")
    options = ["-q", "--no-deps", "--no-build-isolation", "-w", folder]
    subprocess.run([*PIP, "wheel", *options, clone], check=True)
    shutil.rmtree(clone)
    return environment(folder / "venv", next(folder.glob("mmdualtoken-*.whl")))


def run(*command, cwd):
    """Run a command as a user would: the output of one that succeeded."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


FRESH = """
import sys
from pathlib import Path
from mmengine.config import Config
from mmengine.registry import DefaultScope, MODELS
prefix = Path(sys.prefix)
assert "mmdualtoken" not in sys.modules
cfg = Config.fromfile("vehicles.py")
import mmdualtoken
assert prefix in Path(mmdualtoken.__file__).parents, mmdualtoken.__file__
assert prefix in Path(mmdualtoken.config_path("mmdet/maskrcnn_dualtoken_s_1x.py")).parents
assert MODELS.get("DualTokenViT").__module__.startswith("mmdualtoken.")
assert DefaultScope.get_current_instance() is None and cfg.default_scope == "mmdet"
assert Path(mmdualtoken.__path__[0], ".mim", "model-index.yml").is_file()
print(len(mmdualtoken.list_configs()), "configs")
"""


def test_wheel_alone(python, tmp_path):
    """In an empty directory the wheel, not the clone, gives config and backbone."""
    (tmp_path / "vehicles.py").write_text(RECIPES["vehicles"])
    printed = run(python, "-c", FRESH, cwd=tmp_path)
    assert f"{len(mmdualtoken.list_configs())} configs" in printed


# --- three tasks, from training to prediction

NARROW = [
    "model.backbone.arch._delete_=True",
    "model.backbone.arch.embed_dims=(16,16,16)",
    "model.backbone.arch.depths=(1,1,1)",
    "model.backbone.arch.num_heads=(2,2,2)",
    "model.backbone.arch.ffn_ratios=(2,2,2)",
    "default_hooks.logger.interval=1",
    "train_dataloader.batch_size=2",
]
for split in ("train", "val", "test"):
    NARROW += [f"{split}_dataloader.num_workers=0", f"{split}_dataloader.persistent_workers=False"]
SIXTEEN = dict(
    vehicles="neck.out_channels rpn_head.in_channels rpn_head.feat_channels "
    "roi_head.bbox_roi_extractor.out_channels roi_head.mask_roi_extractor.out_channels "
    "roi_head.bbox_head.in_channels roi_head.bbox_head.fc_out_channels "
    "roi_head.mask_head.in_channels roi_head.mask_head.conv_out_channels",
    roads="decode_head.in_channels decode_head.channels "
    "auxiliary_head.in_channels auxiliary_head.channels",
    pets="neck.in_channels",
)
OPTIONS = {
    "vehicles": [
        "model.neck.in_channels=[16,16,16]",
        "model.test_cfg.rpn.max_per_img=20",
        *(f"{s}_dataloader.dataset.pipeline.1.scale=(64,64)" for s in ("val", "test")),
        "train_dataloader.dataset.pipeline.2.scale=(64,64)",
        "train_cfg.max_epochs=1",
    ],
    "roads": [
        "model.data_preprocessor.size=(64,64)",
        *(f"{s}_dataloader.dataset.pipeline.1.scale=(128,64)" for s in ("val", "test")),
        "train_dataloader.dataset.pipeline.2.scale=(128,64)",
        "train_dataloader.dataset.pipeline.3.crop_size=(64,64)",
        "train_cfg.max_iters=2",
        "train_cfg.val_interval=2",
        "default_hooks.checkpoint.interval=2",
    ],
    "pets": [
        *(f"{s}_dataloader.dataset.pipeline.1.scale=72" for s in ("val", "test")),
        *(f"{s}_dataloader.dataset.pipeline.2.crop_size=64" for s in ("val", "test")),
        "train_dataloader.dataset.pipeline.1.scale=64",
        "train_cfg.max_epochs=1",
        "param_scheduler=[]",
    ],
}
for task, names in SIXTEEN.items():
    OPTIONS[task] += [f"model.{name}=16" for name in names.split()]
METRICS = dict(vehicles="coco/segm_mAP", roads="mIoU", pets="accuracy/top1")
IMAGES = dict(vehicles="val/*.jpg", roads="images/validation/*.jpg", pets="val/owl/*.jpg")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """data/vehicles, data/roads and data/pets: generated scenes, named and laid out as documented.

    Three of the four kinds of shapes; in the masks all of them are one class.
    """
    folder = tmp_path_factory.mktemp("data")
    size = dict(num_train=8, num_val=4, size_range=(96, 128))
    write_coco(folder / "coco", **size)
    write_ade20k(folder / "roads", **size)
    write_imagenet(folder / "imagenet", **size)

    names = dict(disc="car", square="truck", triangle="bus")
    for split in ("train", "val"):
        file = folder / "coco" / "annotations" / f"instances_{split}2017.json"
        content = json.loads(file.read_text())
        kept = {c["id"]: c for c in content["categories"] if c["name"] in names}
        content["categories"] = [{**c, "name": names[c["name"]]} for c in kept.values()]
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] in kept]
        shutil.copytree(folder / "coco" / f"{split}2017", folder / "vehicles" / split)
        (folder / "vehicles" / f"{split}.json").write_text(json.dumps(content))
    for path in (folder / "roads" / "annotations").rglob("*.png"):
        cv2.imwrite(str(path), np.minimum(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), 2))
    for split in ("train", "val"):
        for old, new in zip(names, ("cat", "dog", "owl"), strict=True):
            shutil.copytree(folder / "imagenet" / split / old, folder / "pets" / split / new)
    return folder


@pytest.fixture
def project(data, tmp_path):
    """A user's directory with nothing in it but the data and their configs."""
    (tmp_path / "data").symlink_to(data)
    for name, text in RECIPES.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def stock_tools(name):
    return Path(importlib.import_module(SCOPES[name]).__file__).parent / ".mim" / "tools"


def check_run(project, name, printed):
    """The run trained our backbone on the user's classes; returns its last checkpoint."""
    assert "DualTokenViT starts from scratch" in printed
    cfg = Config.fromfile(project / "run" / f"{name}.py")
    assert cfg.model.backbone.type == "DualTokenViT"
    return (project / "run" / "last_checkpoint").read_text()


def check_test(project, name):
    (file,) = (project / "eval").glob("*/*.json")
    assert 0 <= json.loads(file.read_text())[METRICS[name]] <= 100


INFERENCE = {
    "vehicles": re.search(r"```python\n(from mmdet\.apis import.*?)```", INSTALLATION, re.S)[1]
    .replace('"vehicles.py"', "CONFIG")
    .replace('"work_dirs/vehicles/epoch_12.pth"', "CHECKPOINT")
    .replace('"photo.jpg"', "IMAGE"),
    "roads": "from mmseg.apis import MMSegInferencer\n"
    "inferencer = MMSegInferencer(CONFIG, weights=CHECKPOINT, device='cpu')\n"
    "result = inferencer(IMAGE, out_dir='pictures')\n"
    "assert set(result['predictions'].ravel()) <= {0, 1}\n"
    "assert inferencer.visualizer.dataset_meta['classes'] == ('other', 'road')",
    "pets": "from mmpretrain import ImageClassificationInferencer\n"
    "inferencer = ImageClassificationInferencer(CONFIG, pretrained=CHECKPOINT, device='cpu')\n"
    "(result,) = inferencer(IMAGE, show_dir='pictures')\n"
    "assert result['pred_class'] in ('cat', 'dog', 'owl') and len(result['pred_scores']) == 3",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_stock_tools(name, project, python):
    """train.py, test.py and the inferencer of the toolbox, which know nothing of us."""
    tools, options = stock_tools(name), ["--cfg-options", *NARROW, *OPTIONS[name]]
    arguments = [f"{name}.py", "--work-dir", "run", *options]
    printed = run(python, tools / "train.py", *arguments, cwd=project)
    checkpoint = check_run(project, name, printed)
    arguments = [f"{name}.py", checkpoint, "--work-dir", "eval", *options]
    run(python, tools / "test.py", *arguments, cwd=project)
    check_test(project, name)

    # The dump of the narrow config, which says nothing of config_path, in a fresh process.
    dump = project / "run" / f"{name}.py"
    image = next((project / "data" / name).glob(IMAGES[name]))
    assert "config_path" not in dump.read_text()
    given = f"CONFIG, CHECKPOINT, IMAGE = {str(dump)!r}, {checkpoint!r}, {str(image)!r}\n"
    run(python, "-c", given + INFERENCE[name], cwd=project)
    assert [p for p in (project / "pictures").rglob("*") if p.suffix in (".jpg", ".png")]
    if name == "vehicles":  # a checkpoint carries its config
        alone = "import mmdualtoken\nfrom mmdet.apis import DetInferencer\n"
        run(python, "-c", f"{alone}DetInferencer(weights={checkpoint!r})", cwd=project)


@pytest.mark.slow
def test_our_tools(project, python):
    """train.py as the documentation calls it without MIM, then test.py beside it."""
    name = "roads"
    train = re.search(r"`(python \"\$\(python -c .*?/\.mim/tools/train\.py\")`", INSTALLATION)[1]
    options = " ".join(f"'{option}'" for option in (*NARROW, *OPTIONS[name]))
    rest = f"{name}.py --work-dir run --cfg-options {options}"
    path = f'PATH="{python.parent}:$PATH"'
    printed = run("bash", "-c", f"{path}; {train} {rest}", cwd=project)
    checkpoint = check_run(project, name, printed)
    test, rest = train.replace("train.py", "test.py"), rest.replace("--work-dir run", "")
    rest = rest.replace(f"{name}.py", f"{name}.py {checkpoint} --work-dir eval", 1)
    run("bash", "-c", f"{path}; {test} {rest}", cwd=project)
    check_test(project, name)


@pytest.mark.slow
def test_editable_install(python, tmp_path):
    """config_path finds the clone; no .mim is made, which would show MIM every config twice."""
    clone = copy_sources(tmp_path / "clone")
    own = environment(tmp_path / "venv", "-e", clone)
    code = "import mmdualtoken; print(mmdualtoken.config_path('mmdet/maskrcnn_dualtoken_s_1x.py'))"
    printed = run(own, "-c", code, cwd=tmp_path)
    assert str(clone / "configs" / "mmdet" / "maskrcnn_dualtoken_s_1x.py") in printed
    assert not (clone / "mmdualtoken" / ".mim").exists()

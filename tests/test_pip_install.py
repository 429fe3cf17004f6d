"""The README's pip commands, as written, into empty environments without a compiler."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_packaging import copy_sources

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
INSTALLATION = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")

#: Everything that the toolboxes' inferencers import, before anything of ours.
INFERENCERS = """
from mmdet.apis import DetInferencer
from mmseg.apis import MMSegInferencer
from mmpretrain import ImageClassificationInferencer
import sys, mmcv._ext
assert "mmdualtoken" not in sys.modules
assert mmcv._ext.get_compiler_version().startswith("nothing was compiled")
"""


@pytest.fixture
def user(tmp_path):
    """Runs a command in an empty environment, with nothing on PATH but its own programs."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    keep = ("HOME", "TMPDIR", "LANG")
    variables = {k: v for k, v in os.environ.items() if k in keep or k.startswith("PIP_")}
    variables |= dict(PATH=str(venv / "bin"), OMP_NUM_THREADS="1")

    def run(command, cwd=tmp_path):
        done = subprocess.run(
            command, cwd=cwd, env=variables, capture_output=True, text=True, shell=True,
            executable="/bin/bash",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    return run


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("extra", ["onedl", "openmmlab"])
def test_one_command(extra, user, tmp_path):
    (command,) = re.findall(rf'^(?:# )?(pip install "\.\[{extra}\]")', README, re.M)
    assert "no compiler" in user("type c++ g++ gcc cc clang >/dev/null 2>&1 || echo no compiler")
    clone = copy_sources(tmp_path / "clone")
    user(command, cwd=clone)
    (site,) = tmp_path.glob("venv/lib/python*/site-packages")
    assert not list(site.glob("mmcv/_ext*"))
    (opencv,) = site.glob("cv2/cv2*.so")
    assert b"libGL.so" not in opencv.read_bytes()
    assert "Nothing is wrong." in user("python -m mmdualtoken.doctor")
    user(f"python -c '{INFERENCERS}'")

    backbone = next(
        b for b in re.findall(r"```python\n(.*?)```", README, re.S) if "torch.rand" in b
    )
    assert "[(1, 64, 28, 28), (1, 128, 14, 14), (1, 256, 7, 7)]" in user(f"python -c '{backbone}'")
    tools = site / "mmdualtoken" / ".mim" / "tools"
    user(f"python {clone}/tools/make_scenes.py data/scenes --num-train 8 --num-val 4")
    narrow = (ROOT / "tests" / "configs" / "maskrcnn_narrow.py").read_text()
    base = '__import__("mmdualtoken").config_path("mmdet/maskrcnn_dualtoken_s_demo.py")'
    narrow = re.sub(r'_base_ = ".*"', f"_base_ = {base}", narrow)
    (tmp_path / "narrow.py").write_text(narrow.replace("val_interval=100", "val_interval=2"))
    stock = site / "mmdet" / ".mim" / "tools"
    user(f"python {stock}/train.py narrow.py --work-dir run")
    assert "coco/bbox_mAP" in user(f"python {stock}/test.py narrow.py run/iter_2.pth")
    image = next((tmp_path / "data/scenes/val2017").iterdir())
    (block,) = re.findall(r"```python\n(from mmdet\.apis import.*?)```", INSTALLATION, re.S)
    for old, new in (("vehicles.py", "narrow.py"), ("photo.jpg", str(image))):
        block = block.replace(old, new)
    user(f"python -c '{block.replace('work_dirs/vehicles/iter_600.pth', 'run/iter_2.pth')}'")
    assert list((tmp_path / "pictures").rglob("*.jpg"))
    user("""python -c 'import mmdualtoken; from mmdet.apis import DetInferencer
DetInferencer(weights="run/iter_2.pth")'""")  # a checkpoint carries its config
    (train,) = re.findall(r"`(python \"\$\(python -c .*?/\.mim/tools/train\.py\")`", INSTALLATION)
    user(f"{train} narrow.py --work-dir ours")
    user(f"python {tools}/predict.py narrow.py run/iter_2.pth {image} --out predicted")
    assert list((tmp_path / "predicted").rglob("*.json"))

    user("pip uninstall -y mmdualtoken")
    assert not list(site.glob("*mmdualtoken*"))

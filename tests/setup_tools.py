"""The tools that set an environment up, which are in no package; facts of a machine for them."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import mmcv_wheel  # noqa: E402
import setup_env  # noqa: E402

__all__ = ["FACTS", "ROOT", "mmcv_wheel", "setup_env"]

FACTS = {
    "torch": "2.11.0+cu130",
    "cuda": None,
    "cuda_home": None,
    "archs": [],
    "tag": "cp311",
    "platform": "linux-x86_64",
    "include": "/nowhere",
}

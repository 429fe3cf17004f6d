"""The whole job on generated scenes: make the data, train, evaluate, draw the predictions.

Prints each command before it runs it. What is finished is skipped when run again.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "configs/mmdet/maskrcnn_dualtoken_t_demo.py"
LAST = "iter_200.pth"


def run(*args: str) -> None:
    """Print a command of this project, then run it; its failure ends the demo.

    A Ctrl-C reaches the command as well: it is waited for, since training writes a checkpoint.
    """
    print("\n$ python " + " ".join(args), flush=True)
    process = subprocess.Popen([sys.executable, *args], cwd=ROOT)
    interrupted = False
    while process.returncode is None:
        try:
            process.wait()
        except KeyboardInterrupt:
            interrupted = True
    if status := 130 if interrupted else process.returncode:
        print(f"\n{'Interrupted' if interrupted else f'The command above ended with {status}'}.")
        print("`make demo` again skips finished steps and continues the training.")
        sys.exit(status)


def train(work_dir: Path) -> None:
    """Train, continue an interrupted training, or skip a finished one."""
    if (ROOT / work_dir / LAST).exists():
        print(f"\n{work_dir / LAST} is there: training is done.")
        print(f"To train again, move the folder {work_dir} away.")
        return
    resume = ["--resume"] if (ROOT / work_dir / "last_checkpoint").exists() else []
    run("tools/train.py", CONFIG, "--work-dir", str(work_dir), *resume)


def evaluations(work_dir: Path) -> list[Path]:
    """Folders of finished evaluations of the last checkpoint, oldest first."""
    trained = (ROOT / work_dir / LAST).stat().st_mtime
    files = sorted((ROOT / work_dir / "test").glob("*/*.json"))
    return [f.parent for f in files if f.stat().st_mtime > trained]


def test(work_dir: Path) -> Path:
    """Evaluate and draw, unless done; returns the folder of this evaluation."""
    if not evaluations(work_dir):
        arguments = ["--work-dir", str(work_dir / "test"), "--show-dir", "pictures"]
        run("tools/test.py", CONFIG, str(work_dir / LAST), *arguments)
    return evaluations(work_dir)[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", default="work_dirs/demo", help="below the project")
    work_dir = Path(parser.parse_args().work_dir)

    run("tools/make_scenes.py", "data/scenes")
    train(work_dir)
    results = test(work_dir)

    from mmdualtoken.inference.browse import contact_sheet  # slow to import

    metrics = json.loads((results / f"{results.name}.json").read_text())
    sheet = ROOT / work_dir / "predictions.png"
    files = sorted((results / "pictures").iterdir())[:12]
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    contact_sheet(pictures, [file.stem for file in files], columns=2).save(sheet)
    print("\nOn 100 unseen scenes (COCO evaluation):")
    for name, key in (("box", "bbox"), ("mask", "segm")):
        ap, ap50 = (metrics[f"coco/{key}_mAP{suffix}"] for suffix in ("", "_50"))
        print(f"  {name:4s}  AP {ap:.3f}  AP50 {ap50:.3f}")
    print(f"Ground truth (left) and predictions (right): {os.path.relpath(sheet)}")
    print(f"All pictures: {os.path.relpath(results / 'pictures')}")


if __name__ == "__main__":
    main()

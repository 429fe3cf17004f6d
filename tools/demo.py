"""The whole job on generated scenes: make the data, train, evaluate, draw the predictions.

Prints each command before it runs it. What is finished is skipped when run again.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "configs/mmdet/maskrcnn_dualtoken_s_demo.py"
LAST = "iter_560.pth"


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
    if process.returncode == 0 and not interrupted:
        return
    if interrupted:
        print("\nInterrupted. When you like, run")
    else:
        print(f"\nThe command above ended with status {process.returncode}.", end=" ")
        print("Remove its cause, then run")
    print("`make demo` again: it skips finished steps and continues the training.")
    sys.exit(130 if interrupted else process.returncode)


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


def contact_sheet(pictures: list[Path], out: Path, columns: int = 2, height: int = 240) -> None:
    """Paste pictures into rows of `columns`, each scaled to `height` pixels."""
    images = []
    for path in pictures:
        image = Image.open(path).convert("RGB")
        images.append(image.resize((round(image.width * height / image.height), height)))
    width = max(image.width for image in images)
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + 8), rows * (height + 8)), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * (width + 8), i // columns * (height + 8)))
    sheet.save(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", default="work_dirs/demo", help="below the project")
    work_dir = Path(parser.parse_args().work_dir)

    run("tools/make_scenes.py", "data/scenes")
    train(work_dir)
    results = test(work_dir)

    metrics = json.loads((results / f"{results.name}.json").read_text())
    sheet = ROOT / work_dir / "predictions.png"
    contact_sheet(sorted((results / "pictures").iterdir())[:12], sheet)
    print("\nOn 100 unseen scenes (COCO evaluation):")
    for name, key in (("box", "bbox"), ("mask", "segm")):
        ap, ap50 = (metrics[f"coco/{key}_mAP{suffix}"] for suffix in ("", "_50"))
        print(f"  {name:4s}  AP {ap:.3f}  AP50 {ap50:.3f}")
    print(f"Ground truth (left) and predictions (right): {os.path.relpath(sheet)}")
    print(f"All pictures: {os.path.relpath(results / 'pictures')}")


if __name__ == "__main__":
    main()

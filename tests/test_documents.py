"""Every block of code in README, docs and the configs' READMEs: run on small data where it can be,
and else parsed, with the reason here."""

import ast
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from documents import (
    BLOCKS,
    COMMANDS,
    INLINE,
    OWN_CONFIGS,
    PAGES,
    PLACEHOLDERS,
    ROOT,
    name_of,
    parse,
    tool_of,
)
from mmengine.config import Config
from tasks import DETECTOR, TASKS
from test_predict import write_checkpoint

from mmdualtoken.cli import find_config
from mmdualtoken.inference import load_model

#: Commands that are no tool of ours, by their beginning: why they are not run here. They are looked
#: at as far as they can be: targets of make and files of ours exist.
FOREIGN = {
    "make": "sets an environment up, or runs this very suite; the targets exist",
    "git clone": "needs the network; the command after it changes into the folder",
    "source .venv/bin/activate": "of the environment that runs this test",
    "MIM=$(python": "sets the variable of the next line",
    "python $MIM/tools/misc/download_dataset.py": "downloads COCO",
    "python -c from torchvision.datasets import ImageNet": "needs ImageNet's archives",
    "python $(python -c 'import mmdet": "test_pip_install.py runs the toolboxes' own tools",
    "srun": "needs Slurm",
    "python3 -m venv": "makes the environment of the next line",
    "export MALLOC_MMAP_MAX_=0": "of glibc; sets variables for what is run next",
    "python runner.py": "beside an exported file; test_export_results.py runs it",
    "pip install": "of the environment that runs this test",
    "pip wheel": "compiles for minutes",
    "python lab/grow_weights.py": "test_grow_weights.py grows weights",
    "python benchmarks/learn.py": "trains for minutes; test_learning_records.py parses it",
    ".venv/bin/python -m pytest": "this very suite; the files exist",
    "python -m pip install -r requirements/inspector.txt": "done where this runs; the file exists",
}
#: Commands of ours that are parsed but not run here, by their beginning.
NOT_RUN = {
    "tools/dist_": "several GPUs; two processes on the CPU: test_distributed_training.py",
    "tools/slurm_train.sh": "needs Slurm; what it hands to srun: test_launchers.py",
    "python tools/publish_model.py": "needs a checkpoint; test_publish_model.py runs it",
    "python tools/export.py": "over ten seconds a file; test_export_files.py exports",
    "python tools/quantize.py": "needs an exported file; test_quantization.py runs it",
    "python tools/test.py CONFIG model.onnx": "needs such a file; test_export_results.py runs it",
    "python tools/test.py CONFIG small.xml": "needs such a file; test_quantization.py reads one",
    "python tools/inspector.py": "serves until Ctrl-C; test_inspector_page.py runs it",
    "python tools/reproduce.py": "counts or trains all models, minutes; test_report.py runs it",
}
#: Pages whose commands another test runs, on the data that the page is about.
RUN_ELSEWHERE = {"docs/own-data.md": "test_own_data.py, on real data"}
#: Blocks of Python that are parsed here and run elsewhere.
PYTHON_ELSEWHERE = {
    ("docs/installation.md", "DetInferencer("): "test_pip_install.py",
    ("docs/own-data.md", "all.json"): "test_own_data.py",
    ("docs/own-data.md", "BCCD_Dataset/BCCD"): "test_own_data.py",
    ("docs/deployment.md", "onnxruntime.InferenceSession"): "test_export_files.py",
    ("docs/deployment.md", "openvino.Core()"): "test_export_files.py",
    ("docs/deployment.md", "export.runner"): "test_export_results.py",
    ("docs/deployment.md", "fullgraph=True"): "test_compile.py",
}
#: What a key given by --cfg-options adds to the config rather than changes.
NEW_KEYS = ("train_dataloader.dataset.pipeline.0.on_error",)


def beginning(words, table):
    """The entry of the table that a command begins with."""
    return next((b for b in table if " ".join(words).startswith(b)), None)


# --- pages


@pytest.mark.parametrize(
    "page, link",
    sorted(
        {
            (name_of(page), link.split("#")[0])
            for page in PAGES
            for link in re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", page.read_text())
        }
    ),
)
def test_links_lead_somewhere(page, link):
    assert ((ROOT / page).parent / link).exists()


def test_blocks_have_a_language_that_is_checked():
    """Those without one are trees and lines of a log."""
    assert {b.language for b in BLOCKS} <= {"bash", "python", "bibtex", "text", ""}
    assert not [
        b.id for b in BLOCKS if not b.language and re.search(r"^\$? ?python ", b.text, re.M)
    ]


# --- commands


@pytest.mark.parametrize(
    "page, words", COMMANDS, ids=[f"{page}: {' '.join(words)}" for page, words in COMMANDS]
)
def test_command_is_right(page, words):
    """The tool takes the arguments, the config exists and has what --cfg-options changes."""
    for word in words:
        if re.match(r"(tools|tests|benchmarks)/[\w/]+\.\w+", word) or (
            word.startswith("configs/") and word.endswith(".py")
        ):
            assert (ROOT / word.split("::")[0]).is_file(), word
    if tool_of(words) is None:
        assert beginning(words, FOREIGN), "neither a tool of ours nor listed in FOREIGN"
        if words[0] == "make":
            targets = [w for w in words[1:] if "=" not in w]
            makefile = (ROOT / "Makefile").read_text()
            assert targets and all(re.search(rf"^{t}:", makefile, re.M) for t in targets)
        return
    name, arguments = tool_of(words)
    args = parse(name, arguments)
    if not hasattr(args, "config"):
        return
    own = set().union(*OWN_CONFIGS.values())
    known = args.config in PLACEHOLDERS or args.config in own
    config = find_config(args.config) if "://" in args.config else ROOT / args.config
    assert known or config.is_file()
    path = config if config.is_file() else DETECTOR
    for key in args.cfg_options or ():
        node = Config.fromfile(path)
        for part in key.split("."):
            if isinstance(node, list):
                node = node[int(part)]
            else:
                assert part in node or key in NEW_KEYS, f"{path} has no {key}"
                node = node.get(part)


@pytest.mark.parametrize(
    "page, words", INLINE, ids=[f"{page}: {' '.join(words)}" for page, words in INLINE]
)
def test_command_in_a_sentence_is_right(page, words):
    if tool_of(words):
        parse(*tool_of(words))
        return
    source = (ROOT / words[words[0] == "python"]).read_text()
    for flag in (w for w in words if w.startswith("--")):
        assert f'"{flag}"' in source


RUN = sorted(
    {w for page, w in COMMANDS if tool_of(w) and page not in RUN_ELSEWHERE}
    - {w for _, w in COMMANDS if beginning(w, NOT_RUN)}
)
TASK_OF = dict(mmdet="detection", mmseg="segmentation", mmpretrain="classification")


@pytest.fixture
def files(project):
    """What the commands name: photos and a clip, checkpoints, the reader's config."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    (project / "photos").mkdir()
    for name in ("photo.jpg", "photos/a.jpg"):
        cv2.imwrite(name, image)
    video = cv2.VideoWriter("clip.mp4", cv2.VideoWriter_fourcc(*"mp4v"), 5, (96, 64))
    for _ in range(2):
        video.write(image)
    video.release()
    for task in TASKS:
        write_checkpoint(task, f"{task}.pth")
    (project / "my_config.py").write_text(f"_base_ = {DETECTOR!r}\n")
    return project


def narrow_words(arguments):
    """The arguments with the narrow twin of the config, and its checkpoint."""
    folders = [w.split("/")[1] for w in arguments if w.startswith("configs/")]
    task = TASK_OF[folders[0]] if folders else "detection"
    words, before = [], ""
    for word in arguments:
        if word.startswith("configs/") or word == "CONFIG" or word in OWN_CONFIGS["README.md"]:
            word = TASKS[task][0]
        elif word in ("FILE", "CHECKPOINT") or re.fullmatch(r"(work_dirs/.*|grown)\.pth", word):
            word = f"{'classification' if before == '--pretrained' else task}.pth"
        if word != "--amp":  # needs a GPU
            words.append(word)
        before = word
    return words


def with_marks(commands):
    """Of the commands that run one tool, all but the first are slow tests."""
    seen, marked = set(), []
    for words in commands:
        marks = [pytest.mark.slow] * (tool_of(words)[0] in seen)
        marked.append(pytest.param(words, marks=marks, id=" ".join(words)))
        seen.add(tool_of(words)[0])
    return marked


@pytest.mark.parametrize("words", with_marks(RUN))
def test_command_runs(words, request, tool, tmp_path, monkeypatch):
    """As it stands, but with a narrow model at 64 pixels for the config, and files of its own."""
    name, arguments = tool_of(words)
    if name == "make_scenes":
        monkeypatch.chdir(tmp_path)
        arguments = [*arguments, "--num-train", "4", "--num-val", "4"]
    else:
        request.getfixturevalue("files")
        arguments = narrow_words(arguments)
    status, printed = tool(name, *arguments)
    assert status == 0, printed[-2000:]


# --- Python


PYTHON = [b for b in BLOCKS if b.language == "python"]


def is_config(block):
    """Nothing but values given to names: a config, or lines for one."""
    nodes = ast.parse(block.text).body
    calls = {n.func.id for n in ast.walk(ast.Module(nodes, [])) if is_name_call(n)}
    simple = [n for n in nodes if isinstance(n, ast.Assign) or is_update(n)]
    return simple == nodes and calls <= {"dict", "__import__"}


def is_name_call(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def is_update(node):
    return isinstance(node, ast.Expr) and ".update(" in ast.unparse(node)


def contains(cfg, part):
    if isinstance(part, dict):
        return all(k == "_delete_" or contains(cfg[k], v) for k, v in part.items())
    return cfg == part


CONFIGS = [b for b in PYTHON if is_config(b)]


#: What must have arrived of blocks that change their base's lists, by page.
ARRIVED = {
    "docs/data.md": lambda cfg: (
        cfg.train_dataloader.dataset.pipeline[0]
        == dict(type="CheckedLoadImageFromFile", on_error="skip")
    ),
    "docs/muon.md": lambda cfg: cfg.optim_wrapper.optimizer.type == "MuonAdamW",
    "docs/own-data.md": lambda cfg: (
        [step.get("size") for step in cfg.test_dataloader.dataset.pipeline].count((640, 640)) == 1
        and cfg.train_dataloader.dataset.pipeline[3].crop_size == (640, 640)
        if cfg.model.type == "RTMDet"
        else cfg.train_dataloader.dataset.pipeline[2].scale == (256, 256)
        and cfg.test_dataloader.dataset.pipeline[1].scale == (256, 256)
        and cfg.model.rpn_head.anchor_generator.scales == [2, 4]
        and cfg.model.backbone.type == "DualTokenViTStride4"
    ),
}


@pytest.mark.parametrize("block", CONFIGS, ids=lambda b: b.id)
def test_config_block(block, here):
    """It loads, lines alone on top of a detector's config, and what it says arrives."""
    Path("configs").symlink_to(ROOT / "configs")
    for other in CONFIGS:  # of this page, which the block may have as its base
        if other.page == block.page and other.name:
            Path(other.name).write_text(other.text)
    text = block.text if "_base_ = " in block.text else f"_base_ = {DETECTOR!r}\n{block.text}"
    Path("mine.py").write_text(text)
    cfg = Config.fromfile("mine.py")
    if "_base_." in text:  # read by MMEngine alone
        assert ARRIVED[block.page](cfg)
        return
    said = {}
    exec(text, said)  # noqa: S102
    assert contains(cfg, {k: v for k, v in said.items() if k not in ("_base_", "__builtins__")})


def program_of(block):
    if any(block.page == page and mark in block.text for page, mark in PYTHON_ELSEWHERE):
        return None
    return block


PROGRAMS = [b for b in PYTHON if b not in CONFIGS and program_of(b)]


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda b: b.id)
def test_program_block(block, files, capfd):
    """It runs, with a narrow detector as `model`; what a comment behind a print says is printed."""
    model = load_model(Config.fromfile(DETECTOR), "detection.pth", "cpu")
    exec(compile(block.text, block.id, "exec"), dict(model=model))  # noqa: S102
    printed = capfd.readouterr().out
    for expected in re.findall(r"^print\(.*\)  # (.*)$", block.text, re.M):
        assert expected in printed


# --- the tables above


def test_tables_hold_nothing_outdated():
    for page, mark in PYTHON_ELSEWHERE:
        assert [b for b in PYTHON if b.page == page and mark in b.text], (page, mark)
    assert set(RUN_ELSEWHERE) <= {name_of(page) for page in PAGES}
    commands = [" ".join(words) for _, words in COMMANDS]
    absent = [b for b in (*FOREIGN, *NOT_RUN) if not any(c.startswith(b) for c in commands)]
    assert not absent

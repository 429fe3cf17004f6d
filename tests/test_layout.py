"""The package's folders: which imports which, and what importing the network loads."""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import mmdualtoken

PACKAGE = Path(mmdualtoken.__file__).parent
#: The folders and files below the package in the direction of the data; each may import those of
#: the lines above its own.
LAYERS = [
    {"version", "errors", "ops"},
    {"config_files", "files", "environment"},
    {"config_variables", "weights"},
    {"models"},
    {"data", "training"},
    {"inference"},
    {"export"},
    {"cli", "registration", "doctor"},
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
#: Imports (of which part, by which part) against the direction, and why they stay.
EXCEPTIONS = {
    ("environment", "models"): "the doctor reports whether the models can be registered",
}
TRAINING_SIDE = ("data", "training", "inference", "export")


def part_of(name):
    """The folder or file below the package that a dotted name lies in, None outside it."""
    first, _, rest = name.partition(".")
    return rest.split(".")[0] if first == "mmdualtoken" and rest else None


def imports_of(file):
    """Dotted names that a file imports, at any depth; an import inside a function is one too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = file.relative_to(PACKAGE.parent).parts[: -node.level] if node.level else ()
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def edges():
    """The parts that each part of the package imports, with the files that do."""
    found = defaultdict(set)
    for file in PACKAGE.rglob("*.py"):
        here = file.relative_to(PACKAGE).with_suffix("").parts[0]
        for name in imports_of(file):
            there = part_of(name)
            if here != "__init__" and there in LEVEL and there != here:
                found[here, there].add(file.relative_to(PACKAGE).as_posix())
    return found


def test_every_part_has_its_place():
    parts = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    parts |= {p.name for p in PACKAGE.iterdir() if p.is_dir() and any(p.rglob("*.py"))}
    assert parts - {"__init__"} == set(LEVEL)


def test_imports_go_one_way():
    """Nor within a level, so that there is no circle."""
    against = {
        f"{there} by {', '.join(sorted(files))}"
        for (here, there), files in edges().items()
        if LEVEL[there] >= LEVEL[here] and (here, there) not in EXCEPTIONS
    }
    assert not against
    assert set(edges()) >= {("models", "weights"), ("training", "weights"), ("export", "models")}


def test_no_exception_is_out_of_date():
    assert set(EXCEPTIONS) <= set(edges())


def test_importing_the_network_loads_nothing_of_training():
    program = "import sys; from mmdualtoken.models import DualTokenViT; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = done.stdout.split()
    assert "mmdualtoken.models.dualtoken_vit" in loaded
    unwanted = {f"mmdualtoken.{part}" for part in TRAINING_SIDE} | {"lab", "gradio"}
    assert not [name for name in loaded for bad in unwanted if f"{name}.".startswith(f"{bad}.")]

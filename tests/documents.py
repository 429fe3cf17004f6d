"""The pages of the documentation, their blocks of code and the commands in them."""

import re
import runpy
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    *(p for p in (ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md") if p.is_file()),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "configs").glob("*/README.md")),
    *sorted((ROOT / "benchmarks").glob("README.md")),
]
#: What the pages write where a user's own file stands.
PLACEHOLDERS = ("CONFIG", "my_config.py")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def name(self) -> str | None:
        """The file that a block of Python is meant to be, by a comment in its first line."""
        found = re.match(r"# (\w+\.py)\n", self.text)
        return found and found[1]


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.S | re.M)
    return [
        Block(name_of(page), text.count("\n", 0, m.start()) + 1, m[1], m[2].rstrip() + "\n")
        for m in found
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
#: Configs that a page tells its readers to write, by page.
OWN_CONFIGS = {
    page: {b.name for b in BLOCKS if b.page == page and b.name} for page in {b.page for b in BLOCKS}
}


def commands_of(text: str) -> list[list[str]]:
    """The commands of a bash block as words, without comments, settings of variables before a
    command and, for lines continued by a backslash, in one piece."""
    commands = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while len(words) > 1 and re.fullmatch(r"[A-Z_]+=[^$\s]*", words[0]):
            words = words[1:]
        if words:
            commands.append(words)
    return commands


COMMANDS = sorted(
    {
        (block.page, tuple(words))
        for block in BLOCKS
        if block.language == "bash"
        for words in commands_of(block.text)
    }
)

#: Commands within sentences and tables, by page.
INLINE = sorted(
    {
        (name_of(page), tuple(shlex.split(found)))
        for page in PAGES
        for found in re.findall(
            r"`((?:python )?(?:tools|benchmarks)/\w+\.(?:py|sh) [^`]+)`", page.read_text("utf-8")
        )
    }
)


def tool_of(words: tuple) -> tuple[str, list[str]] | None:
    """Name and arguments of the tool of ours that a command runs; the shell scripts count as the
    tool that they start, with the arguments that they pass on."""
    rest = list(words)
    if Path(rest[0]).name == "python":
        rest = rest[1:]
    found = rest and re.fullmatch(r"tools/(\w+)\.(py|sh)", rest[0])
    if not found:
        return None
    if found[2] == "py":
        return found[1], rest[1:]
    kept = {
        "dist_train": ("train", rest[1:2] + rest[3:]),
        "dist_test": ("test", rest[1:3] + rest[4:]),
        "slurm_train": ("train", rest[3:]),
    }
    return kept[found[1]]


def parse(tool: str, arguments: list[str]):
    """The arguments as the tool's own parser reads them; AssertionError if it refuses one."""
    names = runpy.run_path(str(ROOT / "tools" / f"{tool}.py"), run_name="not_main")
    with mock.patch.object(sys, "argv", [f"{tool}.py", *arguments]):
        try:
            return names["parse_args"]()
        except SystemExit as stop:
            raise AssertionError(f"tools/{tool}.py refuses {arguments}") from stop

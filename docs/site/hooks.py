"""Hooks of mkdocs: the project's pages outside docs/ belong to the site, and links lead to them."""

import re
from pathlib import Path, PurePosixPath

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
#: Where pages from outside docs/ appear in the site, by their path in the project.
OUTSIDE = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    **{
        f"configs/{name}/README.md": f"configs/{name}.md"
        for name in ("mmdet", "mmseg", "mmpretrain")
    },
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/results/demo.md": "results/demo.md",
    "benchmarks/results/nuclei.md": "results/nuclei.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files, config):
    """Add the pages from outside docs/."""
    for path, name in OUTSIDE.items():
        if (ROOT / path).is_file():
            text = (ROOT / path).read_text(encoding="utf-8")
            files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links between files of the project become links between pages of the site.

    One to a file that is no page, a config for instance, becomes its text alone.
    """
    here = page.file.src_uri
    source = {site: path for path, site in OUTSIDE.items()}.get(here, f"docs/{here}")

    def rewrite(found):
        picture, text, link, anchor = found.groups()
        path = (ROOT / source).parent.joinpath(link).resolve()
        path = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
        if f"{path}/README.md" in OUTSIDE:
            path += "/README.md"
        target = OUTSIDE.get(path) or (path.startswith("docs/") and path.removeprefix("docs/"))
        if not target or files.get_file_from_path(target) is None:
            return text if not picture else ""
        depth = len(PurePosixPath(here).parts) - 1
        return f"{picture}[{text}]({'../' * depth}{target}{anchor or ''})"

    return LINK.sub(rewrite, markdown)

"""The configs that come with the package, for the `_base_` of a user's own config."""

import difflib
from collections.abc import Mapping
from pathlib import Path

from mmdualtoken.errors import InputError

PACKAGE = Path(__file__).resolve().parent
#: The clone, or the environment's site-packages.
PROJECT_ROOT = PACKAGE.parent
#: Where an installed wheel keeps the configs, and where a clone does.
FOLDERS = (PACKAGE / ".mim" / "configs", PACKAGE.parent / "configs")
#: The models that the paper compares with, in a clone only.
RIVALS = PROJECT_ROOT / "lab" / "configs"
#: The optimizer, for the `_base_` of any config.
MUON = "_base_/muon.py"
#: By toolbox: what its models do.
TASKS = {"mmpretrain": "classification", "mmdet": "detection", "mmseg": "segmentation"}
LIST_ALL = "python -c 'import mmdualtoken; print(*mmdualtoken.list_configs(), sep=\"\\n\")'"


def type_name(cfg: Mapping) -> str:
    """Return a config's type, a name or a class, as a name without its scope."""
    kind = cfg.get("type")
    return getattr(kind, "__name__", str(kind)).split(".")[-1]


def scope_of(cfg: Mapping) -> str:
    """Return the toolbox of a whole config, such as 'mmdet'.

    Raises:
        InputError: it is none of `TASKS`.
    """
    scope = cfg.get("default_scope")
    if scope not in TASKS:
        raise InputError(
            f"The config's default_scope is {scope!r}; it must be one of {', '.join(TASKS)}."
        )
    return scope


def _folder() -> Path:
    """The first of `FOLDERS` that is there."""
    for folder in FOLDERS:
        if folder.is_dir():
            return folder
    raise InputError(
        f"The configs of mmdualtoken are neither in {FOLDERS[0]} nor in {FOLDERS[1]}: the "
        "installation is incomplete. Install the wheel again, or a clone with `pip install -e .`."
    )


def list_configs() -> list[str]:
    """Names of all model configs as `config_path` takes them, such as
    'mmdet/maskrcnn_dualtoken_s_1x.py'.

    Raises:
        InputError: the installation has no configs.
    """
    folder = _folder()
    names = sorted(p.relative_to(folder).as_posix() for p in folder.glob("*/*.py"))
    return [name for name in names if not name.startswith("_base_")]


def suggest(name: str, known: Mapping[str, object]) -> str:
    """Ask for the nearest names: '' or 'Did you mean A, B?', with the values of the known ones."""
    stem = Path(str(name)).stem
    near = [n for n in known if n.startswith(stem)]
    near = (near or difflib.get_close_matches(stem, known, n=4, cutoff=0.5))[:4]
    return f"Did you mean {', '.join(str(known[n]) for n in near)}?" if near else ""


def config_path(name: str) -> str:
    """Absolute path of a config of the installed package, from a wheel or an editable install.

    Made for the `_base_` of a user's config, where MMEngine evaluates an expression but allows no
    import statement before it; importing the package registers its models on the way:

        _base_ = __import__("mmdualtoken").config_path("mmdet/maskrcnn_dualtoken_s_1x.py")

    Args:
        name: path of the config below configs/, such as 'mmdet/maskrcnn_dualtoken_s_1x.py', or
            '_base_/muon.py', the optimizer.

    Raises:
        InputError: there is no such config; the message names the nearest and how to list all.
    """
    known = list_configs()
    if name in (*known, MUON):
        return str(_folder() / name)
    hint = suggest(name, {Path(n).stem: n for n in known})
    raise InputError(
        f"mmdualtoken has no config {str(name)!r}; names are paths below its configs/, such as "
        f"'mmdet/maskrcnn_dualtoken_s_1x.py'. {hint} All names: {LIST_ALL}"
    )

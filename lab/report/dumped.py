"""Reading configs that MMEngine wrote beside its logs, without executing them, and comparing."""

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdualtoken.config_files import PROJECT_ROOT

# What changes neither model, data nor recipe, or is filled in when a run starts.
INCIDENTAL = {
    "_scope_",
    "backend_args",
    "collate_fn",
    "num_workers",
    "persistent_workers",
    "pin_memory",
}
# Which loop runs is said by max_epochs or max_iters; tools/train.py puts in ones of the project.
LOOP = ("train_cfg.type", "train_cfg.by_epoch")
# What `tools/train.py --pretrained` sets; the report says it in words.
STARTING_POINT = ("init_cfg", "out_norm_cfg", "norm_eval")


def _value(node: ast.expr) -> Any:
    """The value of a literal, where calls of dict(...) count as literals."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "dict":
        merged = {}
        for argument in node.args:
            merged.update(_value(argument))
        for keyword in node.keywords:
            value = _value(keyword.value)
            merged.update({keyword.arg: value} if keyword.arg else value)
        return merged
    if isinstance(node, ast.Dict):
        return {_value(k): _value(v) for k, v in zip(node.keys, node.values, strict=True)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    return ast.literal_eval(node)


def read_dumped(path: Path) -> dict[str, Any] | None:
    """The assignments of a config file that MMEngine wrote, None if it cannot be read.

    Nothing is executed: work dirs may come from other people. Tuples become lists.
    """
    try:
        tree = ast.parse(path.read_text())
        return {node.targets[0].id: _value(node.value) for node in tree.body}
    except (OSError, SyntaxError, ValueError, AttributeError, TypeError):
        return None


def _plain(value: Any) -> Any:
    """Tuples as lists, and paths without the project's folder, where data are also found."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return value.removeprefix(f"{PROJECT_ROOT}/").rstrip("/")
    return value


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dicts and lists by their dotted paths."""
    if isinstance(value, dict):
        items = [(k, v) for k, v in value.items() if k not in INCIDENTAL]
    elif isinstance(value, (list, tuple)) and any(isinstance(v, dict) for v in value):
        items = list(enumerate(value))
    else:
        return {prefix: _plain(value)}
    found = {}
    for key, child in items:
        found.update(_leaves(child, f"{prefix}.{key}" if prefix else str(key)))
    return found


def differences(dumped: dict[str, Any] | None, cfg: Config, keys: Iterable[str]) -> list[str]:
    """Paths of settings in which a run's own config is not `cfg`.

    Args:
        dumped: from `read_dumped`.
        cfg: the config that the run should have followed.
        keys: the top-level settings to compare.
    """
    if dumped is None:
        return ["unknown: the run's own config cannot be read"]
    wanted = cfg.to_dict()
    found = []
    for key in keys:
        ran, meant = _leaves(dumped.get(key), key), _leaves(wanted.get(key), key)
        found += [path for path in {**meant, **ran} if ran.get(path) != meant.get(path)]
    starts = tuple(f"model.backbone.{name}" for name in STARTING_POINT)
    pretrained = (dumped.get("model") or {}).get("backbone", {}).get("init_cfg")
    found = [path for path in found if path not in LOOP]
    return [path for path in found if not (pretrained and path.startswith(starts))]

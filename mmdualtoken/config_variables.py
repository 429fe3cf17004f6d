"""Settings of a config that have no effect, or take away others."""

import ast
import difflib
import inspect
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import FlexibleRunner, Runner

from mmdualtoken.config_files import type_name

#: What runners and tools read of a config; all else is there to be put into these.
KEYS = {
    *inspect.signature(Runner).parameters,
    *inspect.signature(FlexibleRunner).parameters,
    "activation_checkpointing",
    "compile",
    "custom_imports",
    "efficient_conv_bn_eval",
    "find_unused_parameters",
    "model_wrapper_cfg",
    "runner_type",
    "sync_bn",
    "tta_model",
    "tta_pipeline",
}
#: Near to a key, and left in a dump of a config, such as the work dir's, where nothing reads it.
NO_KEY = {"test_pipeline"}
#: Keys that base configs put into others: test_dataloader = val_dataloader.
COPIED = {"val_dataloader", "val_evaluator"}
OLD = "a config has put the old value there before"


def _root(node: ast.AST) -> str | None:
    """The variable ``x`` of ``x``, ``x[0]``, ``x.y`` and ``_base_.x.y``."""
    attributes = []
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        attributes.append(getattr(node, "attr", None))
        node = node.value
    name = getattr(node, "id", None)
    return attributes[-1] if name == "_base_" and attributes else name


class _Variables:
    """What a config file does with its variables.

    A statement that changes a variable, such as ``x[0].y = 1`` or ``x.append(1)``, does not read
    it.

    Attributes:
        changed: variable -> the statements that set or change it, as one text.
        readers: variable -> the variables that it is put into.
        twice: keys of the config that are set a second time, without a look at the first value.
    """

    def __init__(self, file: Path):
        self.file = file
        self.changed: dict[str, str] = defaultdict(str)
        self.readers: dict[str, set[str]] = defaultdict(set)
        self.twice: list[str] = []
        values: dict[str, str] = {}
        for statement in ast.parse(file.read_text(encoding="utf-8")).body:
            targets = getattr(statement, "targets", [getattr(statement, "target", None)])
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
                targets = [statement.value.func]
            names = {_root(t) for target in targets for t in getattr(target, "elts", [target])}
            names -= {None, "_base_"}
            if isinstance(statement, ast.Assign):
                read = {_root(node) for node in ast.walk(statement.value)}
                plain = {target.id for target in targets if isinstance(target, ast.Name)}
                before = {name: text for name in plain & KEYS - read if (text := values.get(name))}
                values.update(dict.fromkeys(plain, ast.dump(statement.value)))
                self.twice += [name for name, text in before.items() if text != values[name]]
            for name in names:
                self.changed[name] += ast.dump(statement)
            for node in ast.walk(statement):
                if (name := _root(node)) not in names:
                    self.readers[name] |= names


def _keys_with(name: str, files: list[_Variables]) -> list[str]:
    """The keys of the config that a variable was put into, directly or by other variables."""
    found, queue = {name: None}, [name]
    for reader in queue:
        new = sorted({key for file in files for key in file.readers.get(reader, ())} - {*found})
        found.update(dict.fromkeys(new))
        queue += [key for key in new if key not in KEYS]
    return [key for key in found if key in KEYS and key != name]


def _lost_hooks(cfg: Config, files: list[_Variables]) -> list[str]:
    """Types of the hooks of its bases that the last file's own `custom_hooks` are without."""
    *bases, last = files
    setters = [file for file in bases if "custom_hooks" in file.changed]
    own = {type_name(hook) for hook in cfg.get("custom_hooks") or ()}
    if not setters or not own or "custom_hooks" not in last.changed:  # an empty list is meant
        return []
    hooks = Config.fromfile(setters[-1].file, import_custom_modules=False).get("custom_hooks") or ()
    return [name for hook in hooks if (name := type_name(hook)) not in own]


def unused_changes(cfg: Config, options: Iterable[str] = ()) -> Iterator[str]:
    """Yield a warning for each setting that has no effect, or takes away another.

    These are variables that are changed after they were put to use, misspelt keys, keys that a file
    sets twice, and hooks that a list replaces.

    MMEngine reads a base config as a whole: its train_dataloader holds a copy of its
    train_pipeline, its test_dataloader one of its val_dataloader. A file that inherits it, or
    --cfg-options (`options`, such as 'train_pipeline.2.scale'), then changes the variable alone.
    """
    # The text has the files of all bases before those that inherit them, each below its path.
    paths = dict.fromkeys(line for line in cfg.text.splitlines() if line.endswith(".py"))
    try:
        files = [_Variables(path) for path in map(Path, paths) if path.is_absolute()]
    except (OSError, SyntaxError):  # a line that is no path; a placeholder of MMEngine
        return
    for i, file in enumerate(files):
        for name in file.twice:
            yield f"{name} stands twice in {file.file}: the second replaces the first"
        later = {name for f in files[i + 1 :] for name in (*f.changed, *f.readers)}
        for name in sorted(file.changed.keys() - file.readers.keys() - later - (KEYS - COPIED)):
            keys = _keys_with(name, files[:i])
            if name in COPIED:
                others = {*file.changed, *later}
                keys = [key for key in keys if key not in others and cfg.get(name) is not None]
            same = any(f.changed.get(name) == file.changed[name] for f in files[:i])
            if keys and not same:
                remedy = f"Set {keys[0]} as well"
                if name in COPIED:
                    remedy += f": {keys[0]} = {name}"
                elif name.endswith("pipeline") and keys[0].endswith("_dataloader"):
                    remedy += f": {keys[0]} = dict(dataset=dict(pipeline={name}))"
                yield f"{name} of {file.file} has no effect on {', '.join(keys)}: {OLD}. {remedy}"
    used = {name for file in files for name in file.readers} | KEYS
    inherited = {name for file in files[:-1] for name in file.changed}
    for name in sorted({*files[-1].changed} - used - inherited - NO_KEY) if files else ():
        if near := difflib.get_close_matches(name, KEYS, n=1, cutoff=0.85):
            yield f"{name} of {files[-1].file}: nothing reads it; did you mean {near[0]}?"
    if files and (hooks := _lost_hooks(cfg, files)):
        yield (
            f"custom_hooks of {files[-1].file} replaces its base config's, and is without "
            f"{', '.join(hooks)}. To keep them: custom_hooks = [*_base_.custom_hooks, ...]"
        )
    for option in options:
        name, _, rest = option.partition(".")
        known = name in KEYS or any(name in file.changed for file in files)
        if files and not known:
            near = difflib.get_close_matches(name, KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else "no tool reads it"
            yield f"--cfg-options {option}: the config has no {name}; {hint}"
        elif name not in KEYS and (keys := _keys_with(name, files)):
            place = f"{keys[0]}.dataset.pipeline.{rest}".rstrip(".")
            place = f": {place}" if name.endswith("pipeline") else f", below {keys[0]}"
            yield (
                f"--cfg-options {option} has no effect on {', '.join(keys)}: {OLD}. Give the place "
                f"itself{place}"
            )

"""Checks of constructor arguments that would otherwise fail late, or silently.

What PyTorch and the registries refuse at once, with a clear message, is left to them.
"""

from collections.abc import Callable, Sequence
from inspect import signature
from numbers import Integral, Real
from typing import Any

from mmengine.registry import MODELS, WEIGHT_INITIALIZERS
from torch import nn

from mmdualtoken.errors import WrongValue

#: MMEngine leaves this key in a dict that replaces one of a base config which has no such dict.
DELETE_KEY = "_delete_"
#: Attention among the tokens and the mix MLP's weight grow with the square of their number.
MAX_TOKENS = 4096


def is_integer(value: Any) -> bool:
    """Return whether it is an int, Python's or numpy's; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


#: Per key of an arch: (is a stage's value fine?, what is allowed).
ARCH_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "embed_dims": (lambda v: is_integer(v) and v >= 8 and v % 4 == 0, "multiples of 4 from 8"),
    "depths": (lambda v: is_integer(v) and v > 0, "positive ints"),
    "num_heads": (lambda v: is_integer(v) and v > 0, "positive ints"),
    "ffn_ratios": (lambda v: isinstance(v, Real) and 0 < v <= 1024, "positive numbers to 1024"),
    "kernel_sizes": (lambda v: v is None or (v > 0 and v % 2 == 1), "odd ints or None"),
    "down_convs": (lambda v: is_integer(v) and v >= 0, "ints from 0"),
}


def find_class(name: str) -> Any:
    """Return what a name stands for in the toolbox's registry or as an import path, or None."""
    with MODELS.switch_scope_and_registry(None) as registry:
        try:
            return registry.get(name)
        except RuntimeError:  # no such module, or one that cannot be imported
            return None


def factory(kind: type[nn.Module]) -> Callable[..., nn.Module]:
    """Return the callable that builds a class from the settings of a block."""
    return getattr(kind, "for_block", kind)


def without_delete(cfg: dict | None) -> dict | None:
    """Return a config without the key that MMEngine leaves in it."""
    return cfg and {k: v for k, v in cfg.items() if k != DELETE_KEY}


class Checks:
    """The checks of one class's arguments.

    Each returns the value in its plain form: numpy's numbers as Python's, sequences as tuples.

    Args:
        owner: name of the class, which begins every message.

    Raises:
        WrongValue: a value is not allowed. The message has the argument, the value and the rule.
    """

    def __init__(self, owner: str):
        self.owner = owner

    def require(self, fine: bool, argument: str, value: Any, allowed: str) -> None:
        """Raise WrongValue unless the value is fine."""
        if not fine:
            raise WrongValue(f"{self.owner}: {argument}={value!r}; allowed is {allowed}")

    def integer(self, argument: str, value: int, low: int, high: int | None = None) -> int:
        """Check an int of `low` to `high`, or without an upper limit."""
        fine = is_integer(value) and low <= value and (high is None or value <= high)
        allowed = f"an int from {low}" if high is None else f"an int, {low} to {high}"
        self.require(fine, argument, value, allowed)
        return int(value)

    def integers(self, argument: str, value: Sequence[int] | int, allowed: str) -> tuple[int, ...]:
        """Check a sequence of at least one int; one int stands for a sequence of one."""
        values = (value,) if is_integer(value) else value
        fine = isinstance(values, Sequence) and len(values) > 0 and all(map(is_integer, values))
        self.require(fine, argument, value, allowed)
        return tuple(map(int, values))

    def rate(self, argument: str, value: float, below_one: bool = False) -> float:
        """Check a number from 0 to 1, without 1 if `below_one`."""
        fine = isinstance(value, Real) and 0 <= value <= 1 and not (below_one and value == 1)
        allowed = "a number, 0 to 1" + (", without 1" if below_one else "")
        self.require(fine, argument, value, allowed)
        return float(value)

    def layer(self, argument: str, value: str | type, table: dict[str, type]) -> type[nn.Module]:
        """Return the class that `value` names, in `table` first, or `value` if it is a class."""
        kind = (table.get(value) or find_class(value)) if isinstance(value, str) else value
        fine = isinstance(kind, type) and issubclass(kind, nn.Module)
        allowed = (
            f"one of {sorted(table)} or a class of nn.Module: itself, its name in the registry "
            "MODELS (custom_imports imports its module), or its import path 'package.module.Class'"
        )
        self.require(fine, argument, value, allowed)
        return kind

    def factory(
        self, argument: str, kind: type[nn.Module], called_with: Sequence[str]
    ) -> Callable[..., nn.Module]:
        """Return the `factory` of a class, if it takes these arguments by position."""
        try:
            signature(factory(kind)).bind(*called_with)
        except TypeError as error:
            allowed = f"a class that is called with ({', '.join(called_with)}) ({error})"
            self.require(False, argument, kind, allowed)
        return factory(kind)

    def attributes(self, argument: str, kind: type, names: Sequence[str]) -> None:
        """Check that a class has these attributes."""
        missing = [name for name in names if not hasattr(kind, name)]
        allowed = f"a class with the attributes {', '.join(names)}; missing: {', '.join(missing)}"
        self.require(not missing, argument, kind, allowed)

    def norm_cfg(self, argument: str, value: dict | None) -> dict | None:
        """Return the config of a norm without MMEngine's key, or None for no norm."""
        cfg = without_delete(value) if isinstance(value, dict) else value
        fine = cfg is None or (isinstance(cfg, dict) and "type" in cfg)
        self.require(fine, argument, value, "None for no norm, or a dict such as dict(type='BN')")
        return cfg

    def init_cfg(self, value: dict | list | None) -> dict | list | None:
        """Build each initialiser once: MMEngine does so only after it has loaded the data."""
        entries = [] if value is None else value if isinstance(value, (list, tuple)) else [value]
        for entry in entries:
            try:
                cfg = {k: v for k, v in entry.items() if k not in ("override", DELETE_KEY)}
                WEIGHT_INITIALIZERS.build(cfg)
            except Exception as error:  # unknown type, missing or unknown arguments
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                allowed = (
                    "None, or a dict (or a list of them) of an initialiser of MMEngine or ours"
                )
                self.require(False, "init_cfg", value, f"{allowed} ({reason})")
        return value

    def out_indices(self, value: Sequence[int] | int) -> tuple[int, ...]:
        """Check rising stage indices."""
        allowed = "rising indices from (0, 1, 2)"
        indices = self.integers("out_indices", value, allowed)
        fine = list(indices) == sorted(set(indices) & {0, 1, 2})
        self.require(fine, "out_indices", value, allowed)
        return indices

    def token_size(self, value: Sequence[int] | int, grid: bool) -> tuple[int, int]:
        """Return the shape of the tokens as (h, w).

        One int n stands for a grid of n x n, or for n tokens that form no grid: (1, n).
        """
        meaning = "for n x n" if grid else "the number of tokens"
        allowed = (
            f"a pair (h, w) of positive ints or one int, {meaning}, at most {MAX_TOKENS} tokens"
        )
        size = self.integers("token_size", value, allowed)
        if is_integer(value):
            size = (size[0] if grid else 1, *size)
        fine = len(size) == 2 and min(size) > 0 and size[0] * size[1] <= MAX_TOKENS
        self.require(fine, "token_size", value, allowed)
        return size

    def arch(self, value: str | dict, settings: dict[str, dict], defaults: dict) -> dict:
        """Return the settings that `value` names or is, completed by `defaults`, as tuples."""
        cfg = settings.get(value) if isinstance(value, str) else value
        allowed = f"a str of {sorted(settings)} or a dict"
        self.require(isinstance(cfg, dict), "arch", value, allowed)
        cfg = {**defaults, **without_delete(cfg)}
        keys = f"a dict with the keys {sorted(set(ARCH_VALUES) - set(defaults))}, optionally "
        self.require(set(cfg) == set(ARCH_VALUES), "arch", value, keys + f"{sorted(defaults)}")
        for key, (is_fine, allowed) in ARCH_VALUES.items():
            values = cfg[key]
            fine = isinstance(values, Sequence) and len(values) == 3 and all(map(is_fine, values))
            self.require(fine, f"arch[{key!r}]", values, f"three values, {allowed}")
            cfg[key] = tuple(int(v) if is_integer(v) else v and float(v) for v in values)
        rows = zip(cfg["embed_dims"], cfg["num_heads"], cfg["ffn_ratios"], strict=True)
        for dim, heads, ratio in rows:
            allowed = f"a multiple of its num_heads, {heads}"
            self.require(dim % heads == 0, "arch: embed_dims", dim, allowed)
            near = max(round(dim * ratio), 1)
            allowed = f"a ratio that times its embed_dims, {dim}, is whole, such as {near}/{dim}"
            self.require(abs(dim * ratio - near) <= 1e-6 * near, "arch: ffn_ratios", ratio, allowed)
        return cfg

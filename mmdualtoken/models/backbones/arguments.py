"""Checks of the backbone's arguments: each error names the argument, its value and the allowed."""

from collections.abc import Sequence
from numbers import Real
from typing import Any


def _fail(argument: str, value: Any, allowed: str, error: type[Exception] = ValueError) -> None:
    raise error(f"DualTokenViT: {argument}={value!r}; allowed is {allowed}")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _sequence(argument: str, value: Any, allowed: str) -> None:
    if not isinstance(value, Sequence) or isinstance(value, str):
        _fail(argument, value, allowed, TypeError)


def choose(argument: str, value: str | type, table: dict[str, type]) -> type:
    """The class that `value` names in `table`, or `value` itself if it is a class."""
    if isinstance(value, type):
        return value
    allowed = f"one of {sorted(table)} or a class"
    if not isinstance(value, str):
        _fail(argument, value, allowed, TypeError)
    if value not in table:
        _fail(argument, value, allowed)
    return table[value]


def check_rate(argument: str, value: float, below_one: bool = False) -> float:
    """A number from 0 to 1, without 1 if `below_one`."""
    allowed = "0 to 1" + (", without 1" if below_one else "")
    if not isinstance(value, Real) or isinstance(value, bool):
        _fail(argument, value, f"a number, {allowed}", TypeError)
    if not 0 <= value <= 1 or (below_one and value == 1):
        _fail(argument, value, allowed)
    return value


def check_bool(argument: str, value: bool) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        _fail(argument, value, "True or False", TypeError)
    return value


def check_frozen_stages(value: int) -> int:
    """-1 to 3."""
    if not _is_int(value):
        _fail("frozen_stages", value, "an int, -1 to 3", TypeError)
    if value not in range(-1, 4):
        _fail("frozen_stages", value, "-1 to 3")
    return value


def check_out_indices(value: Sequence[int] | int) -> tuple[int, ...]:
    """Rising stage indices as a tuple; a single int stands for a tuple of one."""
    allowed = "rising indices from (0, 1, 2)"
    indices = (value,) if _is_int(value) else value
    _sequence("out_indices", indices, allowed)
    if not all(map(_is_int, indices)) or not set(indices) <= {0, 1, 2}:
        _fail("out_indices", value, allowed)
    if not indices or sorted(set(indices)) != list(indices):
        _fail("out_indices", value, allowed)
    return tuple(indices)


def check_token_size(value: Sequence[int] | int, grid: bool) -> tuple[int, int]:
    """The shape of the tokens as (h, w); (1, n) for n tokens that form no grid."""
    allowed = "a pair (h, w) of positive ints" if grid else "a positive int, the number of tokens"
    size = (1, value) if not grid and _is_int(value) else value
    if _is_int(size):
        _fail("token_size", value, allowed)
    _sequence("token_size", size, allowed)
    if len(size) != 2 or not all(_is_int(n) and n > 0 for n in size):
        _fail("token_size", value, allowed)
    return tuple(size)


def check_out_norm_cfg(value: dict | None) -> dict | None:
    """A norm config with a type, or None."""
    allowed = "None or a dict such as dict(type='LN', eps=1e-6) or dict(type='BN')"
    if value is None:
        return None
    if not isinstance(value, dict):
        _fail("out_norm_cfg", value, allowed, TypeError)
    if "type" not in value or (value["type"] == "LN" and set(value) - {"type", "eps"}):
        _fail("out_norm_cfg", value, allowed)
    return value


#: What each key of an arch holds, per stage: (is it fine?, what is allowed).
_ARCH_VALUES = {
    "embed_dims": (lambda v: _is_int(v) and v >= 8 and v % 4 == 0, "multiples of 4 from 8"),
    "depths": (lambda v: _is_int(v) and v > 0, "positive ints"),
    "num_heads": (lambda v: _is_int(v) and v > 0, "positive ints"),
    "ffn_ratios": (lambda v: isinstance(v, Real) and v > 0, "positive numbers"),
    "kernel_sizes": (lambda v: v is None or (_is_int(v) and v > 0 and v % 2), "odd ints or None"),
    "down_convs": (lambda v: _is_int(v) and v >= 0, "ints from 0"),
}


def check_arch(value: str | dict, settings: dict[str, dict], defaults: dict) -> dict:
    """The settings that `value` names or is, completed by `defaults`."""
    if isinstance(value, str):
        if value not in settings:
            _fail("arch", value, f"one of {sorted(settings)} or a dict")
        value = settings[value]
    if not isinstance(value, dict):
        _fail("arch", value, "a str or a dict", TypeError)
    required = set(_ARCH_VALUES) - set(defaults)
    if not required <= set(value) <= set(_ARCH_VALUES):
        keys = f"a dict with the keys {sorted(required)}, optionally {sorted(defaults)}"
        _fail("arch", dict(value), keys)
    arch = {**defaults, **value}
    for key, values in arch.items():
        is_fine, allowed = _ARCH_VALUES[key]
        _sequence(f"arch[{key!r}]", values, f"three values, {allowed}")
        if len(values) != 3 or not all(map(is_fine, values)):
            _fail(f"arch[{key!r}]", values, f"three values, {allowed}")
    for dim, heads in zip(arch["embed_dims"], arch["num_heads"], strict=True):
        if dim % heads:
            _fail("arch: embed_dims", dim, f"a multiple of its num_heads, {heads}")
    return arch

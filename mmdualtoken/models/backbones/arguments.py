"""Checks of the backbone's arguments: each error names the argument, its value and the allowed."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ...layers.map_norm import map_norm
from ..checks import DELETE_KEY, Checks, is_integer, is_number

CHECK = Checks("DualTokenViT")
#: Attention among the tokens and the mix MLP's weight grow with the square of their number.
MAX_TOKENS = 4096
#: What DualTokenViT reads of a class given as `token_module`.
TOKEN_MODULE_ATTRIBUTES = ("uses_tokens", "grid")


def choose(argument: str, value: str | type, table: dict[str, type]) -> type:
    """The class that `value` names in `table`, or `value` itself if it is a class of modules."""
    if not isinstance(value, (str, type)):
        CHECK.fail(argument, value, f"one of {sorted(table)} or a class", TypeError)
    if isinstance(value, str):
        if value not in table:
            CHECK.fail(argument, value, f"one of {sorted(table)} or a class")
        return table[value]
    if not issubclass(value, nn.Module):
        CHECK.fail(argument, value, "a subclass of torch.nn.Module", TypeError)
    needed = TOKEN_MODULE_ATTRIBUTES if argument == "token_module" else ()
    if not all(hasattr(value, name) for name in needed):
        CHECK.fail(argument, value, f"a class with the attributes {list(needed)}", TypeError)
    return value


def check_rate(argument: str, value: float, below_one: bool = False) -> float:
    """A number from 0 to 1, without 1 if `below_one`."""
    return CHECK.rate(argument, value, below_one)


def check_bool(argument: str, value: bool) -> bool:
    """True or False."""
    return CHECK.flag(argument, value)


def check_init_cfg(value: dict | list | None) -> dict | list | None:
    """None, one of MMEngine's initialisation configs, or a list of them."""
    return CHECK.init_cfg(value)


def check_in_channels(value: int) -> int:
    """A positive int."""
    return CHECK.integer("in_channels", value, 1)


def check_frozen_stages(value: int) -> int:
    """-1 to 3."""
    return CHECK.integer("frozen_stages", value, -1, 3)


def check_fine_blocks(value: int) -> int:
    """An int from 0 on."""
    return Checks("DualTokenViTStride4").integer("fine_blocks", value, 0)


def check_out_indices(value: Sequence[int] | int) -> tuple[int, ...]:
    """Rising stage indices as a tuple; a single int stands for a tuple of one."""
    allowed = "rising indices from (0, 1, 2)"
    indices = CHECK.sequence("out_indices", (value,) if is_integer(value) else value, allowed)
    if not indices or not all(is_integer(i) and 0 <= i <= 2 for i in indices):
        CHECK.fail("out_indices", value, allowed)
    if sorted(set(indices)) != list(indices):
        CHECK.fail("out_indices", value, allowed)
    return tuple(map(int, indices))


def check_token_size(value: Sequence[int] | int, grid: bool) -> tuple[int, int]:
    """The shape of the tokens as (h, w); (1, n) for n tokens that form no grid."""
    allowed = "a pair (h, w) of positive ints"
    if not grid:
        allowed = f"a positive int, the number of tokens, or {allowed} with that product"
    allowed += f", at most {MAX_TOKENS} tokens"
    if is_integer(value) and grid:
        CHECK.fail("token_size", value, allowed)
    size = CHECK.sequence("token_size", (1, value) if is_integer(value) else value, allowed)
    if len(size) != 2 or not all(is_integer(n) and n > 0 for n in size):
        CHECK.fail("token_size", value, allowed)
    if size[0] * size[1] > MAX_TOKENS:
        CHECK.fail("token_size", value, allowed)
    return int(size[0]), int(size[1])


def check_out_norm_cfg(value: dict | None, widths: Sequence[int]) -> dict | None:
    """A config that makes norms for maps of `widths` channels, or None."""
    allowed = "a dict such as dict(type='LN', eps=1e-6), dict(type='BN') or dict(type='SyncBN')"
    return CHECK.layer_cfg("out_norm_cfg", value, allowed, map_norm, widths)


#: What each key of an arch holds, per stage: (is it fine?, what is allowed).
_ARCH_VALUES = {
    "embed_dims": (lambda v: is_integer(v) and v >= 8 and v % 4 == 0, "multiples of 4 from 8"),
    "depths": (lambda v: is_integer(v) and v > 0, "positive ints"),
    "num_heads": (lambda v: is_integer(v) and v > 0, "positive ints"),
    "ffn_ratios": (lambda v: is_number(v) and 0 < v <= 1024, "positive numbers to 1024"),
    "kernel_sizes": (
        lambda v: v is None or (is_integer(v) and v > 0 and v % 2),
        "odd ints or None",
    ),
    "down_convs": (lambda v: is_integer(v) and v >= 0, "ints from 0"),
}


def _plain(value: Any) -> int | float | None:
    """A number of numpy's as Python's."""
    if value is None:
        return None
    return int(value) if is_integer(value) else float(value)


def _check_widths(arch: dict) -> None:
    """Heads divide the width, and the hidden width of the FFN is a whole number."""
    rows = zip(arch["embed_dims"], arch["num_heads"], arch["ffn_ratios"], strict=True)
    for dim, heads, ratio in rows:
        if dim % heads:
            CHECK.fail("arch: embed_dims", dim, f"a multiple of its num_heads, {heads}")
        hidden = dim * ratio
        if hidden < 1 or abs(hidden - round(hidden)) > 1e-6 * hidden:
            near = max(round(hidden), 1)
            allowed = (
                f"a ratio whose product with its embed_dims, {dim}, is a whole number from 1 on; "
                f"it is {hidden:g}, {near}/{dim} would give {near}"
            )
            CHECK.fail("arch: ffn_ratios", ratio, allowed)


def check_arch(value: str | dict, settings: dict[str, dict], defaults: dict) -> dict:
    """The settings that `value` names or is, completed by `defaults`, each as a tuple."""
    if isinstance(value, str):
        if value not in settings:
            CHECK.fail("arch", value, f"one of {sorted(settings)} or a dict")
        value = settings[value]
    if not isinstance(value, dict):
        CHECK.fail("arch", value, "a str or a dict", TypeError)
    value = {k: v for k, v in value.items() if k != DELETE_KEY}
    required = set(_ARCH_VALUES) - set(defaults)
    if not required <= set(value) <= set(_ARCH_VALUES):
        keys = f"a dict with the keys {sorted(required)}, optionally {sorted(defaults)}"
        CHECK.fail("arch", value, keys)
    arch = {}
    for key, values in {**defaults, **value}.items():
        is_fine, allowed = _ARCH_VALUES[key]
        allowed = f"three values, {allowed}"
        values = CHECK.sequence(f"arch[{key!r}]", values, allowed)
        if len(values) != 3 or not all(map(is_fine, values)):
            CHECK.fail(f"arch[{key!r}]", values, allowed)
        arch[key] = tuple(map(_plain, values))
    _check_widths(arch)
    return arch

"""Checks of the arguments of models."""

from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from os import PathLike
from typing import Any, NoReturn

import torch
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from mmdualtoken.errors import ARGUMENT_ERRORS, WrongValue
from mmdualtoken.models.blocks import map_norm

#: Written by configs to replace a base's dict as a whole. MMEngine leaves it there where the base
#: has no such key.
DELETE_KEY = "_delete_"


def is_integer(value: Any) -> bool:
    """Whether it is an int, Python's or numpy's; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a real number, Python's or numpy's; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


class Checks:
    """The checks of one class's arguments.

    Each returns the value in its plain form: a numpy number as Python's, a sequence as a tuple.

    Args:
        owner: name of the class, which begins every message.
    """

    def __init__(self, owner: str):
        self.owner = owner

    def fail(
        self, argument: str, value: Any, allowed: str, error: type[Exception] = ValueError
    ) -> NoReturn:
        """Raise `error`, as the kind of it that the tools show in one paragraph."""
        raise ARGUMENT_ERRORS[error](f"{self.owner}: {argument}={value!r}; allowed is {allowed}")

    def integer(
        self, argument: str, value: int, low: int | None = None, high: int | None = None
    ) -> int:
        """An int, from `low` and up to `high` where they are given."""
        allowed = "an int"
        if low is not None:
            allowed += f" from {low} on" if high is None else f", {low} to {high}"
        if not is_integer(value):
            self.fail(argument, value, allowed, TypeError)
        if (low is not None and value < low) or (high is not None and value > high):
            self.fail(argument, value, allowed)
        return int(value)

    def rate(self, argument: str, value: float, below_one: bool = False) -> float:
        """A number from 0 to 1, without 1 if `below_one`."""
        allowed = "a number, 0 to 1" + (", without 1" if below_one else "")
        if not is_number(value):
            self.fail(argument, value, allowed, TypeError)
        if not 0 <= value <= 1 or (below_one and value == 1):
            self.fail(argument, value, allowed)
        return float(value)

    def flag(self, argument: str, value: bool) -> bool:
        """True or False."""
        if not isinstance(value, bool):
            self.fail(argument, value, "True or False", TypeError)
        return value

    def choice(self, argument: str, value: str, names: Iterable[str]) -> str:
        """One of `names`."""
        allowed = f"one of {sorted(names)}"
        if not isinstance(value, str):
            self.fail(argument, value, allowed, TypeError)
        if value not in names:
            self.fail(argument, value, allowed)
        return value

    def sequence(self, argument: str, value: Sequence, allowed: str) -> tuple:
        """A list, tuple or range."""
        if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray)):
            self.fail(argument, value, allowed, TypeError)
        return tuple(value)

    def widths(self, argument: str, value: Sequence[int]) -> list[int]:
        """At least one positive int."""
        allowed = "a list of positive ints, one per map"
        widths = self.sequence(argument, value, allowed)
        if not widths or not all(is_integer(n) and n > 0 for n in widths):
            self.fail(argument, value, allowed)
        return [int(n) for n in widths]

    def layer_cfg(
        self,
        argument: str,
        value: dict | None,
        allowed: str,
        build: Callable[[dict, int], nn.Module],
        channels: Iterable[int],
    ) -> dict | None:
        """None, or a config of which `build(value, width)` makes layers that suit maps.

        A layer is built for each width of `channels` and tried on a map of zeros: what the
        registry knows, and which keys a layer takes, only they can say. PyTorch takes any eps.
        """
        if value is None:
            return None
        if not isinstance(value, dict):
            self.fail(argument, value, f"None or {allowed}", TypeError)
        cfg = {k: v for k, v in value.items() if k != DELETE_KEY}
        eps = cfg.get("eps", 1.0)
        if not is_number(eps) or not 0 < eps < float("inf"):
            self.fail(argument, value, f"None or {allowed}, with eps a positive number")
        for width in channels:
            try:
                with torch.no_grad(), torch.device("cpu"):  # real weights, whoever builds the model
                    x = torch.zeros(1, width, 2, 3)
                    y = build(cfg, width).eval()(x)
                if y.shape != x.shape:
                    raise ValueError(f"it makes {tuple(y.shape)} of {tuple(x.shape)}")
            except Exception as error:  # the registry's, the layer's own, of any kind
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                raise WrongValue(
                    f"{self.owner}: {argument}={value!r} gives no layer for maps (B, C, H, W) "
                    f"with C={width} ({reason}); allowed is None or {allowed}"
                ) from error
        return cfg

    def init_cfg(self, value: dict | list | None) -> dict | list | None:
        """None, one of MMEngine's initialisation configs, or a list of them."""
        allowed = (
            "None, or a dict (or a list of them) whose type is one of MMEngine's initialisers or "
            "StemContrast, such as dict(type='Pretrained', checkpoint=FILE, prefix='backbone.')"
        )
        if value is None:
            return None
        entries = [value] if isinstance(value, dict) else value
        if not isinstance(entries, (list, tuple)) or not all(isinstance(e, dict) for e in entries):
            self.fail("init_cfg", value, allowed, TypeError)
        for entry in entries:
            kind, file = entry.get("type"), entry.get("checkpoint")
            name = kind.__name__ if isinstance(kind, type) else kind
            if not name or not isinstance(name, str):
                self.fail("init_cfg", value, allowed)
            if not isinstance(kind, type) and WEIGHT_INITIALIZERS.get(name) is None:
                self.fail("init_cfg", value, allowed)
            is_file = isinstance(file, (str, PathLike)) and str(file)
            if name.split(".")[-1].startswith("Pretrained") and not is_file:
                self.fail("init_cfg", value, f"{allowed}, where FILE is a path or URL")
            if name == "StemContrast":  # the others' arguments are MMEngine's to judge
                self._initialiser(entry, value)
        return value

    def _initialiser(self, entry: dict, value: dict | list) -> None:
        """Refuse now what would otherwise come up when the weights are initialised."""
        arguments = {k: v for k, v in entry.items() if k != "override"}
        try:
            WEIGHT_INITIALIZERS.build(arguments)
        except TypeError as error:
            self.fail("init_cfg", value, f"what its type takes: {error}", TypeError)


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

"""Checks of constructor arguments: each error names the class, the argument, its value and what
is allowed."""

from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from os import PathLike
from typing import Any, NoReturn

import torch
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from ..engine.errors import WRONG, WrongValue

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
        raise WRONG[error](f"{self.owner}: {argument}={value!r}; allowed is {allowed}")

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

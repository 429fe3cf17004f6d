"""Makes ``mmcv._ext`` importable where mmcv was installed without its compiled operators.

The file ``mmdualtoken-operators.pth`` calls ``enable()`` when Python starts: an import such as
``from mmdet.apis import DetInferencer`` needs ``mmcv._ext`` before it reads any config. This module
imports nothing until somebody asks for ``mmcv._ext``.
"""

import os
import sys


class OperatorsFinder:
    """Meta path finder of one module, ``mmcv._ext``: the package ``mmdualtoken/ops/extension``."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        """The spec of ``mmcv._ext``; None for every other module."""
        if fullname != "mmcv._ext":
            return None
        from importlib.util import spec_from_file_location

        # By path: importing mmdualtoken here would import mmcv, which is being imported.
        folder = os.path.join(os.path.dirname(__file__), "mmdualtoken", "ops", "extension")
        file = os.path.join(folder, "__init__.py")
        if not os.path.isfile(file):
            return None
        return spec_from_file_location(fullname, file, submodule_search_locations=[folder])


def enable():
    """Add the finder behind all others, so that compiled operators win.

    With ``MMDUALTOKEN_OPS=torchvision`` it goes first, and wins over compiled operators.
    Calling it again applies the variable's present value.
    """
    if OperatorsFinder in sys.meta_path:
        sys.meta_path.remove(OperatorsFinder)
    first = os.environ.get("MMDUALTOKEN_OPS") == "torchvision"
    sys.meta_path.insert(0 if first else len(sys.meta_path), OperatorsFinder)

"""Look at the tokens of a DualTokenViT on a local page: which tokens a place in a photo reads from,
and where a token is broadcast; for one model, or for two side by side.

Works with configs of mmdet, mmseg and mmpretrain. Description of the page: docs/inspector.md.
"""

import argparse
import contextlib
import os
import sys
import threading
from types import ModuleType

from mmengine.config import DictAction

from mmdualtoken.cli import add_config_arguments, load_config, number, run_tool
from mmdualtoken.errors import MissingPackage
from mmdualtoken.inference.inspector.inspected_model import InspectedModel


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("CONFIG", "CHECKPOINT"),
        help="a second model, of any variant and task, to compare",
    )
    parser.add_argument(
        "--compare-cfg-options",
        nargs="+",
        action=DictAction,
        help="as --cfg-options, for the second model's config",
    )
    parser.add_argument(
        "--score-thr",
        type=number(float, 0, 1),
        default=0.3,
        help="detection: objects need a higher score to be shown (%(default)s)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda:0, ... (%(default)s)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (%(default)s: this machine only)"
    )
    parser.add_argument(
        "--port",
        type=number(int, 0, 65535),
        default=7860,
        help="port, 0 for a free one (%(default)s)",
    )
    parser.add_argument("--no-browser", action="store_true", help="open no browser")
    args = parser.parse_args()
    if args.compare_cfg_options and not args.compare:
        parser.error("--compare-cfg-options needs --compare")
    return args


def import_server() -> ModuleType:
    """Import the page's server.

    Raises:
        MissingPackage: Gradio is not installed; the message says how to install it.
    """
    try:
        import gradio  # noqa: F401

        from mmdualtoken.inference.inspector import server
    except ImportError as error:
        raise MissingPackage(
            f"The inspector's page needs Gradio, which cannot be imported ({error}). In a clone: "
            "python -m pip install -r requirements/inspector.txt; elsewhere: "
            'python -m pip install "mmdualtoken[inspector]".'
        ) from error
    return server


def load_models(args: argparse.Namespace) -> list[InspectedModel]:
    """Load the model of the page, or the two."""
    common = dict(device=args.device, score_thr=args.score_thr)
    models = [InspectedModel("A", load_config(args), args.checkpoint, **common)]
    if args.compare:
        config, checkpoint = args.compare
        second = {**vars(args), "config": config, "cfg_options": args.compare_cfg_options}
        cfg = load_config(argparse.Namespace(**second))
        models.append(InspectedModel("B", cfg, checkpoint, **common))
    return models


def main() -> None:
    args = parse_args()
    server = import_server()
    with contextlib.redirect_stdout(sys.stderr):  # messages of imported packages
        models = load_models(args)
    if args.host not in server.LOOPBACK:
        print(
            f"Warning: on {args.host} others in your network can reach the page, without a "
            "password.",
            file=sys.stderr,
        )
    has_screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    open_browser = has_screen and not args.no_browser
    with server.serve_page(models, args.host, args.port, open_browser) as url:
        print(f"Inspector: {url} (Ctrl-C ends it)", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    run_tool(main)

"""Look at the tokens of a DualTokenViT on a local page: which tokens a place in a photo reads from,
and where a token is broadcast; for one model, or for two beside each other.

Works with configs of mmdet, mmseg and mmpretrain; what the page shows: docs/inspector.md.
"""

import argparse
import contextlib
import sys

from mmengine.config import DictAction

from mmdualtoken.cli import add_config_arguments, load_config, run_tool
from mmdualtoken.inference.inspector.server import LOOPBACK, check_gradio, serve, show
from mmdualtoken.inference.inspector.subject import Subject


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("CONFIG", "CHECKPOINT"),
        help="a second model, of any variant and task, to show beside the first",
    )
    parser.add_argument(
        "--compare-cfg-options",
        nargs="+",
        action=DictAction,
        help="as --cfg-options, for the second model's config",
    )
    parser.add_argument(
        "--score-thr",
        type=float,
        default=0.3,
        help="detection: objects need a higher score to be shown (%(default)s)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda:0, ... (%(default)s)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (%(default)s: this machine only)"
    )
    parser.add_argument(
        "--port", type=int, default=7860, help="port, 0 for a free one (%(default)s)"
    )
    parser.add_argument("--no-browser", action="store_true", help="open no browser")
    args = parser.parse_args()
    if not 0 <= args.score_thr <= 1:
        parser.error(f"--score-thr is {args.score_thr:g}; it is a number from 0 to 1")
    if not 0 <= args.port <= 65535:
        parser.error(f"--port is {args.port}; it is a number from 0 to 65535")
    if args.compare_cfg_options and not args.compare:
        parser.error("--compare-cfg-options needs --compare")
    return args


def load_subjects(args: argparse.Namespace) -> list[Subject]:
    """The model of the page, or the two."""
    common = dict(device=args.device, score_thr=args.score_thr)
    subjects = [Subject("A", load_config(args), args.checkpoint, **common)]
    if args.compare:
        config, checkpoint = args.compare
        second = argparse.Namespace(
            **{**vars(args), "config": config, "cfg_options": args.compare_cfg_options}
        )
        subjects.append(Subject("B", load_config(second), checkpoint, **common))
    return subjects


def main() -> None:
    args = parse_args()
    check_gradio()
    with contextlib.redirect_stdout(sys.stderr):  # what imported packages have to say
        subjects = load_subjects(args)
    if args.host not in LOOPBACK:
        print(
            f"Warning: on {args.host} others in your network can reach the page, without a "
            "password.",
            file=sys.stderr,
        )
    serve(subjects, args.host, args.port, lambda url, _: show(url, not args.no_browser))


if __name__ == "__main__":
    run_tool(main)

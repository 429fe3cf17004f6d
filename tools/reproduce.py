"""The paper's tables, counted and measured: the command of lab/report/command.py."""

import sys
from pathlib import Path

from mmdualtoken.cli import run_tool
from mmdualtoken.errors import print_stderr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for lab

try:
    import pandas  # noqa: F401
except ImportError as error:
    print_stderr(
        f"The report needs pandas, which is missing ({error}): python -m pip install pandas"
    )
    sys.exit(2)
from lab.report.command import main, parse_args  # noqa: E402, F401

if __name__ == "__main__":
    run_tool(main)

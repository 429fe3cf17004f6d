"""Fixtures, and the rule that every skipped test names its reason."""

import os
from pathlib import Path

import pytest
import torch

# Narrow models at 64 pixels: threads cost more than they give, on a busy machine twenty times.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent


def fail_silent_skip(report):
    """Turn a skip without a reason into a failure."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2]).removeprefix("Skipped:").strip()
        # What pytest puts in where the mark, or the call, gives no reason.
        if reason in ("", "unconditional skip", "Skipped"):
            report.outcome = "failed"
            report.longrepr = f"{report.nodeid}: skipped without a reason"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    fail_silent_skip((yield).get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector):
    fail_silent_skip((yield).get_result())


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of small real data sets, named by MMDUALTOKEN_DATA."""
    folder = os.environ.get("MMDUALTOKEN_DATA")
    if not folder:
        pytest.skip("MMDUALTOKEN_DATA is not set; it names a folder of small real data sets")
    if not Path(folder).is_dir():
        pytest.fail(f"MMDUALTOKEN_DATA={folder} is no folder")
    return Path(folder).resolve()  # tests change the working directory

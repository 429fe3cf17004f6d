"""The rule that a skipped test names its reason."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest

@pytest.mark.skip
def test_silent():
    pass

def test_silent_too():
    pytest.skip()

@pytest.mark.skip(reason="shown here")
def test_named():
    pass
"""


def test_skip_without_reason_fails(tmp_path):
    conftest = Path(__file__).with_name("conftest.py")
    paths = os.pathsep.join([str(conftest.parent), os.environ.get("PYTHONPATH", "")])
    (tmp_path / "conftest.py").write_text(conftest.read_text())
    (tmp_path / "test_some.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "1 failed, 1 skipped, 1 error" in done.stdout  # a mark acts before the test is called
    assert "test_silent: skipped without a reason" in done.stdout

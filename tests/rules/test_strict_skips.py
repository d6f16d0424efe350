"""In CI a skip is a failure, but for those that are named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest
def test_works(): pass
@pytest.mark.skip(reason={reason!r})
def test_passed_over(): pass
"""


def run(tmp_path: Path, reason: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "test_it.py").write_text(TESTS.format(reason=reason))
    here = Path(__file__).parent.parent
    command = [sys.executable, "-m", "pytest", "-p", "strict_skips", "-c", "/dev/null", "--rootdir", str(tmp_path)]
    environment = {"PYTHONPATH": str(here), "PATH": "/usr/bin:/bin", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [*command, *arguments, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )


def test_a_skip_fails_in_ci(tmp_path):
    done = run(tmp_path, "no namespaces here", "--strict-skips")
    assert done.returncode == 1
    assert "1 passed, 1 error" in done.stdout
    assert "no namespaces here" in done.stdout


def test_a_named_skip_does_not(tmp_path):
    assert run(tmp_path, "OSL_SYNTHEA_SMART is not set", "--strict-skips").returncode == 0


def test_elsewhere_a_skip_is_a_skip(tmp_path):
    assert run(tmp_path, "no namespaces here").returncode == 0

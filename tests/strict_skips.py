"""In CI a skipped test is a failed test, but for the skips named here.

A test that skips itself where something is missing hides that it is missing; a CI machine has everything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Reasons (their beginnings) that are fair in CI, with why.
ALLOWED = {
    "OSL_SYNTHEA_SMART": "the second data set is not in the repository; the path is given where it lies beside it",
    "allowed:": "the test's own sentence says why it cannot run on a machine like CI's",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--strict-skips",
        action="store_true",
        default=os.environ.get("CI") == "true",
        help="a skip fails, but for those named in tests/strict_skips.py (default where CI=true)",
    )


def reason_of(longrepr: object) -> str:
    """The words of a skip, without the file and pytest's prefix."""
    said = str(longrepr[-1] if isinstance(longrepr, tuple) else longrepr)
    return said.removeprefix("Skipped: ")


def is_allowed(reason: str) -> bool:
    return reason.startswith(tuple(ALLOWED))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    _judge(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    _judge(report, collector.config)
    return report


def _judge(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config) -> None:
    if not report.skipped or hasattr(report, "wasxfail") or not config.getoption("--strict-skips"):
        return
    reason = reason_of(report.longrepr)
    if not is_allowed(reason):
        report.outcome = "failed"
        report.longrepr = f"Skipped, which fails in CI (tests/strict_skips.py): {reason}"

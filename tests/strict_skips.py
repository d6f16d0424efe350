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
    "another libseccomp": "the filters are data in the package; only the one that made them makes the same bytes",
    "no supervisor of ours": "a case for executors that have one",
    "allowed:": "the test's own sentence says why it cannot run on a machine like CI's",
}
# And for a plain user, who has no cgroup and may not mount: the same test has run as root.
ALLOWED_WITHOUT_ROOT = ("there is no cgroup here", "mounting is not allowed here", "as a plain user,")


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


def is_allowed(reason: str, *, root: bool) -> bool:
    return reason.startswith(tuple(ALLOWED) if root else (*ALLOWED, *ALLOWED_WITHOUT_ROOT))


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
    if not is_allowed(reason, root=os.geteuid() == 0):
        report.outcome = "failed"
        report.longrepr = f"Skipped, which fails in CI (tests/strict_skips.py): {reason}"

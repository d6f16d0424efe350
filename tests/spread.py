"""With several workers (`-n 2`): the tests of one module of journeys, services or contracts stay together.

They share something that is slow to make, such as a running Lab. All others go to whoever is free.
"""

from __future__ import annotations

import pytest

TOGETHER = ("tests/journeys/", "tests/services/", "tests/contracts/")


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        module = item.nodeid.split("::")[0]
        if module.startswith(TOGETHER):
            item.add_marker(pytest.mark.xdist_group(module))

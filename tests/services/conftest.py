from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from service_fakes import Everything, everything


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Everything]:
    """Site, agent and level 4 service, ready to be started; ended with the test."""
    made = everything(tmp_path)
    yield made
    made.stop()

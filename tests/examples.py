"""How many examples Hypothesis makes: few where somebody waits for them, all of them in CI (`CI=true`)."""

from __future__ import annotations

import os

ALL = os.environ.get("CI") == "true"


def examples(number: int) -> int:
    """`number` in CI, a tenth of it elsewhere; never fewer than five."""
    return number if ALL else max(min(number, 5), number // 10)

"""Where a dataset definition is evaluated: the same sandbox as a notebook's, with no data in it."""

from __future__ import annotations

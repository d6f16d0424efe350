"""For every test: as many examples as there is time for, and one folder for the root of sandboxed jobs."""

from __future__ import annotations

import os

from examples import examples
from executor_cases import cache_folder
from hypothesis import settings

settings.register_profile("here", max_examples=examples(100), deadline=None)
settings.load_profile("here")

# A root takes a quarter of a minute to build: whatever a test starts finds the one that is there.
os.environ.setdefault("OPENSAFELY_LAB_CACHE", str(cache_folder()))

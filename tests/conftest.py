"""For every test: Hypothesis makes as many examples as there is time for."""

from __future__ import annotations

from examples import examples
from hypothesis import settings

settings.register_profile("here", max_examples=examples(100), deadline=None)
settings.load_profile("here")

"""The fixtures of `executor_cases`, for every suite in this folder."""

from __future__ import annotations

from executor_cases import executor, job_root, one_executor, proven_states, run

__all__ = ["executor", "job_root", "one_executor", "proven_states", "run"]

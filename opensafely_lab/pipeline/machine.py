"""The chain's surroundings on one machine: its sandbox, a private folder, random names."""

from __future__ import annotations

import secrets
from pathlib import Path

from opensafely_lab.disclosure.policy import OPENSAFELY, Policy
from opensafely_lab.jobs.executors.sandbox import SandboxExecutor
from opensafely_lab.jobs.root import ensure_root
from opensafely_lab.pipeline.ports import Ports


def new_id() -> str:
    """16 random characters that mean nothing."""
    return secrets.token_hex(8)


def machine_ports(state: Path, *, cache: Path | None = None, policy: Policy = OPENSAFELY) -> Ports:
    """Ports over this machine's sandbox. Builds the job's root into `cache` if it is not there.

    Raises `ExecutorUnavailable` (at the first run) where a layer of isolation is missing.
    """
    scratch = state / "scratch"
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    executor = SandboxExecutor(state / "sandbox", ensure_root(cache or state / "cache"))
    return Ports(executor=executor, scratch=scratch, policy=policy, new_id=new_id)


def unsafe_plain_ports(state: Path, *, policy: Policy = OPENSAFELY) -> Ports:
    """Ports for dummy runs where a computer allows no namespaces (Binder): plain processes, no isolation.

    Chosen by name, never fallen back to (decisions.md, 18). Its executor refuses a run on real data.
    """
    from opensafely_lab.jobs.executors.unsafe_plain import UnsafePlainExecutor

    scratch = state / "scratch"
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Ports(executor=UnsafePlainExecutor(state / "unsafe-plain"), scratch=scratch, policy=policy, new_id=new_id)

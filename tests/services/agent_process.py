"""The agent as a process, with a fake work, that can be told to kill itself at a step.

    python agent_process.py FOLDER --config FILE

`FOLDER/die-at` names a step: at it, once, the process kills itself as kill -9 does. `FOLDER/hold-at`: at
it, it says so in `FOLDER/holding` and goes on when that file has gone.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from attrs import evolve
from service_fakes import FakeWork, fake_unpack

from opensafely_lab.backend import agent
from opensafely_lab.backend.loop import Frame
from opensafely_lab.backend.settings import AgentSettings
from opensafely_lab.backend.work import Work

FOLDER = Path(sys.argv[1])


def at(step: str) -> None:
    die, hold = FOLDER / "die-at", FOLDER / "hold-at"
    if die.exists() and die.read_text() == step:
        die.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if hold.exists() and hold.read_text() == step:
        hold.unlink()
        (FOLDER / "holding").touch()
        while (FOLDER / "holding").exists():
            time.sleep(0.01)


def make_work(_settings: AgentSettings) -> Work:
    return FakeWork(FOLDER / "runs.txt", at=at)


original = agent.frame_of


def frame_of(settings: AgentSettings, work: Work) -> Frame:
    return evolve(original(settings, work), at=at, unpack=fake_unpack)


agent.frame_of = frame_of
sys.exit(agent.main(sys.argv[2:], make_work=make_work))

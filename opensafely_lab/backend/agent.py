"""The agent: asks the site for work, carries it out, tells a code. It never listens.

`python -m opensafely_lab.backend.agent --config FILE.json`
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from opensafely_lab.backend import pipeline_work
from opensafely_lab.backend.loop import Agent, Frame
from opensafely_lab.backend.policies import policies_for
from opensafely_lab.backend.settings import AgentSettings, read_settings
from opensafely_lab.backend.site_link import SiteLink
from opensafely_lab.backend.store import open_store
from opensafely_lab.backend.work import Work
from opensafely_lab.errors import LabError
from opensafely_lab.jobs.bundle import unpack
from opensafely_lab.service.logs import log, start_logging
from opensafely_lab.service.tokens import read_token


class _StopAsked(BaseException):
    """SIGTERM or Ctrl-C, raised in the main thread: a handler must not take locks."""


def _on_signal(number: int, _frame: FrameType | None) -> None:
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise _StopAsked


def frame_of(settings: AgentSettings, work: Work) -> Frame:
    """The agent as the settings say. Reads the token; brings the database up to date; seeds it."""
    store = open_store(settings)
    token = read_token(Path(settings.token_file))
    return Frame(
        backend=settings.backend,
        store=store,
        new_link=lambda: SiteLink(settings.site, token),
        work=work,
        unpack=unpack,
        policies=policies_for(Path(settings.data)),
        workers=settings.workers,
        poll_seconds=settings.poll_seconds,
        pause_seconds=settings.pause_seconds,
    )


def main(argv: Sequence[str] | None = None, make_work: Callable[[AgentSettings], Work] = pipeline_work.make) -> int:
    parser = argparse.ArgumentParser(prog="python -m opensafely_lab.backend.agent", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="settings, a JSON file")
    try:
        settings = read_settings(AgentSettings, parser.parse_args(argv).config)
        start_logging(None if settings.log_file is None else Path(settings.log_file))
        agent = Agent(frame_of(settings, make_work(settings)))
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, _on_signal)
        agent.run(settings.folder)
    except _StopAsked:
        log.info("stopped")
    except LabError as error:
        print(error, file=sys.stderr)  # noqa: T201  what the person who started it reads
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

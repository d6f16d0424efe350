"""The settings of agent and level 4 service: JSON files, each field listed, read once.

Neither has a place for the site's database: the backend knows an address to ask, and a token.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

from pydantic import AfterValidator, Field

from opensafely_lab.errors import UsageError
from opensafely_lab.wire.base import Message, Name
from opensafely_lab.wire.decode import BadMessage, decode

Port = Annotated[int, Field(ge=0, le=65535)]


class BadSettings(UsageError):
    code: ClassVar[str] = "bad-settings"


def _safe_address(url: str) -> str:
    """A token goes over TLS, or does not leave the computer."""
    if not re.fullmatch(r"https://[^/?#@]+(/[^?#@]*)?|http://(127\.0\.0\.1|localhost)(:[0-9]+)?", url.rstrip("/")):
        raise ValueError("https, or http on this computer")
    return url.rstrip("/")


class BackendSeed(Message):
    """The people of the one-machine default. The token is read from a file, made if missing."""

    project: Name
    user: Name
    token_file: str
    policy: Name = "opensafely"
    workspace: Name | None = None  # told to the site's seed alike; level 4 permission is by project


class StateSettings(Message):
    """`state` is the backend's own folder: database, level 3, level 4, bundles, log."""

    backend: Name
    state: str
    log_file: str | None = None
    seed: BackendSeed | None = None

    @property
    def folder(self) -> Path:
        return Path(self.state)


class AgentSettings(StateSettings):
    """`data` is the folder of tables; `cache` where the sandbox's root is kept."""

    site: Annotated[str, AfterValidator(_safe_address)]
    token_file: str
    data: str
    cache: str | None = None
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    poll_seconds: Annotated[float, Field(ge=0, le=60)] = 20.0
    pause_seconds: Annotated[float, Field(gt=0, le=600)] = 5.0  # after something that did not work


class Level4Settings(StateSettings):
    port: Port = 0
    port_file: str | None = None


S = TypeVar("S", bound=StateSettings)


def read_settings(model: type[S], path: Path) -> S:
    try:
        return decode(model, path.read_bytes())
    except OSError:
        raise BadSettings(
            f"The settings file {path.name} cannot be read.", next_step="Give its path with `--config`."
        ) from None
    except BadMessage as error:
        raise BadSettings(
            f"The settings file {path.name} is not valid. {error.sentence}", next_step="Mend it and start again."
        ) from None

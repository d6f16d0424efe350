"""The site's settings: one JSON file, each field listed, read once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from opensafely_lab.errors import UsageError
from opensafely_lab.wire.base import Message, Name
from opensafely_lab.wire.decode import BadMessage, decode


class BadSettings(UsageError):
    code: ClassVar[str] = "bad-settings"


class SeedSettings(Message):
    """The people and places of the one-machine default. Tokens are read from files, made if missing."""

    user: Name
    project: Name
    workspace: Name
    backend: Name
    user_token_file: str
    backend_token_file: str


class SiteSettings(Message):
    """`state` is a folder of the site's own: database, bundles, log."""

    state: str
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    port_file: str | None = None
    log_file: str | None = None
    largest_bundle_mb: Annotated[int, Field(ge=1, le=1024)] = 50
    longest_wait_seconds: Annotated[float, Field(ge=0, le=60)] = 25.0
    seed: SeedSettings | None = None

    @property
    def database(self) -> Path:
        return Path(self.state) / "site.sqlite"

    @property
    def bundles(self) -> Path:
        return Path(self.state) / "bundles"


def read_settings(path: Path) -> SiteSettings:
    try:
        return decode(SiteSettings, path.read_bytes())
    except OSError:
        raise BadSettings(
            f"The settings file {path.name} cannot be read.", next_step="Give its path with `--config`."
        ) from None
    except BadMessage as error:
        raise BadSettings(
            f"The settings file {path.name} is not valid. {error.sentence}", next_step="Mend it and start again."
        ) from None

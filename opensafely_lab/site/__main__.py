"""`python -m opensafely_lab.site --config FILE.json`: serve the site on loopback until SIGTERM."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from opensafely_lab.errors import LabError
from opensafely_lab.service.database import private_folder, utc_now
from opensafely_lab.service.logs import start_logging
from opensafely_lab.service.serve import serve
from opensafely_lab.service.tokens import token_file
from opensafely_lab.site.app import create_app
from opensafely_lab.site.people import Seed, seed
from opensafely_lab.site.settings import SeedSettings, SiteSettings, read_settings


def read_seed(settings: SeedSettings) -> Seed:
    return Seed(
        user=settings.user,
        project=settings.project,
        workspace=settings.workspace,
        backend=settings.backend,
        user_token=token_file(Path(settings.user_token_file)),
        backend_token=token_file(Path(settings.backend_token_file)),
    )


def run(settings: SiteSettings) -> None:
    private_folder(Path(settings.state))
    start_logging(None if settings.log_file is None else Path(settings.log_file))
    app = create_app(settings)
    site = app.state.site
    if settings.seed is not None:
        people = read_seed(settings.seed)
        site.write(lambda session: seed(session, people, utc_now()))
    try:
        serve(app, settings.port, None if settings.port_file is None else Path(settings.port_file), site.changes.close)
    finally:
        site.database.close()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m opensafely_lab.site", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="settings, a JSON file")
    try:
        run(read_settings(parser.parse_args(argv).config))
    except LabError as error:
        print(error, file=sys.stderr)  # noqa: T201  what the person who started it reads
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

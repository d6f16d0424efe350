"""Where the extension meets Jupyter Server: its one setting, its routes, its end."""

from __future__ import annotations

import atexit
import importlib
from collections.abc import Callable
from pathlib import Path

from jupyter_server.serverapp import ServerApp
from traitlets import Unicode
from traitlets.config import LoggingConfigurable

from opensafely_lab.desk.server.desk import Desk
from opensafely_lab.desk.server.handlers import routes

DeskFactory = Callable[[Path], Desk]


class OpenSafely(LoggingConfigurable):
    """Settings of the OpenSAFELY server extension (`c.OpenSafely.*`)."""

    desk = Unicode(
        "opensafely_lab.desk.server.local_desk:local_desk",
        help="module:function that makes the desk from the server's root folder. Tests put a fake one here.",
    ).tag(config=True)

    def make_desk(self, root: Path) -> Desk:
        module, _, name = self.desk.partition(":")
        factory: DeskFactory = getattr(importlib.import_module(module), name)
        return factory(root)


def load(server: ServerApp) -> None:
    root = Path(getattr(server.contents_manager, "root_dir", server.root_dir)).resolve()
    desk = OpenSafely(parent=server).make_desk(root)
    atexit.register(desk.close)
    handlers = routes(server.web_app.settings["base_url"], desk)
    server.web_app.add_handlers(".*$", handlers)  # type: ignore[no-untyped-call]
    server.log.info("OpenSAFELY Lab is ready.")

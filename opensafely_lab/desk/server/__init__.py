"""The Jupyter server extension: what the panel, the toolbar and the result viewer ask.

It refuses what is not a message of `wire.lab`, and it never hands a token to the browser: the
site's and the backend's are used here, and only their answers travel on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


def _load_jupyter_server_extension(server: ServerApp) -> None:
    """Add our routes; called by Jupyter Server when the extension is enabled."""
    from opensafely_lab.desk.server.extension import load

    load(server)

"""Does a server on this machine answer? Asked directly: a proxy from the environment has no part in loopback."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers(url: str, *, timeout: float = 2.0) -> bool:
    """Whether `url` answers with success."""
    if not url.startswith(("http://", "https://")):
        return False
    try:
        with _DIRECT.open(url, timeout=timeout) as reply:
            return 200 <= int(reply.status) < 300
    except (OSError, urllib.error.URLError, ValueError):
        return False


def free_port() -> int:
    """A port on loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

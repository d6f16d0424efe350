"""Does a server on this machine answer? Asked directly: a proxy from the environment has no part in loopback."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request

LARGEST_ANSWER = 1 << 16
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers(url: str, *, timeout: float = 2.0) -> bool:
    """Whether `url` answers with success."""
    return _ask(url, timeout) is not None


def backend_ready(url: str, *, timeout: float = 2.0) -> bool:
    """Whether the level 4 service at `url` says that the backend's agent lives and its sandbox works."""
    try:
        said = json.loads(_ask(url, timeout) or b"{}")
    except ValueError:
        return False
    return isinstance(said, dict) and said.get("ready") is True


def _ask(url: str, timeout: float) -> bytes | None:
    if not url.startswith(("http://", "https://")):
        return None
    try:
        with _DIRECT.open(url, timeout=timeout) as reply:
            body: bytes = reply.read(LARGEST_ANSWER)
            return body if 200 <= int(reply.status) < 300 else None
    except (OSError, urllib.error.URLError, ValueError):
        return None


def free_port() -> int:
    """A port on loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""The Content-Security-Policy that `opensafely-lab up` gives its JupyterLab: the viewer's second wall.

Nothing in the page can load from, or send to, another host. JupyterLab needs 'unsafe-eval' (its
schema validator) and 'unsafe-inline' (its start page); what an untrusted document can do with
those is prevented by the viewer itself, which makes no script element and no handler.

A Lab that was started without this policy is noticed by the viewer, which then draws results in a
sandboxed frame with a policy of its own.
"""

from __future__ import annotations

HEADER = "Content-Security-Policy"


def policy(*origins: str) -> str:
    """The policy for a Lab reached at these origins, such as "127.0.0.1:8888"."""
    sockets = " ".join(f"ws://{origin} wss://{origin}" for origin in origins)
    return "; ".join(
        [
            "default-src 'self'",
            "script-src 'self' 'unsafe-eval' 'unsafe-inline'",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            f"connect-src 'self' {sockets}".strip(),
            "worker-src 'self' blob:",
            "frame-src 'self' blob: data:",
            "form-action 'self'",
            "base-uri 'self'",
            "object-src 'none'",
            "frame-ancestors 'self'",
        ]
    )


def server_config(port: int, host: str = "127.0.0.1") -> dict[str, dict[str, object]]:
    """What to put into a `jupyter_server_config.json`, or to pass as `--ServerApp.tornado_settings=...`."""
    origins = (f"{host}:{port}",) if host == "localhost" else (f"{host}:{port}", f"localhost:{port}")
    return {"ServerApp": {"tornado_settings": {"headers": {HEADER: policy(*origins)}}}}

"""Tokens: 256 random bits, shown once, kept as a digest.

The digest needs no salt and no stretching: nobody can try 2^256 tokens. It is looked up by
equality, so what an attacker could time is the digest of his own guess, which tells him nothing.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import string
from pathlib import Path

from opensafely_lab.errors import PlatformError

PREFIX = "osl_"
LONGEST = 128
_IDENTIFIER = string.ascii_lowercase + string.digits


def new_token() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def new_identifier() -> str:
    """An id that means nothing: 16 letters and digits, 82 random bits."""
    return "".join(secrets.choice(_IDENTIFIER) for _ in range(16))


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class UnsafeTokenFile(PlatformError):
    code = "unsafe-token-file"

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"The token file {path.name} cannot be used: it must be there, hold one token, and be readable by its "
            "owner alone.",
            next_step=f"Make it again, and run `chmod 600` on {path}.",
        )


def read_token(path: Path) -> str:
    """The token in a file that only its owner can read. Raises `UnsafeTokenFile`."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise UnsafeTokenFile(path)
            text = file.read(LONGEST + 2).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise UnsafeTokenFile(path) from None
    if not text.startswith(PREFIX) or len(text) > LONGEST or len(text) < 40:
        raise UnsafeTokenFile(path)
    return text


def write_token(path: Path, token: str) -> None:
    """Put a token into a new file with mode 0600, or replace what is there."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(token + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def token_file(path: Path) -> str:
    """The token in `path`, made if there is none."""
    if not path.exists():
        write_token(path, new_token())
    return read_token(path)

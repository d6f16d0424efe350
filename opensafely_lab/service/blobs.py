"""Bytes kept by their SHA-256: written whole or not at all, checked again when they are read."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from opensafely_lab.errors import PlatformError
from opensafely_lab.service.database import private_folder


class Damaged(PlatformError):
    code: ClassVar[str] = "store-damaged"

    def __init__(self) -> None:
        super().__init__(
            "A stored file is missing or is not what was stored.",
            next_step="Tell the operator: the store needs to be restored from its backup.",
        )


class Incoming:
    """A file on its way in: `write` as it comes, then `keep` or `drop`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / secrets.token_hex(16)
        self._file = os.fdopen(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._hash.update(chunk)
        self.size += len(chunk)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def keep(self, target: Path) -> None:
        """On disk, under its name, when this returns."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        private_folder(target.parent)
        self._path.replace(target)
        for folder in (target.parent, target.parent.parent):
            _sync_folder(folder)

    def drop(self) -> None:
        """Remove what there is of it. Nothing, if it was kept."""
        with suppress(OSError):
            self._file.close()
        with suppress(FileNotFoundError):
            self._path.unlink()


class Blobs:
    """Folder of files 0600 in folders 0700, named by digest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._incoming = folder / "incoming"

    def clear_incoming(self) -> None:
        """At start: drop what a killed process left half written."""
        private_folder(self.folder)
        for left in private_folder(self._incoming).iterdir():
            left.unlink()

    def path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def incoming(self) -> Incoming:
        private_folder(self.folder)
        return Incoming(private_folder(self._incoming))

    def keep(self, incoming: Incoming) -> str:
        incoming.keep(self.path(incoming.sha256))
        return incoming.sha256

    def put(self, data: bytes) -> str:
        """Store `data`; its digest."""
        incoming = self.incoming()
        try:
            incoming.write(data)
            return self.keep(incoming)
        finally:
            incoming.drop()

    def has(self, sha256: str) -> bool:
        return self.path(sha256).is_file()

    def get(self, sha256: str) -> bytes:
        """The bytes of this digest. Raises `Damaged` if they are not."""
        try:
            data = self.path(sha256).read_bytes()
        except OSError:
            raise Damaged from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Damaged
        return data

    def remove_others(self, named: Collection[str]) -> None:
        """Remove every file whose digest is not in `named`."""
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            if path.name not in named:
                path.unlink(missing_ok=True)

    def remove(self, sha256: str) -> None:
        self.path(sha256).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Names and digests that are valid once they exist: nobody checks them again."""

from __future__ import annotations

import hashlib
import re
from typing import Self

from attrs import field, frozen

from opensafely_lab.errors import UsageError

_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
# What the wire carries (`wire.base.Name`): a project, workspace, backend, or an action that is submitted.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")


class InvalidId(UsageError):
    """A text that is not the name, commit or digest it should be."""

    code = "invalid-id"


def is_name(text: str) -> bool:
    """Whether `text` can name a project, workspace, backend or submitted action."""
    return _NAME.match(text) is not None


@frozen(order=True)
class CommitSha:
    """One commit: 40 lower-case hexadecimal digits."""

    text: str = field()

    @text.validator
    def _check(self, _attribute: object, value: object) -> None:
        if not isinstance(value, str) or not _COMMIT.match(value):
            raise InvalidId("A commit is 40 hexadecimal digits.", next_step="Copy it from `git log`.")

    def __str__(self) -> str:
        return self.text

    @property
    def short(self) -> str:
        return self.text[:7]


@frozen(order=True)
class Sha256:
    """The digest of some bytes: 64 lower-case hexadecimal digits."""

    text: str = field()

    @text.validator
    def _check(self, _attribute: object, value: object) -> None:
        if not isinstance(value, str) or not _SHA256.match(value):
            raise InvalidId("A SHA-256 digest is 64 hexadecimal digits.")

    @classmethod
    def of(cls, data: bytes) -> Self:
        return cls(hashlib.sha256(data).hexdigest())

    def __str__(self) -> str:
        return self.text

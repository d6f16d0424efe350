"""The extension's types are generated from `wire.lab`, and checked in."""

from __future__ import annotations

from pathlib import Path

import pytest

from opensafely_lab.wire import typescript
from opensafely_lab.wire.lab import LabMessages

CHECKED_IN = Path(__file__).parents[2] / "extension" / "src" / "wire.ts"


def test_the_checked_in_types_are_those_of_the_messages() -> None:
    if not CHECKED_IN.is_file():
        pytest.skip("The extension's sources are not here.")
    advice = "run: python -m opensafely_lab.wire.typescript > extension/src/wire.ts"
    assert CHECKED_IN.read_text() == typescript.generate(), advice


def test_every_message_that_the_browser_sees_has_a_decoder() -> None:
    text = typescript.generate()
    for field in LabMessages.model_fields.values():
        name = field.annotation.__name__  # type: ignore[union-attr]
        assert f"export interface {name} " in text
        assert f"export const {name[0].lower()}{name[1:]}: decode.Decoder<{name}>" in text


def test_nothing_of_unknown_type_gets_through() -> None:
    text = typescript.generate()
    assert " any" not in text
    assert "unknown" not in text
    assert " as " not in text.replace("* as decode", "")

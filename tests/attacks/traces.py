"""Looking for a patient in bytes: as they are, and after every decoding that the cases name.

`forbidden_in_tree` looks through any folder (a result, a site's state, logs) and is what the journeys
use to prove that nothing of a run got there.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import gzip
import html
import io
import json
import re
import sqlite3
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attacks.cases import IDENTIFIER, TARGET, Case
from attrs import field, frozen

DEEPEST = 4  # decodings of decodings
LARGEST = 64 << 20
PNG = b"\x89PNG\r\n\x1a\n"


@frozen
class Forbidden:
    """What may be nowhere in what an author sees."""

    strings: tuple[str, ...] = field(default=(), converter=tuple)
    patterns: tuple[str, ...] = field(default=(), converter=tuple)
    sources: tuple[str, ...] = field(default=(), converter=tuple)  # submitted text, which may be shown as written


# Whatever a case says: no identifier, and not the target.
ANY_PATIENT = Forbidden(strings=[TARGET], patterns=[IDENTIFIER])


@frozen
class Trace:
    """One place where something forbidden was found, and by which decoding."""

    place: str
    what: str
    how: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what} ({self.how})"


def of_case(case: Case, *, sources: Iterable[str] = ()) -> Forbidden:
    """What the case forbids, and identifiers in any case."""
    return Forbidden(
        strings=dict.fromkeys((*case.must_never_appear, *ANY_PATIENT.strings)),
        patterns=dict.fromkeys((*case.must_never_match, *ANY_PATIENT.patterns)),
        sources=(*case.sources, *sources),
    )


def forbidden_in_tree(
    folder: Path, case: Case | Forbidden, *, sources: Iterable[str] = (), skip: Collection[str] = ()
) -> list[Trace]:
    """Every trace in the names and bytes of the files below `folder`; databases of SQLite are read as such.

    `sources` are further texts that may stand there as they are (the submitted notebook's cells are among
    them); `skip` are names of folders and files that are left out.
    """
    forbidden = case if isinstance(case, Forbidden) else of_case(case, sources=sources)
    found: list[Trace] = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if not set(skip).isdisjoint(relative.parts):
            continue
        found += in_bytes("name of a file", str(relative).encode(), forbidden)
        if path.is_file() and not path.is_symlink():
            found += in_bytes(str(relative), path.read_bytes()[:LARGEST], forbidden)
            found += [trace for blob in _database(path) for trace in in_bytes(str(relative), blob, forbidden)]
    return list(dict.fromkeys(found))


def in_files(files: Mapping[str, bytes], forbidden: Forbidden) -> list[Trace]:
    """Every trace in files that are held in memory, and in their names."""
    found: list[Trace] = []
    for name, data in files.items():
        found += in_bytes("name of a file", name.encode(), forbidden)
        found += in_bytes(name, data, forbidden)
    return list(dict.fromkeys(found))


def in_bytes(place: str, data: bytes, forbidden: Forbidden) -> list[Trace]:
    """Every trace in these bytes, after each decoding."""
    patterns = [re.compile(pattern) for pattern in forbidden.patterns]
    found: dict[tuple[str, str], Trace] = {}
    for how, blob in decoded(data):
        text = without(forbidden.sources, blob.decode("utf-8", "replace"))
        for string in forbidden.strings:
            if string in text:
                found.setdefault((string, how), Trace(place, string, how))
        for pattern in patterns:
            for match in pattern.finditer(text):
                found.setdefault((match.group(), how), Trace(place, match.group(), how))
    return list(found.values())


def without(sources: Iterable[str], text: str) -> str:
    """The text without the submitted source, where that stands in it as written (plain or as a JSON string)."""
    for source in sorted({s for s in sources if len(s) > 20}, key=len, reverse=True):
        for written in (source, json.dumps(source)[1:-1], json.dumps(source, ensure_ascii=False)[1:-1]):
            text = text.replace(written, "")
    return text


# -- decodings ----------------------------------------------------------------------------------------


def decoded(data: bytes, *, depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """The bytes as they are, then what each decoding makes of them, and of that again."""
    yield "as it is", data
    if depth >= DEEPEST:
        return
    for how, blob in _once(data):
        for further, inner in decoded(blob, depth=depth + 1):
            yield how if further == "as it is" else f"{how}, {further}", inner


def _once(data: bytes) -> Iterator[tuple[str, bytes]]:
    if data.startswith(PNG):
        yield from _png(data)
        return
    if data.startswith(b"\x1f\x8b"):
        with contextlib.suppress(OSError, EOFError, zlib.error):
            yield "gzip", gzip.decompress(data)
    if data.startswith(b"PK\x03\x04"):
        yield from _zip(data)
    for codec in ("utf-16-le", "utf-16-be"):
        if data.count(b"\0") * 3 > len(data):
            yield codec, data.decode(codec, "ignore").encode()
    yield from (("zlib", blob) for blob in _zlib(data))
    text = data.decode("utf-8", "ignore")
    values = list(_json_values(text))
    texts = [value for value in values if isinstance(value, str)] or [text]
    if values:
        yield "json", "\n".join(texts).encode()
    for one in texts:
        yield from (("ints", blob) for blob in _ints(one))
        yield from (("base64", blob) for blob in _base64(one))
    for value in values:
        if isinstance(value, list):
            yield "ints", bytes(n if 31 < n < 127 else 0 for n in value)


def _base64(text: str) -> Iterator[bytes]:
    """What stands in runs of the alphabet, also in those broken over lines."""
    for candidate in {*re.findall(r"[A-Za-z0-9+/_-]{12,}={0,2}", text), *_broken(text)}:
        plain = candidate.rstrip("=").replace("-", "+").replace("_", "/")
        if len(plain) % 4 == 1:
            plain = plain[:-1]
        try:
            yield base64.b64decode(plain + "=" * (-len(plain) % 4))
        except (binascii.Error, ValueError):
            continue


def _broken(text: str) -> list[str]:
    return [re.sub(r"\s", "", found) for found in re.findall(r"(?:[A-Za-z0-9+/]{40,}\s)+[A-Za-z0-9+/]*={0,2}", text)]


def _zlib(data: bytes) -> Iterator[bytes]:
    """Every deflated stream with zlib's header that begins anywhere in the bytes."""
    for match in list(re.finditer(rb"\x78[\x01\x5e\x9c\xda]", data))[:200]:
        try:
            blob = zlib.decompressobj().decompress(data[match.start() :], LARGEST)
        except zlib.error:
            continue
        if blob:
            yield blob


def _zip(data: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield "zip comment", archive.comment
            for entry in archive.infolist():
                yield "zip name", entry.filename.encode() + b"\n" + entry.comment
                if entry.file_size <= LARGEST:
                    yield "zip", archive.read(entry)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError):
        return


def _ints(text: str) -> Iterator[bytes]:
    """Numbers read as characters: along the text, and down each column from either side."""
    plain = re.sub(r"<[^>]*>", " ", html.unescape(text))
    rows = [[int(n) for n in re.findall(r"(?<![\w.-])\d{2,3}(?![\w.-])", line)] for line in plain.splitlines()]
    flat = [n for row in rows for n in row]
    if len(flat) < 6:
        return
    for step in range(1, 9):
        for start in range(step):
            yield _characters(flat[start::step])
    for column in range(8):
        yield _characters([row[column] for row in rows if len(row) > column])
        yield _characters([row[-1 - column] for row in rows if len(row) > column])


def _characters(numbers: Iterable[int]) -> bytes:
    return bytes(n if 31 < n < 127 else 0 for n in numbers)


def _json_values(text: str) -> Iterator[Any]:
    """The strings, keys and lists of small numbers of a JSON text; lists of strings are joined, as notebooks do."""
    if text[:1] not in "{[":
        return
    try:
        todo = [json.loads(text)]
    except (ValueError, RecursionError):
        return
    while todo:
        value = todo.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from value
            todo += value.values()
        elif isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            yield "".join(value)
        elif isinstance(value, list) and len(value) > 5 and all(type(item) is int for item in value):
            yield value
        elif isinstance(value, list):
            todo += value


def _png(data: bytes) -> Iterator[tuple[str, bytes]]:
    """What stands in a picture beside the picture, and its pixels, whole and by channel."""
    at = len(PNG)
    while at + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        chunk = data[at + 8 : at + 8 + size]
        if kind not in (b"IDAT", b"IHDR", b"IEND"):
            yield "png-text", chunk
        at += size + 12
    yield "after the png", data[at:]
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            drawn = image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGB")
            yield "png-pixels", drawn.tobytes()
            for band in drawn.split():
                yield "png-pixels", band.tobytes()
    except OSError:
        return


def _database(path: Path) -> Iterator[bytes]:
    """Each value in a SQLite database: long ones are scattered over its pages."""
    with path.open("rb") as file:
        if file.read(15) != b"SQLite format 3":
            return
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        for table in tables:
            for row in database.execute(f'select * from "{table}"'):
                for value in row:
                    if value is not None:
                        yield value if isinstance(value, bytes) else str(value).encode()

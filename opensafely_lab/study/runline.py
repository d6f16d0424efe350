"""The `run:` line of an action: which image, which version, which words. Read, never executed."""

from __future__ import annotations

import re
import shlex
from pathlib import PurePosixPath

from attrs import frozen

from opensafely_lab.study.patterns import matches, mistake_in_path

MAX_LENGTH = 20_000
_HEAD = re.compile(r"([A-Za-z0-9][A-Za-z0-9._/-]*):(v[0-9]+(?:\.[0-9]+)*(?:-[A-Za-z0-9.]+)?|dev|latest)\Z")
_UNVERSIONED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*\Z")


class BadRunLine(ValueError):
    """Why a run line cannot be read: the rest of a sentence that begins with the action's name."""


@frozen
class RunLine:
    """`image:version words...`. `args` are the words after the image, as a shell would split them."""

    image: str
    version: str
    args: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.image}:{self.version}"


@frozen
class DatasetArgs:
    """The words of `ehrql:v1 generate-dataset` that this product acts upon.

    `user_args` are those after `--`, for the definition's own `get_parameter`.
    """

    definition: PurePosixPath
    output: str
    dummy_tables: PurePosixPath | None
    dummy_data_file: PurePosixPath | None
    user_args: tuple[str, ...]


def parse_run(text: str) -> RunLine:
    """Raises `BadRunLine`."""
    if not text.strip():
        raise BadRunLine("has an empty `run`; it begins with an image, such as `notebook:v1 analysis/report.ipynb`")
    if len(text) > MAX_LENGTH:
        raise BadRunLine(f"has a `run` of more than {MAX_LENGTH} characters")
    try:
        words = shlex.split(text)
    except ValueError:
        raise BadRunLine("has a `run` with a quote that is never closed") from None
    if not words:
        raise BadRunLine("has an empty `run`")
    head = words[0]
    found = _HEAD.match(head)
    if found:
        return RunLine(found[1], found[2], tuple(words[1:]))
    if _UNVERSIONED.match(head):
        raise BadRunLine(
            f"uses `{_short(head)}` without a version; it must have one in the form `:vN`, such as `{_short(head)}:v1`"
        )
    raise BadRunLine(f"has a `run` that begins with `{_short(head)}`; it must be `image:vN`, such as `notebook:v1`")


def notebook_path(run: RunLine) -> PurePosixPath:
    """The notebook of a `notebook:v1` line. Raises `BadRunLine`."""
    if not run.args:
        raise BadRunLine("names no notebook; write `notebook:v1 analysis/NAME.ipynb`")
    if len(run.args) > 1:
        raise BadRunLine("has words after the notebook; parameters go under `config: parameters:`")
    path = run.args[0]
    wrong = mistake_in_path(path)
    if wrong:
        raise BadRunLine(f"has a notebook path that {wrong}")
    if not path.endswith(".ipynb") or path.endswith("/.ipynb") or path == ".ipynb":
        raise BadRunLine(f"runs `{_short(path)}`, which is no notebook: its name must end in `.ipynb`")
    return PurePosixPath(path)


def is_generate_dataset(run: RunLine) -> bool:
    return run.image in ("ehrql", "databuilder") and bool(run.args) and run.args[0] == "generate-dataset"


def dataset_args(run: RunLine) -> DatasetArgs:
    """The parts of a `generate-dataset` line. Raises `BadRunLine`."""
    words = list(run.args[1:])
    user_args: tuple[str, ...] = ()
    if "--" in words:
        at = words.index("--")
        words, user_args = words[:at], tuple(words[at + 1 :])
    options: dict[str, str] = {}
    plain: list[str] = []
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            name, equals, given = word.partition("=")
            if not equals:
                if not words:
                    raise BadRunLine(f"has `{_short(name)}` with nothing after it")
                given = words.pop(0)
            if name in options:
                raise BadRunLine(f"has `{_short(name)}` twice")
            options[name] = given
        elif word.startswith("-") and word != "-":
            raise BadRunLine(f"has the unknown option `{_short(word)}`")
        else:
            plain.append(word)
    if len(plain) != 1:
        raise BadRunLine("must name one dataset definition, such as `analysis/dataset_definition.py`")
    if "--output" not in options:
        raise BadRunLine("has no `--output` in its `run`, so the dataset would go nowhere")
    return DatasetArgs(
        definition=_study_path(plain[0], "dataset definition"),
        output=options["--output"],
        dummy_tables=_optional_path(options, "--dummy-tables"),
        dummy_data_file=_optional_path(options, "--dummy-data-file"),
        user_args=user_args,
    )


def writes(output: str, pattern: str) -> bool:
    """Whether what `--output` says is what the pattern in `outputs:` stands for.

    `--output` may be a file, or a folder of files (`folder/` or `folder:arrow`).
    """
    if matches(pattern, output):
        return True
    folder, colon, kind = output.rpartition(":")
    if colon:
        under = PurePosixPath(pattern)
        return str(under.parent) == str(PurePosixPath(folder)) and under.name.endswith(f".{kind}")
    return output.endswith("/") and str(PurePosixPath(pattern).parent) == str(PurePosixPath(output))


def _optional_path(options: dict[str, str], name: str) -> PurePosixPath | None:
    return _study_path(options[name].removesuffix("/"), f"`{name}`") if name in options else None


def _study_path(text: str, what: str) -> PurePosixPath:
    text = text.removeprefix("./")
    wrong = mistake_in_path(text)
    if wrong:
        raise BadRunLine(f"has a {what} that {wrong}")
    return PurePosixPath(text)


def _short(text: str) -> str:
    flat = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return flat if len(flat) <= 60 else flat[:59] + "…"

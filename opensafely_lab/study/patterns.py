"""Output paths as project.yaml declares them: one wildcard, `*`, within one folder level."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

# File types that a published study may declare as moderately_sensitive (case-sensitive).
LEVEL4_SUFFIXES = (
    ".csv", ".jpg", ".jpeg", ".png", ".svg", ".svgz", ".html", ".txt", ".log", ".json", ".md",
)  # fmt: skip


def mistake_in_path(text: str) -> str | None:
    """Why `text` is no path within a study: the end of a sentence that begins with the path. None if it is one."""
    if not text:
        return "is empty"
    if not text.isprintable():
        return "holds a character that cannot be printed"
    if len(text) > 500:
        return "is longer than 500 characters"
    if "\\" in text:
        return "has a back slash; use only forward slashes"
    windows = PureWindowsPath(text)
    if text.startswith("/") or windows.drive or windows.root:
        return "must be relative to the study's folder"
    if text.startswith("~"):
        return "must not begin with `~`"
    if ".." in text.split("/"):
        return "must not leave the study's folder with `..`"
    if str(PurePosixPath(text)) != text:
        return f"is not written plainly; write `{PurePosixPath(text)}`"
    if text == ".":
        return "must name a file"
    if text.split("/")[0].lower() == ".git":
        return "must not be in `.git`"
    return None


def mistake_in_pattern(text: str, level: str) -> str | None:
    """Why `text` cannot be declared as an output of `level`; None if it can."""
    wrong = mistake_in_path(text)
    if wrong:
        return wrong
    if "**" in text:
        return "has `**`; a `*` stands for one name or part of it"
    if any(mark in text for mark in "?[]"):
        return "may have no wildcard but `*`"
    suffix = PurePosixPath(text).suffix
    if not suffix or suffix == ".":
        return "must have a file type extension at the end"
    if suffix.endswith("*"):
        return "must have an extension that does not end in `*`"
    if text.split("/")[0] == "metadata":
        return "must not be in `metadata`, which is used by the platform"
    if level == "moderately_sensitive" and suffix not in LEVEL4_SUFFIXES:
        return f"is not an allowed file type for moderately_sensitive outputs ({' '.join(LEVEL4_SUFFIXES)})"
    return None


def matches(pattern: str, path: str) -> bool:
    """Whether `path` is one of the files that `pattern` stands for. Time is at most their lengths multiplied."""
    wanted, found = pattern.split("/"), path.split("/")
    return len(wanted) == len(found) and all(_matches_name(w, f) for w, f in zip(wanted, found, strict=True))


def _matches_name(pattern: str, name: str) -> bool:
    p = n = 0
    star = after = -1
    while n < len(name):
        if p < len(pattern) and pattern[p] == "*":
            star, after = p, n
            p += 1
        elif p < len(pattern) and pattern[p] == name[n]:
            p, n = p + 1, n + 1
        elif star >= 0:
            after += 1
            p, n = star + 1, after
        else:
            return False
    return pattern[p:].strip("*") == ""

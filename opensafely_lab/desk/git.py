"""The study's git repository on this computer: what is committed, what is not, and committing now.

git runs as the person at this desk, with their own configuration and hooks where they commit, and
with neither where we only look. Everything that can go wrong with git is one sentence.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Self

from attrs import frozen

from opensafely_lab.desk import stripfilter
from opensafely_lab.errors import PlatformError, Refused
from opensafely_lab.jobs import bundle
from opensafely_lab.study.ids import CommitSha

SECONDS = 60
MAX_BLOB = 64 * 1024 * 1024
COMMIT_SECONDS = 300  # somebody's pre-commit hook may run tests


class GitError(Refused):
    """git did not do what was asked."""

    code = "git"


class NotARepository(GitError):
    code = "not-a-repository"


class GitMissing(PlatformError):
    code = "git-missing"


@frozen
class Changes:
    """What differs from the last commit: paths within the repository, sorted."""

    paths: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.paths)

    def words(self, limit: int = 3) -> str:
        few = ", ".join(_shown(path) for path in self.paths[:limit])
        rest = len(self.paths) - limit
        return few + (f" and {rest} more" if rest > 0 else "")


@frozen
class Repository:
    """One working copy. `top` is its folder, with links resolved."""

    top: Path
    foreign: bool = False  # it belongs to another user, and we are root

    @classmethod
    def find(cls, path: Path) -> Self:
        """The working copy that holds `path`. Raises `NotARepository`, `GitError`, `GitMissing`."""
        folder = (path if path.is_dir() else path.parent).resolve()
        if not folder.is_dir():
            raise NotARepository(f"There is no folder {folder}.", next_step="Look at the path for a mistake.")
        words = ("rev-parse", "--is-inside-work-tree", "--show-toplevel")
        done = _run(folder, words)
        foreign = False
        if b"dubious ownership" in done.stderr or b"unsafe repository" in done.stderr:
            top = _enclosing(folder)
            if top is None or os.geteuid() != 0:
                raise GitError(
                    f"The repository {top or folder} belongs to another user, so git refuses to work in it.",
                    next_step=f"If you trust it: git config --global --add safe.directory {top or folder}",
                )
            # Root may read it anyway: say for these commands, and this folder alone, that it is meant.
            foreign, done = True, _run(folder, words, safe=top)
        lines = done.stdout.decode("utf-8", "surrogateescape").split("\n")
        if done.returncode != 0 and lines[0] != "false":
            raise NotARepository(
                f"The folder {folder} is not in a git repository.",
                next_step="Make one of the study's folder: git init, then commit its files.",
            )
        if lines[0] != "true":
            raise NotARepository(
                f"The folder {folder} is inside git's own folder or a bare repository.",
                next_step="Open the study in a working copy.",
            )
        return cls(Path(lines[1]).resolve(), foreign)

    def relative(self, path: Path) -> PurePosixPath:
        """`path` as git names it. Raises `GitError` if it is outside."""
        try:
            return PurePosixPath(path.resolve().relative_to(self.top))
        except ValueError:
            raise GitError(f"{path.name} is not in the repository {self.top}.") from None

    def head(self) -> CommitSha:
        """Raises `GitError` if nothing was ever committed."""
        done = self._look("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        if done.returncode != 0:
            raise GitError(
                "Nothing has been committed in this repository yet.", next_step="Commit the study's files first."
            )
        text = done.stdout.decode().strip()
        if len(text) != 40:
            raise GitError("The repository uses SHA-256 object names, which are not supported.")
        return CommitSha(text)

    def dirty(self, *also: PurePosixPath) -> Changes:
        """Tracked files that differ from the last commit, and those of `also` that are in no commit.

        Filters count: a notebook whose only change is its output is unchanged where the filter strips it.
        """
        # Not `git status`: it calls a file changed when its size is another, before any filter is asked.
        compare = ("-c", "diff.autoRefreshIndex=true", "diff", "--name-only", "--no-renames", "--no-ext-diff",
                   "--no-textconv", "--ignore-submodules=none", "-z")  # fmt: skip
        base = "HEAD" if self._look("rev-parse", "--verify", "--quiet", "HEAD").returncode == 0 else "--cached"
        paths = {name.decode("utf-8", "replace") for name in self._ask(*compare, base).stdout.split(b"\x00") if name}
        for path in also:
            if (self.top / path).exists() and not self._ask("ls-files", "-z", "--", str(path)).stdout:
                paths.add(str(path))
        return Changes(tuple(sorted(paths)))

    def blob(self, path: PurePosixPath, commit: CommitSha) -> bytes | None:
        """The committed bytes of a file; None if the commit has no such file."""
        name = f"{commit}:{path}"
        kind = self._look("cat-file", "-t", name)
        if kind.returncode != 0 or kind.stdout.strip() != b"blob":
            return None
        size = self._ask("cat-file", "-s", name).stdout.strip()
        if int(size) > MAX_BLOB:
            raise GitError(f"{_shown(str(path))} is larger than {MAX_BLOB >> 20} MB.", next_step="Make it smaller.")
        return self._ask("cat-file", "blob", name).stdout

    def tree(self, commit: CommitSha) -> str:
        """The id of the commit's tree: equal for commits of equal content."""
        return self._ask("rev-parse", f"{commit}^{{tree}}").stdout.decode().strip()

    def branch(self) -> str | None:
        done = self._look("symbolic-ref", "--quiet", "--short", "HEAD")
        return done.stdout.decode("utf-8", "replace").strip() or None if done.returncode == 0 else None

    def bundle(self, commit: CommitSha) -> bytes:
        """One commit's files, without history. Raises `bundle.BundleError`."""
        return bundle.make(self.top, commit.text)

    def commit_now(self, message: str, *also: PurePosixPath, who: str = "analyst") -> CommitSha:
        """Commit every tracked file as it is, and `also`; the last commit if that changes nothing.

        Where git knows no name and e-mail, `who` stands in for this one commit. Hooks run, as they would
        for the person. Raises `GitError`.
        """
        if self._look("ls-files", "--unmerged", "-z").stdout:
            raise GitError(
                "A merge is not finished: some files are in conflict.",
                next_step="Resolve the conflicts and commit, then try again.",
            )
        self._act("add", "--update")
        for path in also:
            self._act("add", "--force", "--", str(path))
        return self._commit(message, who)

    def commit_all(self, message: str, who: str = "analyst") -> CommitSha:
        """Commit everything in the folder that is not ignored: the first commit of a new study."""
        self._act("add", "--all")
        return self._commit(message, who)

    def _commit(self, message: str, who: str) -> CommitSha:
        if self._look("rev-parse", "--verify", "--quiet", "HEAD").returncode == 0 and not self._staged():
            return self.head()
        done = self._run(
            *self._identity(who), "-c", "commit.gpgSign=false", "commit", "--quiet", "--message", message,
            seconds=COMMIT_SECONDS, hooks=True,
        )  # fmt: skip
        if done.returncode != 0:
            raise GitError(
                f"git did not make the commit: {_first_line(done.stderr or done.stdout)}.",
                next_step="Commit by hand in a terminal, then try again.",
            )
        return self.head()

    def install_filter(self, *, attributes: bool) -> None:
        """Keep saved output of notebooks out of every commit of this clone.

        `attributes` also writes which files it is for into `.git/info`, where no commit sees it.
        """
        self._act("config", f"filter.{stripfilter.NAME}.clean", stripfilter.filter_command())
        if attributes:
            said = self._ask("rev-parse", "--git-path", "info/attributes").stdout.decode().strip()
            path = self.top / said
            path.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text() if path.exists() else ""
            if stripfilter.ATTRIBUTE not in text.splitlines():
                path.write_text(f"{text.rstrip()}\n{stripfilter.ATTRIBUTE}\n".lstrip())

    def has_filter(self, notebook: PurePosixPath) -> bool:
        """Whether this clone strips the notebook when it is committed."""
        said = self._look("check-attr", "-z", "filter", "--", str(notebook)).stdout.split(b"\x00")
        configured = self._look("config", "--get", f"filter.{stripfilter.NAME}.clean").returncode == 0
        return configured and len(said) > 2 and said[2] == stripfilter.NAME.encode()

    def strips(self, notebook: PurePosixPath) -> bool:
        """Whether git, asked now, would commit the notebook on the desk without its output: tried, not read."""
        try:
            wanted, _ = stripfilter.stripped((self.top / notebook).read_bytes())
        except OSError:
            return False
        made = self._look("hash-object", f"--path={notebook}", "--", str(notebook))
        expected = hashlib.sha1(b"blob %d\x00%b" % (len(wanted), wanted), usedforsecurity=False).hexdigest()
        return made.returncode == 0 and made.stdout.decode().strip() == expected

    def strip_now(self, notebook: PurePosixPath, message: str, who: str = "analyst") -> CommitSha:
        """Commit the notebook without its saved output. The file that is open on the desk keeps it."""
        self.install_filter(attributes=True)
        if not self.strips(notebook):
            raise GitError(
                f"The git filter that strips {_shown(str(notebook))} does not work here; it may have another one.",
                next_step="Clear the notebook's outputs, save it and commit it.",
            )
        self._act("add", "--renormalize", "--", str(notebook))
        return self.commit_now(message, notebook, who=who)

    def _staged(self) -> bool:
        return self._look("diff", "--cached", "--quiet", "--ignore-submodules=none").returncode != 0

    def _identity(self, who: str) -> tuple[str, ...]:
        words: list[str] = []
        plain = re.sub(r"[^\w .@-]", "", who).strip() or "analyst"
        for key, text in (("user.name", plain), ("user.email", f"{re.sub(r'[^A-Za-z0-9.-]', '', plain)}@localhost")):
            variable = f"GIT_AUTHOR_{key[5:].upper()}"
            if not os.environ.get(variable) and not self._look("config", "--get", key).stdout.strip():
                words += ["-c", f"{key}={text}"]
        return tuple(words)

    def _look(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        return self._run(*words, seconds=SECONDS, hooks=False)

    def _ask(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        done = self._look(*words)
        if done.returncode != 0:
            raise GitError(f"git could not read the repository: {_first_line(done.stderr)}.")
        return done

    def _act(self, *words: str) -> None:
        done = self._run(*words, seconds=SECONDS, hooks=True)
        if done.returncode != 0:
            locked = b"index.lock" in done.stderr
            raise GitError(
                "Another git command is at work in this repository."
                if locked
                else f"git could not take the change: {_first_line(done.stderr)}.",
                next_step="Wait for it, or remove .git/index.lock if none is." if locked else "",
            )

    def _run(self, *words: str, seconds: float, hooks: bool) -> subprocess.CompletedProcess[bytes]:
        quiet = (
            () if hooks and not self.foreign else ("-c", f"core.hooksPath={os.devnull}", "-c", "core.fsmonitor=false")
        )
        return _run(self.top, (*quiet, *words), safe=self.top if self.foreign else None, seconds=seconds, locks=hooks)


def create(folder: Path) -> Repository:
    """A new repository in `folder`. Raises `GitError`, `GitMissing`."""
    done = _run(folder, ("-c", "init.defaultBranch=main", "init", "--quiet"))
    if done.returncode != 0:
        raise GitError(f"git could not make a repository in {folder}: {_first_line(done.stderr)}.")
    return Repository(folder.resolve())


def _run(
    folder: Path, words: Iterable[str], *, safe: Path | None = None, seconds: float = SECONDS, locks: bool = True
) -> subprocess.CompletedProcess[bytes]:
    git = shutil.which("git")
    if git is None:
        raise GitMissing("git is not installed on this computer.", next_step="Install git and try again.")
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("GIT_DIR", "GIT_WORK_TREE"))}
    for name in ("GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_NAMESPACE"):
        environment.pop(name, None)
    environment.update(LC_ALL="C", GIT_TERMINAL_PROMPT="0", GIT_EDITOR="true", GIT_PAGER="cat", GIT_ASKPASS="true")
    environment["GIT_LITERAL_PATHSPECS"] = "1"  # a file may be called `*`
    if not locks:
        environment["GIT_OPTIONAL_LOCKS"] = "0"
    declared = ("-c", f"safe.directory={safe}") if safe is not None else ()
    try:
        return subprocess.run(
            [git, *declared, *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise GitError(
            f"git gave no answer for {seconds:.0f} seconds.", next_step="Run `git status` in a terminal to see why."
        ) from None
    except OSError as error:
        raise GitError(f"git could not be started in {folder} ({error.strerror}).") from None


def _enclosing(folder: Path) -> Path | None:
    return next((at for at in (folder, *folder.parents) if (at / ".git").exists()), None)


def _shown(path: str) -> str:
    flat = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in path)
    return flat if len(flat) <= 80 else "…" + flat[-79:]


def _first_line(message: bytes) -> str:
    """git's own words, for what it says about a repository: one line, printable, short."""
    lines = [line.strip() for line in message.decode("utf-8", "replace").splitlines() if line.strip()]
    telling = next(
        (line for line in lines if line.startswith(("fatal:", "error:"))), lines[0] if lines else "no reason given"
    )
    return _shown(re.sub(r"^(fatal|error): ", "", telling)).rstrip(".")

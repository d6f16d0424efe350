"""The study's repository on the desk: what is committed, committing now, and output that stays out of commits."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from opensafely_lab.desk import git, new_study, shipped, stripfilter
from opensafely_lab.desk.git import GitError, GitMissing, NotARepository, Repository
from opensafely_lab.errors import LabError, PlatformError
from opensafely_lab.jobs.bundle import BundleError
from opensafely_lab.notebooks.source import write

NOTEBOOK = PurePosixPath("analysis/report.ipynb")


def run(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def notebook(*, output: str | None = None) -> bytes:
    outputs = [{"output_type": "stream", "name": "stdout", "text": output}] if output else []
    cell = {"cell_type": "code", "source": "1", "metadata": {}, "outputs": outputs, "execution_count": None}
    return write({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A computer on which nobody has told git who they are."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(git.__file__).parents[2]))
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    (folder / "analysis").mkdir(parents=True)
    (folder / "project.yaml").write_text("version: 5\n")
    (folder / NOTEBOOK).write_bytes(notebook())
    git.create(folder).commit_all("first")
    return folder


def test_a_repository_is_found_from_any_folder_or_file_in_it(study: Path) -> None:
    for path in (study, study / "analysis", study / NOTEBOOK):
        assert Repository.find(path).top == study.resolve()


def test_what_is_no_repository_is_a_sentence_each(study: Path, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(NotARepository, match="is not in a git repository"):
        Repository.find(tmp_path)
    with pytest.raises(NotARepository, match="There is no folder"):
        Repository.find(tmp_path / "missing" / "deeper")
    with pytest.raises(NotARepository, match=r"git's own folder|bare"):
        Repository.find(study / ".git")
    empty = tmp_path / "empty"
    empty.mkdir()
    git.create(empty)
    with pytest.raises(GitError, match="Nothing has been committed"):
        Repository.find(empty).head()
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(GitMissing, match="git is not installed"):
        Repository.find(study)


def test_a_repository_that_git_inherited_by_environment_is_not_taken(study: Path, tmp_path: Path, monkeypatch) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git.create(other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / "index"))
    assert Repository.find(study).top == study.resolve()
    assert not Repository.find(study).dirty()


def test_changed_tracked_files_and_a_new_notebook_are_dirty_and_other_new_files_are_not(study: Path) -> None:
    repository = Repository.find(study)
    (study / "scratch.txt").write_text("x")
    assert not repository.dirty(NOTEBOOK)
    (study / "new*.ipynb").write_bytes(notebook())
    (study / "project.yaml").write_text("version: 4\n")
    changes = repository.dirty(NOTEBOOK, PurePosixPath("new*.ipynb"), PurePosixPath("absent.ipynb"))
    assert changes.paths == ("new*.ipynb", "project.yaml")
    assert changes.words(1) == "new*.ipynb and 1 more"
    run(study, "mv", "project.yaml", "p é.yaml")
    assert repository.dirty().paths == ("p é.yaml", "project.yaml")
    run(study, "reset", "-q", "--hard")
    (study / "project.yaml").chmod(0o755)
    assert repository.dirty().paths == ("project.yaml",)
    (study / "project.yaml").unlink()
    assert repository.dirty().paths == ("project.yaml",)


def test_commit_now_takes_tracked_files_and_the_notebook_and_needs_no_identity(study: Path) -> None:
    repository = Repository.find(study)
    (study / "project.yaml").write_text("version: 4\n")
    (study / "scratch.txt").write_text("x")
    (study / ".gitignore").write_text("*.ipynb\n")
    (study / "new.ipynb").write_bytes(notebook())
    commit = repository.commit_now("Submit; $(touch x) `id`", PurePosixPath("new.ipynb"), who="ada <x>\n")
    assert repository.blob(PurePosixPath("project.yaml"), commit) == b"version: 4\n"
    assert repository.blob(PurePosixPath("new.ipynb"), commit) is not None
    assert repository.blob(PurePosixPath("scratch.txt"), commit) is None
    assert run(study, "log", "-1", "--format=%an|%ae|%s") == "ada x|adax@localhost|Submit; $(touch x) `id`"
    assert not repository.dirty(PurePosixPath("new.ipynb"))
    assert repository.commit_now("again") == commit


def test_commit_now_keeps_the_identity_that_the_person_has_set(study: Path) -> None:
    run(study, "config", "user.name", "Ada")
    run(study, "config", "user.email", "ada@example.org")
    (study / "project.yaml").write_text("version: 4\n")
    Repository.find(study).commit_now("x")
    assert run(study, "log", "-1", "--format=%an %ae") == "Ada ada@example.org"


def test_a_hook_that_refuses_the_commit_is_told_in_its_words(study: Path) -> None:
    hook = study / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'error: no Friday commits' >&2\nexit 1\n")
    hook.chmod(0o755)
    (study / "project.yaml").write_text("version: 4\n")
    with pytest.raises(GitError, match="did not make the commit: no Friday commits"):
        Repository.find(study).commit_now("x")


def test_an_unfinished_merge_and_a_lock_are_a_sentence_each(study: Path) -> None:
    repository = Repository.find(study)
    (study / "project.yaml").write_text("version: 4\n")
    (study / ".git" / "index.lock").write_text("")
    with pytest.raises(GitError, match="Another git command is at work"):
        repository.commit_now("x")
    (study / ".git" / "index.lock").unlink()
    repository.commit_now("ours")
    run(study, "checkout", "-q", "-b", "theirs", "HEAD~1")
    (study / "project.yaml").write_text("version: 3\n")
    repository.commit_now("theirs")
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=b", "merge", "main"], cwd=study, capture_output=True, check=False
    )
    with pytest.raises(GitError, match="A merge is not finished"):
        repository.commit_now("x")


def test_a_blob_is_the_committed_bytes_whatever_lies_on_the_desk(study: Path) -> None:
    repository = Repository.find(study)
    commit = repository.head()
    (study / "project.yaml").write_text("changed")
    assert repository.blob(PurePosixPath("project.yaml"), commit) == b"version: 5\n"
    assert repository.blob(PurePosixPath("analysis"), commit) is None
    assert repository.blob(PurePosixPath("absent"), commit) is None


def test_shallow_clones_and_detached_heads_can_be_sent(study: Path, tmp_path: Path) -> None:
    run(tmp_path, "-c", "protocol.file.allow=always", "clone", "-q", "--depth=1", f"file://{study}", "shallow")
    clone = Repository.find(tmp_path / "shallow")
    run(clone.top, "checkout", "-q", "--detach")
    assert clone.branch() is None
    assert clone.bundle(clone.head()) == Repository.find(study).bundle(clone.head())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_root_may_work_in_a_repository_of_another_user_whose_hooks_then_do_not_run(study: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for path in (study, *study.rglob("*")):
        os.chown(path, 12345, 12345)
    hook = study / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {mark}\n")
    hook.chmod(0o755)
    repository = Repository.find(study / "analysis")
    assert repository.foreign
    (study / "project.yaml").write_text("version: 4\n")
    assert repository.dirty().paths == ("project.yaml",)
    repository.commit_now("x")
    repository.bundle(repository.head())
    assert not mark.exists()


def test_with_the_filter_output_stays_on_the_desk_and_out_of_commits(study: Path) -> None:
    repository = Repository.find(study)
    repository.install_filter(attributes=True)
    assert repository.has_filter(NOTEBOOK)
    (study / NOTEBOOK).write_bytes(notebook(output="patient 12345"))
    assert not repository.dirty(NOTEBOOK)
    run(study, "add", "-A")
    assert not repository.dirty(NOTEBOOK)
    assert b"12345" in (study / NOTEBOOK).read_bytes()


def test_strip_now_commits_without_the_output_and_leaves_the_open_file(study: Path) -> None:
    repository = Repository.find(study)
    (study / NOTEBOOK).write_bytes(notebook(output="patient 12345"))
    leaky = repository.commit_now("leaky")
    assert b"12345" in (repository.blob(NOTEBOOK, leaky) or b"")
    commit = repository.strip_now(NOTEBOOK, "Strip")
    assert b"12345" not in (repository.blob(NOTEBOOK, commit) or b"")
    assert b"12345" in (study / NOTEBOOK).read_bytes()
    assert not repository.dirty(NOTEBOOK)
    assert b"12345" not in b"".join(p.read_bytes() for p in study.glob("*.bundle"))


def test_strip_now_says_so_where_another_filter_has_the_notebooks(study: Path, monkeypatch) -> None:
    monkeypatch.setattr(stripfilter, "ATTRIBUTE", "# nothing")
    (study / ".gitattributes").write_text("*.ipynb filter=lfs\n")
    (study / NOTEBOOK).write_bytes(notebook(output="patient 12345"))
    with pytest.raises(GitError, match="does not work here"):
        Repository.find(study).strip_now(NOTEBOOK, "Strip")


@pytest.mark.parametrize("data", [b"", b"\n", b"not json", b"{}", b"\xff\x00", b'{"cells": 3, "nbformat": 4}'])
def test_the_filter_never_loses_what_is_no_notebook(data: bytes) -> None:
    out, err = io.BytesIO(), io.StringIO()
    assert stripfilter.run(io.BytesIO(data), out, err) == 0
    assert out.getvalue() == data
    assert bool(err.getvalue()) == bool(data.strip())


def test_the_filter_runs_as_git_calls_it_in_a_folder_that_shadows_its_imports(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    (tmp_path / "opensafely_lab").mkdir()
    done = subprocess.run(
        stripfilter.filter_command(), shell=True, cwd=tmp_path, input=notebook(output="12345"), capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert b'"outputs": []' in done.stdout
    assert b"12345" not in done.stdout


@pytest.fixture
def template(tmp_path: Path, monkeypatch) -> Path:
    root = tmp_path / "package"
    made = root / "templates" / "demo"
    (made / "analysis").mkdir(parents=True)
    (made / "project.yaml").write_text(f"version: 5\nactions:\n  report:\n    run: notebook:v1 {NOTEBOOK}\n")
    (made / NOTEBOOK).write_bytes(notebook(output="patient 12345"))
    (made / NOTEBOOK).chmod(0o444)
    monkeypatch.setattr(shipped, "PACKAGE", root)
    return made


def test_a_new_study_is_one_commit_without_output(template: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my study"
    assert new_study.make_study(folder, "demo")
    repository = Repository.find(folder)
    assert run(folder, "log", "--format=%s") == "Begin with the template demo"
    assert not repository.dirty(NOTEBOOK)
    assert b"12345" not in (repository.blob(NOTEBOOK, repository.head()) or b"")
    assert os.access(folder / NOTEBOOK, os.W_OK)
    assert new_study.first_notebook(folder) == str(NOTEBOOK)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_a_new_study_fills_an_empty_folder_in_place_and_refuses_any_other(template: Path, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    inode = folder.stat().st_ino
    new_study.create_study("demo", folder)
    assert folder.stat().st_ino == inode
    assert sorted(p.name for p in folder.iterdir()) == [".git", ".gitattributes", "analysis", "project.yaml"]
    assert not new_study.make_study(folder, "demo")
    with pytest.raises(new_study.CannotMakeStudy, match="is not empty"):
        new_study.create_study("demo", folder)
    (tmp_path / "file").write_text("x")
    with pytest.raises(LabError):
        new_study.create_study("demo", tmp_path / "file")
    with pytest.raises(PlatformError):
        new_study.create_study("absent", tmp_path / "another")


def test_a_disk_that_cannot_be_written_leaves_no_half_study(template: Path, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(new_study.shutil, "copytree", full)
    with pytest.raises(new_study.FolderNotWritten, match="No space left"):
        new_study.create_study("demo", tmp_path / "full")
    assert not (tmp_path / "full").exists()


def test_a_study_from_elsewhere_gets_the_filter_and_no_change(study: Path) -> None:
    assert not new_study.make_study(study)
    repository = Repository.find(study)
    assert repository.has_filter(NOTEBOOK)
    assert not repository.dirty(NOTEBOOK)


def test_a_link_in_the_commit_is_told_before_anything_is_sent(study: Path) -> None:
    (study / "link").symlink_to("/etc/passwd")
    repository = Repository.find(study)
    run(study, "add", "link")
    with pytest.raises(BundleError, match="symbolic link: link"):
        repository.bundle(repository.commit_now("x"))


def test_the_filter_starts_quickly_because_git_calls_it_for_every_notebook() -> None:
    code = "import sys; import opensafely_lab.desk.stripfilter as _; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydantic", "requests", "pandas", "duckdb", "nbformat", "sqlglot"} & set(loaded)

"""The root that a run sees as /: small, the same each time, and rebuilt when what it was made from changes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from executor_cases import PYTHON, a_spec, cache_folder

from opensafely_lab.jobs import root
from opensafely_lab.jobs.loop import run_to_end

pytestmark = pytest.mark.sandbox


def files_of(job_root: root.JobRoot) -> list[Path]:
    return [Path(folder, name) for folder, _, names in os.walk(job_root.path) for name in names]


def test_a_root_has_what_jobs_need_and_nothing_else(job_root):
    site = job_root.path / root.SITE
    there = {path.name for path in site.iterdir()}
    assert {"pandas", "pyarrow", "papermill", "ipykernel", "matplotlib", "attrs", "opensafely_lab"} <= there
    absent = {
        "rfc3987_syntax",
        "jupyter_server",
        "jupyterlab",
        "duckdb",
        "sqlglot",
        "pydantic",
        "fastapi",
        "pip",
        "docker",
    }
    assert not absent & there
    assert not any((site / "opensafely_lab" / name).exists() for name in ("labextension", "site", "backend", "desk"))


def test_a_root_has_no_shell_no_setuid_file_and_no_way_to_write(job_root):
    names = {path.name for path in files_of(job_root)}
    assert not {"sh", "bash", "dash", "busybox", "apt", "pip", "gcc", "ldconfig"} & names
    for path in files_of(job_root):
        mode = path.lstat().st_mode
        assert not stat.S_ISREG(mode) or mode & 0o7022 == 0, path


def test_every_module_is_compiled_beforehand(job_root):
    site = job_root.path / root.SITE
    tag = sys.implementation.cache_tag
    for module in (site / "pandas/__init__.py", site / "opensafely_lab/notebooks/execute.py"):
        compiled = module.parent / "__pycache__" / f"{module.stem}.{tag}.pyc"
        assert compiled.read_bytes()[4:8] == b"\x01\x00\x00\x00", "unchecked hash: never compared with its source"


def test_no_path_of_the_builder_is_in_our_modules(job_root):
    for path in (job_root.path / root.SITE / "opensafely_lab").rglob("*.pyc"):
        assert str(root.PACKAGE).encode() not in path.read_bytes()


def test_asking_again_is_nearly_free(job_root):
    began = time.thread_time()
    again = root.ensure_root(cache_folder())
    assert again == job_root
    assert time.thread_time() - began < 0.1


@pytest.fixture
def own_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of our source that a test may change."""
    package = tmp_path / "opensafely_lab"
    for name, _ in root._own_files():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_bytes((root.PACKAGE / name).read_bytes())
    (tmp_path / "pyproject.toml").write_bytes((root.PACKAGE.parent / "pyproject.toml").read_bytes())
    monkeypatch.setattr(root, "PACKAGE", package)
    return package


@pytest.mark.slow
def test_the_digest_follows_our_own_source_and_nothing_else(job_root, own_copy):
    same = root.ensure_root(cache_folder())
    assert same.digest == job_root.digest, "where the source lies does not matter"
    (own_copy / "notebooks" / "execute.py").touch()
    assert root.ensure_root(cache_folder()).digest == job_root.digest, "nor when it was written"
    (own_copy / "notebooks" / "execute.py").open("a").write("\n# changed\n")
    bases = sorted((cache_folder() / "bases").iterdir())
    changed = root.ensure_root(cache_folder())
    assert changed.digest != job_root.digest
    assert sorted((cache_folder() / "bases").iterdir()) == bases, "third-party packages are not copied again"
    assert "# changed" in (changed.path / root.SITE / "opensafely_lab/notebooks/execute.py").read_text()


@pytest.mark.slow
def test_two_builds_at_once_make_one_root_and_the_same_as_before(job_root, tmp_path):
    code = (
        "import sys; from pathlib import Path; from opensafely_lab.jobs.root import ensure_root\n"
        "print(ensure_root(Path(sys.argv[1])).digest)"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    builders = [subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [builder.communicate()[0].strip() for builder in builders] == [job_root.digest] * 2
    assert len(list((tmp_path / "roots").iterdir())) == 1
    assert list((tmp_path / "drafts").iterdir()) == []


def test_a_missing_package_is_one_sentence():
    with pytest.raises(root.RootUnbuildable) as refused:
        root.closure(["opensafely-lab-no-such-package"])
    assert refused.value.next_step


def test_time_zones_and_names_work_in_there(one_executor):
    code = (
        "import getpass, pwd, socket, zoneinfo, ssl, sqlite3, lzma, ctypes, multiprocessing\n"
        "print(zoneinfo.ZoneInfo('Europe/London'), pwd.getpwuid(64000).pw_name, socket.gethostbyname('localhost'))"
    )
    result = run_to_end(one_executor, a_spec(*PYTHON, "-c", code))
    assert result.log == b"Europe/London job 127.0.0.1\n"

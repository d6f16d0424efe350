"""One wheel, installed into a clean environment, brings everything; the source distribution builds without node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(*words: str | Path, cwd: Path, env: dict[str, str] | None = None, check: bool = True) -> str:
    done = subprocess.run(
        words, cwd=cwd, env=env or quiet_environment(), capture_output=True, text=True, check=False, timeout=600
    )
    if check:
        assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def quiet_environment(**more: str) -> dict[str, str]:
    """Ours without what would point at another Jupyter or another copy of this package."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "PYTHON", "OPENSAFELY_LAB"))} | more


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    environment = quiet_environment(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder, env=environment)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a new environment: the locked packages, and our wheel."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    pip = folder / "bin" / "pip"
    run(pip, "install", "--no-deps", "--require-hashes", "-r", ROOT / "requirements.lock", cwd=folder)
    run(pip, "install", "--no-deps", wheel, cwd=folder)
    return folder / "bin"


def test_the_wheel_has_each_part_once_and_nothing_of_this_computer(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert str(ROOT).encode() not in b"".join(archive.read(name) for name in names)
    data = {name.split(".data/data/")[1] for name in names if ".data/data/" in name}
    assert "etc/jupyter/jupyter_server_config.d/opensafely_lab.json" in data
    assert "share/jupyter/kernels/opensafely-lab/kernel.json" in data
    assert "share/jupyter/labextensions/opensafely-lab/package.json" in data
    assert "share/jupyter/labextensions/opensafely-lab/install.json" in data
    assert "opensafely_lab_ehrql.pth" in names
    assert "ehrql-stubs/tables/core.pyi" in names
    assert "opensafely_lab/py.typed" in names
    assert "opensafely_lab/templates/gi-bleeding/project.yaml" in names
    assert "opensafely_lab/demo/gibleed/manifest.json" in names
    assert not any(
        name.startswith(("opensafely_lab/labextension/", "tests/")) or "__pycache__" in name for name in names
    )
    assert any(name.endswith("licenses/NOTICE") for name in names)


def test_the_source_distribution_builds_the_same_wheel_without_node(built, wheel, tmp_path):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    source = next(tmp_path.iterdir())
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "env", "git"):
        (tools / name).symlink_to(shutil.which(name) or name)
    run(
        sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, source,
        cwd=tmp_path, env=quiet_environment(PATH=str(tools)),
    )  # fmt: skip
    again = next(tmp_path.glob("*.whl"))

    def contents(path: Path) -> dict[str, int]:
        with zipfile.ZipFile(path) as archive:
            return {i.filename: i.CRC for i in archive.infolist()}

    assert contents(again) == contents(wheel)


def test_a_clean_environment_has_no_conflicts_and_shows_every_part(clean, tmp_path):
    assert "No broken requirements found." in run(clean / "pip", "check", cwd=tmp_path)
    labs = run(clean / "jupyter", "labextension", "list", cwd=tmp_path)
    assert any("opensafely-lab" in line and "enabled" in line and "OK" in line for line in labs.splitlines()), labs
    servers = run(clean / "jupyter", "server", "extension", "list", cwd=tmp_path)
    assert any("opensafely_lab" in line and "OK" in line for line in servers.splitlines()), servers
    assert "opensafely-lab" in run(clean / "jupyter", "kernelspec", "list", cwd=tmp_path)


@pytest.mark.sandbox
def test_the_doctor_of_a_clean_environment_is_content(clean, tmp_path):
    environment = quiet_environment(OPENSAFELY_LAB_STATE=str(tmp_path / "s"), OPENSAFELY_LAB_CACHE=str(tmp_path / "c"))
    tmp_path.chmod(0o755)
    words = [clean / "opensafely-lab", "doctor", "--json"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    said = json.loads(done.stdout)
    assert [c for c in said["checks"] if c["needed"] and not c["ok"]] == []
    assert done.returncode == 0
    assert {c["name"] for c in said["checks"] if not c["ok"]} == {"site", "backend"}


def test_a_clean_environment_makes_a_study_and_finds_the_records(clean, tmp_path):
    environment = quiet_environment(HOME=str(tmp_path))
    run(clean / "opensafely-lab", "init", "study", cwd=tmp_path, env=environment)
    assert run("git", "status", "--porcelain", cwd=tmp_path / "study", env=environment) == ""
    code = "from opensafely_lab.desk.shipped import demo_records; print(demo_records())"
    assert str(clean.parent) in run(clean / "python", "-c", code, cwd=tmp_path)


def test_import_ehrql_works_in_a_clean_environment(clean, tmp_path):
    code = "import ehrql, ehrql.tables.core, opensafely_lab.ehrql; print(ehrql is opensafely_lab.ehrql)"
    assert run(clean / "python", "-c", code, cwd=tmp_path).strip() == "True"


def test_editors_and_mypy_know_the_types_of_ehrql(clean, tmp_path):
    (tmp_path / "definition.py").write_text(
        "from ehrql import create_dataset\n"
        "from ehrql.tables.core import patients\n"
        "dataset = create_dataset()\n"
        "reveal_type(create_dataset)\n"
        "dataset.sex = patients.sex\n"
        "patients.not_a_column\n"
    )
    said = run(clean / "mypy", "--python-executable", clean / "python", "definition.py", cwd=tmp_path, check=False)
    assert "opensafely_lab.ehrql.language" in said
    assert '"not_a_column"' in said
    assert "import" not in said

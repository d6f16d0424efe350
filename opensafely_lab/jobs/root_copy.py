"""Copies Python, packages and libraries of this environment into a job's root. See `root`."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from opensafely_lab.errors import PlatformError

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
SITE = PurePosixPath("opt/venv/lib", PYTHON, "site-packages")
FONTS = PurePosixPath("opt/venv/share/matplotlib")

# Of the standard library: what needs a terminal, a display or a compiler, or only tests Python itself.
NOT_FOR_JOBS = {
    "__pycache__",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "turtledemo",
    "ensurepip",
    "lib2to3",
    "tkinter",
    "pydoc_data",
}
NOT_OF_PACKAGES = {"__pycache__", "tests"}  # pandas' and matplotlib's own tests are a quarter of the whole
HEADERS = (
    "pyarrow/include/",
    "pyarrow/src/",
    "numpy/_core/include/",
    "numpy/f2py/",
    "matplotlib/mpl-data/sample_data/",
)


class RootUnbuildable(PlatformError):
    """The root of jobs cannot be made from this environment."""

    code = "root-unbuildable"


def copy_python(root: Path) -> None:
    """The interpreter and its standard library, wherever this Python keeps them."""
    binary = Path(os.path.realpath(sys.executable))
    (root / "opt/base/bin").mkdir(parents=True)
    shutil.copy2(binary, root / "opt/base/bin" / PYTHON)
    (root / "opt/base/bin/python3").symlink_to(PYTHON)
    names = ("base", "installed_base", "platbase", "installed_platbase")
    paths = sysconfig.get_paths(vars=dict.fromkeys(names, sys.base_prefix))
    target = root / "opt/base/lib" / PYTHON

    def leave_out(folder: str, names: list[str]) -> set[str]:
        beginnings = ("config-", "_tkinter.", "EXTERNALLY")
        return {name for name in names if name in NOT_FOR_JOBS or name.startswith(beginnings)}

    for source in dict.fromkeys((paths["stdlib"], paths["platstdlib"])):
        shutil.copytree(source, target, ignore=leave_out, dirs_exist_ok=True)
    (target / "site-packages").mkdir()
    venv = root / "opt/venv"
    (venv / "bin").mkdir(parents=True)
    (root / SITE).mkdir(parents=True)
    for name in ("python", "python3", PYTHON):
        (venv / "bin" / name).symlink_to(f"/opt/base/bin/{PYTHON}")
    version = ".".join(map(str, sys.version_info[:3]))
    (venv / "pyvenv.cfg").write_text(
        f"home = /opt/base/bin\ninclude-system-site-packages = false\nversion = {version}\n"
    )


def copy_distributions(root: Path, distributions: dict[str, importlib.metadata.Distribution]) -> None:
    site = root / SITE
    for name, distribution in distributions.items():
        files = distribution.files
        if files is None:
            raise RootUnbuildable(
                f"The package {name} does not list its files.",
                next_step=f"Reinstall it: `pip install --force-reinstall {name}`.",
            )
        for file in files:
            path = PurePosixPath(file)
            if _wanted(path):
                target = site / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(distribution.locate_file(file)), target)


def _wanted(path: PurePosixPath) -> bool:
    """Modules, their data, and of the metadata what programs ask for. Scripts and paths of this host stay here."""
    if path.is_absolute() or ".." in path.parts or not NOT_OF_PACKAGES.isdisjoint(path.parts):
        return False
    if path.parts[0].endswith(".dist-info"):
        return path.name in ("METADATA", "entry_points.txt", "top_level.txt")
    return not str(path).startswith(HEADERS)


def copy_libraries(root: Path) -> None:
    """The shared libraries that anything in the root loads: one flat folder, found from every usual name."""
    (root / "lib").mkdir()
    (root / "usr").mkdir()
    for link, to in (("lib64", "lib"), ("usr/lib", "../lib"), ("usr/lib64", "../lib")):
        (root / link).symlink_to(to)
    multiarch = sysconfig.get_config_var("MULTIARCH")
    if multiarch:
        (root / "lib" / multiarch).symlink_to(".")
    inside = os.path.realpath(root) + "/"
    for library in sorted(_loaded_libraries(root)):
        target = root / "lib" / os.path.basename(library)
        if not os.path.realpath(library).startswith(inside) and not target.exists():
            shutil.copy2(os.path.realpath(library), target)


def _loaded_libraries(root: Path) -> set[str]:
    """Paths that the dynamic linker would load, here, for the binaries of the root."""
    if shutil.which("ldd") is None:
        raise RootUnbuildable("The program `ldd` is missing.", next_step="Install your system's libc utilities.")
    binaries = [str(path) for path in _binaries(root)]
    own = [os.path.join(sys.base_prefix, "lib"), *{os.path.dirname(path) for path in binaries if ".libs/" in path}]
    environment = {"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": ":".join(own), "LC_ALL": "C"}
    found: set[str] = set()
    for start in range(0, len(binaries), 100):
        said = subprocess.run(
            ["ldd", *binaries[start : start + 100]], env=environment, capture_output=True, text=True, check=False
        ).stdout
        found.update(match[1] for match in re.finditer(r"^\s+(?:\S+ => )?(/\S+) \(0x", said, re.MULTILINE))
    return found


def _binaries(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for name in sorted(names):
            path = Path(folder, name)
            if (".so" in name or "/bin" in folder) and not path.is_symlink():
                with path.open("rb") as file:
                    if file.read(4) == b"\x7fELF":
                        yield path


def make_places(root: Path) -> None:
    """The few files that libc asks for. They name nobody real."""
    etc = root / "etc"
    etc.mkdir()
    for name, text in {
        "passwd": "root:x:0:0:::/none\njob:x:64000:64000::/work:/none\nnobody:x:65534:65534:::/none\n",
        "group": "root:x:0:\njob:x:64000:\nnogroup:x:65534:\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        "hosts": "127.0.0.1 localhost\n::1 localhost\n",
        "resolv.conf": "",
    }.items():
        (etc / name).write_text(text)


def list_fonts(root: Path) -> None:
    """matplotlib's own list of fonts, which it would otherwise make in each run; see `notebooks.execute`.

    Only the fonts that it brings along: those of this computer are not in the root.
    """
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-I", "-c", "import matplotlib.font_manager"]
        subprocess.run(words, env={"MPLCONFIGDIR": folder}, cwd="/", capture_output=True, check=False)
        for made in Path(folder).glob("fontlist-*.json"):
            fonts = json.loads(made.read_text())
            for kind in ("ttflist", "afmlist"):
                own = [font for font in fonts[kind] if not os.path.isabs(font["fname"])]
                fonts[kind] = sorted(own, key=lambda font: str(font["fname"]))
            target = root / FONTS
            target.mkdir(parents=True)
            (target / made.name).write_text(json.dumps(fonts, sort_keys=True))


def tidy_modes(root: Path) -> None:
    """Readable by every uid, writable by nobody else, nothing setuid."""
    for above, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(above, name)
            seen = os.lstat(path)
            if stat.S_ISLNK(seen.st_mode):
                continue
            runnable = stat.S_ISDIR(seen.st_mode) or seen.st_mode & 0o100
            os.chmod(path, 0o755 if runnable else 0o644)


def compile_modules(root: Path, folder: Path) -> None:
    """Byte code that is never checked against its source: the root is read-only, and the same each time."""
    words = [sys.executable, "-S", "-B", "-m", "compileall", "-f", "-q", "-j2", "--invalidation-mode", "unchecked-hash"]
    words += ["-s", str(root), "-p", "/", str(folder)]
    # No -I: PYTHONHASHSEED must count, since the order of a set constant goes into the byte code.
    subprocess.run(
        words, env={"PYTHONHASHSEED": "0"}, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    )


def tree_digest(root: Path) -> str:
    """A digest over every name, mode, link and content below `root`, in order."""
    whole = hashlib.sha256()
    for folder, folders, files in os.walk(root):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in sorted([*files, *links]):
            path = os.path.join(folder, name)
            seen = os.lstat(path)
            whole.update(os.path.relpath(path, root).encode() + b"\0" + oct(stat.S_IMODE(seen.st_mode)).encode())
            if stat.S_ISLNK(seen.st_mode):
                whole.update(b"->" + os.readlink(path).encode())
            else:
                with open(path, "rb") as file:
                    whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()

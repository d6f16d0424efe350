"""What every executor must do. The suite knows only the protocol; `conftest` names the executors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
from executor_cases import EXECUTORS, a_spec, keeps_its_states, python

from opensafely_lab.jobs.executors import bubblewrap, cgroup, seccomp, selftest
from opensafely_lab.jobs.executors.protocol import (
    EndKind,
    Executor,
    ExecutorUnavailable,
    Layer,
    Mount,
    RunResult,
    RunState,
    StateUnwritable,
)
from opensafely_lab.jobs.executors.sandbox import SandboxExecutor
from opensafely_lab.jobs.loop import run_to_end

pytestmark = pytest.mark.sandbox
Run = Callable[..., RunResult]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="as a plain user, a run has our own uid")


# -- life ------------------------------------------------------------------------------------------


def test_a_run_passes_through_its_states_and_every_call_may_be_repeated(executor):
    keeps_its_states(executor, python("import time; time.sleep(1)"), hangs=python("import time; time.sleep(60)"))


@pytest.mark.parametrize(
    ("code", "expected"), [("pass", 0), ("raise SystemExit(7)", 7), ("import os; os.kill(1, 9)", 0)]
)
def test_the_exit_code_is_told(run, code, expected):
    end = run(code).end
    assert (end.kind, end.exit_code) == (EndKind.EXITED, expected)


@pytest.mark.parametrize("name", ["", "../x", "A", "x/y", "x\n", "-x", "x" * 65])
def test_a_run_id_cannot_name_another_folder(executor, name):
    with pytest.raises(ValueError):
        executor.state(name)


def test_another_process_can_take_over_between_any_two_calls(executor, request, job_root):
    """Each step by a new object over the same state: nothing is remembered but on disk."""
    make = EXECUTORS[request.node.callspec.params["executor"]]
    state = executor.state_folder
    spec = python("print('here')")
    make(state, job_root).prepare(spec)
    make(state, job_root).execute(spec.id)
    assert make(state, job_root).wait(spec.id, 20) is RunState.ENDED
    assert make(state, job_root).finalise(spec.id).log == b"here\n"


def test_a_run_outlives_the_thread_that_started_it(executor):
    spec = python("import time; time.sleep(0.5)")
    executor.prepare(spec)
    starter = threading.Thread(target=executor.execute, args=(spec.id,))
    starter.start()
    starter.join()
    assert executor.wait(spec.id, 20) is RunState.ENDED
    assert executor.finalise(spec.id).end.succeeded


def test_a_cancelled_run_is_ended_and_collected(executor):
    began = time.monotonic()
    result = run_to_end(
        executor, python("import time; time.sleep(60)"), cancelled=lambda: time.monotonic() > began + 0.5
    )
    assert result.end.kind is EndKind.TERMINATED


def test_a_run_whose_supervisor_was_killed_says_nothing(executor):
    spec = python("import time; time.sleep(60)")
    executor.prepare(spec)
    executor.execute(spec.id)
    executor.wait(spec.id, 0.3)
    if not isinstance(executor, SandboxExecutor):
        pytest.skip("no supervisor of ours to kill")
    os.kill(executor._supervisor(spec.id) or 0, signal.SIGKILL)
    assert executor.wait(spec.id, 5) is RunState.ENDED
    assert executor.finalise(spec.id).end.kind is EndKind.LOST


# -- what a run gets -------------------------------------------------------------------------------


def test_files_and_mounts_can_be_read_and_not_written(run, tmp_path):
    (tmp_path / "data.csv").write_text("1,2")
    result = run(
        "print(open('/job/a.txt').read(), open('/inputs/0/data.csv').read(), open('/study/data.csv').read())\n"
        "for path in ('/job/a.txt', '/job/b', '/inputs/0/data.csv', '/study/new', '/inputs/x'):\n"
        "    try: open(path, 'w'); print('WRITTEN', path)\n"
        "    except OSError as problem: print(problem.errno)",
        files={"a.txt": b"hello"},
        mounts=(
            Mount(tmp_path / "data.csv", PurePosixPath("/inputs/0/data.csv")),
            Mount(tmp_path, PurePosixPath("/study")),
        ),
    )
    assert result.log.decode().split("\n")[:6] == ["hello 1,2 1,2", "30", "30", "30", "30", "30"]


def test_inputs_in_private_folders_of_ours_can_be_read(run, tmp_path):
    """As root, a run has another uid than we: a 0700 home or a 0600 file must not be in its way."""
    home = tmp_path / "home"
    (home / "study" / "sub").mkdir(parents=True)
    (home / "study" / "sub" / "x.py").write_text("secret plan")
    for path, mode in ((home / "study" / "sub" / "x.py", 0o600), (home / "study" / "sub", 0o700), (home, 0o700)):
        path.chmod(mode)
    result = run("print(open('/study/sub/x.py').read())", mounts=(Mount(home / "study", PurePosixPath("/study")),))
    assert result.log == b"secret plan\n"


def test_a_run_can_write_in_its_own_places_and_nowhere_else(run):
    result = run(
        "for place in ('/work', '/tmp', '/outputs', '/dev/shm', '/', '/opt', '/etc', '/job', '/root'):\n"
        "    try: open(place + '/x', 'w'); print(place)\n"
        "    except OSError: pass"
    )
    assert result.log.decode().split() == ["/work", "/tmp", "/outputs", "/dev/shm"]


def test_secrets_in_our_environment_are_nowhere_in_a_run(run, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    result = run(
        "import os\n"
        "seen = str(dict(os.environ))\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    for name in ('environ', 'cmdline', 'maps'):\n"
        "        try: seen += open(f'/proc/{pid}/{name}', errors='replace').read()\n"
        "        except OSError: pass\n"
        "print('SEC' + 'RET' in seen, 'hun' + 'ter2' in seen, len(seen) > 100)",
        environment={"OURS": "1"},
    )
    assert result.log == b"False False True\n"


def test_a_run_cannot_see_who_runs_it(run):
    result = run(
        "import os\n"
        "print(os.getpid(), os.getuid(), os.uname().nodename, sorted(filter(str.isdigit, os.listdir('/proc'))))\n"
        "print(sorted(os.listdir('/')))\nprint(sorted(os.listdir('/proc/self/fd')))"
    )
    first, places, descriptors = result.log.decode().splitlines()
    assert first == "1 64000 job ['1']"
    assert set(eval(places)) <= {"dev", "etc", "job", "lib", "lib64", "opt", "outputs", "proc", "tmp", "usr", "work"}
    assert set(eval(descriptors)) <= {"0", "1", "2", "3"}  # 3 is the listing itself


def test_a_run_cannot_unbind_its_life_from_ours(run):
    """bubblewrap ends with its supervisor by a death signal, which pid 1 inside holds, and could clear."""
    result = run(
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.prctl(1, 0, 0, 0, 0), ctypes.get_errno())\n"
        "print(libc.syscall(157, 0x100000001, 0, 0, 0, 0), ctypes.get_errno())"
    )
    assert result.log == b"-1 1\n-1 1\n"


@as_root
def test_each_running_job_has_its_own_uid_on_the_host(one_executor):
    specs = [python("import time; time.sleep(1)") for _ in range(3)]
    for spec in specs:
        one_executor.prepare(spec)
        one_executor.execute(spec.id)
    for spec in specs:
        one_executor.wait(spec.id)
    layers = [one_executor.finalise(spec.id).layers for spec in specs]
    assert len({found["host_uid"] for found in layers}) == 3
    assert "0" not in {found["host_uid"] for found in layers}


def test_the_record_of_a_run_names_the_layers_that_were_in_force(run, executor):
    layers = run("import time; time.sleep(0.2)").layers
    assert layers["namespaces"].split() == ["user", "pid", "net", "ipc", "uts", "mnt", "cgroup"]
    assert (layers["seccomp"], layers["no_new_privs"], int(layers["capabilities"], 16)) == ("2", "1", 0)
    assert layers["memory"] in ("cgroup-v1", "cgroup-v2", "polling")
    assert layers["root"] == executor.root.digest


# -- limits ----------------------------------------------------------------------------------------


def test_a_run_that_takes_too_long_is_ended(run):
    result = run("import time; time.sleep(60)", wall_seconds=0.5)
    assert (result.end.kind, result.end.exit_code) == (EndKind.TIME, None)
    assert result.wall_seconds < 15


def test_a_run_that_takes_too_much_memory_is_ended(run):
    result = run(
        "import time\nx = b'x' * (200 << 20)\ny = bytearray(x)\nz = bytearray(x)\ntime.sleep(5)\nprint('still here')",
    )
    assert result.end.kind is EndKind.MEMORY
    assert b"still here" not in result.log


def test_a_run_fails_when_a_child_of_it_was_killed_for_memory(run):
    """The kernel kills one process and the run goes on: what it then says is worth nothing."""
    result = run(
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    x = bytearray(b'x' * (400 << 20)); time.sleep(5); os._exit(0)\n"
        "os.wait(); print('went on')",
    )
    assert result.end.kind is EndKind.MEMORY


def test_of_a_flood_of_log_only_the_beginning_is_kept(run):
    result = run("import os\nb = b'x' * 65536\nfor _ in range(2000): os.write(1, b)", log_bytes=100_000)
    assert result.end.succeeded
    assert result.log == b"x" * 100_000


def test_a_run_ends_with_its_first_process_whoever_else_is_left(run):
    result = run(
        "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n        os.setsid()\n"
        "        while True: time.sleep(1)\nprint('bye')"
    )
    assert result.log == b"bye\n"
    assert result.wall_seconds < 15


# -- outputs ---------------------------------------------------------------------------------------


def test_outputs_and_our_own_reports_are_collected_apart(run):
    result = run(
        "import os\nos.makedirs('/outputs/.osl'); os.makedirs('/outputs/output/deep')\n"
        "for path in ('.osl/status.json', '.osl/unknown.json', 'output/t.csv', 'output/deep/f.png',\n"
        "             'x.exe', '.hid.csv'):\n"
        "    open('/outputs/' + path, 'w').write(path)"
    )
    assert sorted(str(file.path) for file in result.files) == [
        "control/status.json",
        "outputs/output/deep/f.png",
        "outputs/output/t.csv",
    ]
    assert (result.folder / "outputs" / "output" / "t.csv").read_text() == "output/t.csv"
    assert dict(result.refused) == {"'x.exe'": "type", "'.hid.csv'": "name"}
    for path in (result.folder, *result.folder.rglob("*")):
        assert path.stat().st_uid == os.geteuid()
        assert path.stat().st_mode & 0o7077 == 0


def test_a_run_that_failed_may_still_have_left_a_report(run):
    result = run("import os\nos.makedirs('/outputs/.osl'); open('/outputs/.osl/status.json', 'w'); raise SystemExit(1)")
    assert [str(file.path) for file in result.files] == ["control/status.json"]
    assert not result.end.succeeded


# -- being killed ----------------------------------------------------------------------------------

DRIVER = """
import sys, time
from pathlib import Path
sys.path[:0] = {paths!r}
from executor_cases import EXECUTORS, cache_folder, python
from opensafely_lab.jobs.root import ensure_root
executor = EXECUTORS[{name!r}](Path({state!r}), ensure_root(cache_folder()))
spec = python("import time\\nif True: print('begun')\\ntime.sleep(120)  # " + {mark!r})
executor.prepare(spec); executor.execute(spec.id)
executor.wait(spec.id, 0.5)
print(spec.id, flush=True)
time.sleep(120)
"""


def processes_with(mark: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if mark in words:
                found.append(words)
    return found


def start_driver(executor: Executor, name: str, mark: str) -> tuple[subprocess.Popen[str], str]:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    code = DRIVER.format(paths=paths, name=name, state=str(executor.state_folder), mark=mark)
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    return driver, driver.stdout.readline().strip()


def test_killing_the_process_that_drives_a_run_kills_the_run_and_reap_removes_it(executor, request):
    mark = f"mark-{os.getpid()}-{time.time_ns()}"
    driver, run = start_driver(executor, request.node.callspec.params["executor"], mark)
    try:
        inside = [words for words in processes_with(mark) if words.startswith("/opt/venv/bin/python")]
        assert inside, "the run is there"
        assert executor.state(run) is RunState.RUNNING
        assert executor.reap() == (), "it belongs to a living process"
    finally:
        driver.kill()
        driver.wait()
    end = time.monotonic() + 5
    while processes_with(mark) and time.monotonic() < end:
        time.sleep(0.02)
    assert processes_with(mark) == []
    assert executor.state(run) is RunState.ENDED
    assert executor.reap() == (run,)
    assert executor.state(run) is RunState.ABSENT
    assert executor.reap() == ()
    if isinstance(executor, SandboxExecutor):
        assert cgroup.named(executor._prefix) == []


# -- refusing --------------------------------------------------------------------------------------


def test_a_self_test_tries_every_layer_and_is_remembered(executor):
    report = executor.probe()
    assert report.ok
    assert {"namespaces", "network", "seccomp", "capabilities", "memory limit", "read-only root"} <= {
        layer.name for layer in report.layers
    }
    began = time.thread_time()
    assert executor.proven() == report
    assert time.thread_time() - began < 0.1


def no_bubblewrap() -> None:
    raise ExecutorUnavailable("bubblewrap is not installed.")


@pytest.mark.parametrize(
    ("missing", "target", "name", "value"),
    [
        ("bubblewrap", bubblewrap, "find", no_bubblewrap),
        ("filters", seccomp, "FILTERS", Path("/nowhere")),
        ("a layer", selftest, "judge", lambda result: (Layer("network", False, "it worked"),)),
    ],
)
def test_where_a_layer_is_missing_nothing_is_run(job_root, tmp_path, monkeypatch, missing, target, name, value):
    executor = SandboxExecutor(tmp_path, job_root)
    monkeypatch.setattr(target, name, value)
    assert not executor.probe().ok
    spec = python("print('ran')")
    with pytest.raises(ExecutorUnavailable) as refused:
        executor.prepare(spec)
    assert refused.value.next_step
    assert executor.state(spec.id) is RunState.ABSENT


def test_a_bubblewrap_that_cannot_make_namespaces_is_found_out(job_root, tmp_path, monkeypatch):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(bubblewrap, "find", lambda: bubblewrap.Bubblewrap(fake, None))
    report = SandboxExecutor(tmp_path / "state", job_root).probe()
    wrong = [layer for layer in report.layers if not layer.ok]
    assert [layer.name for layer in wrong] == ["namespaces"]
    assert "No permissions" in wrong[0].detail


def test_a_limiter_that_went_away_since_the_self_test_stops_the_run(job_root, tmp_path, monkeypatch):
    executor = SandboxExecutor(tmp_path, job_root)
    spec = python("print('ran')")
    executor.prepare(spec)
    if "polling" in (tmp_path / "probe.json").read_text():
        pytest.skip("there is no cgroup here to lose")
    monkeypatch.setattr(cgroup, "make", lambda name, limits: None)
    with pytest.raises(ExecutorUnavailable):
        executor.execute(spec.id)


def test_a_state_folder_that_cannot_be_written_is_one_sentence(job_root, tmp_path, monkeypatch):
    executor = SandboxExecutor(tmp_path, job_root)
    executor.proven()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("opensafely_lab.jobs.executors.folders.put_job_file", full)
    with pytest.raises(StateUnwritable) as refused:
        executor.prepare(python("pass", files={"x": b"1"}))
    assert "No space left" in refused.value.sentence
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_program_that_is_not_there_is_a_run_that_failed(executor):
    result = run_to_end(executor, a_spec("/bin/sh", "-c", "id"))
    assert not result.end.succeeded


def test_a_run_that_was_taken_over_is_not_reaped_with_its_first_owner(executor, request, job_root):
    make = EXECUTORS[request.node.callspec.params["executor"]]
    spec = python("import time; time.sleep(1)")
    first = make(executor.state_folder, job_root)
    first.prepare(spec)
    owner = executor.state_folder / "owners" / first._own()
    owner.unlink()  # as if its process had died
    executor.execute(spec.id)
    assert make(executor.state_folder, job_root).reap() == ()
    assert executor.wait(spec.id, 20) is RunState.ENDED
    assert executor.finalise(spec.id).end.succeeded

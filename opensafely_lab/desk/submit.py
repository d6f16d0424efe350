"""Submit: look at everything that can be wrong, run it on dummy data, send the commit and the request.

1. The study, its project.yaml, the action and its notebook.
2. What is committed: no changes left out, no saved output, parameters within their bounds.
3. The site answers and permits.
4. The dummy run, from the very commit that is sent; re-used where nothing that matters has changed.
5. The bundle, then a small request whose key stays the same until an answer has come.

Each refusal is one sentence with a next step; `fix` names the repair that `fixes` may allow.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal, Protocol

from attrs import field, frozen

from opensafely_lab import __version__
from opensafely_lab.desk.git import Repository
from opensafely_lab.desk.http import NoPermission
from opensafely_lab.desk.state import write_private
from opensafely_lab.errors import LabError, PlatformError, Refused
from opensafely_lab.jobs import bundle as bundles
from opensafely_lab.notebooks.parameters import declared, merge
from opensafely_lab.notebooks.source import MAX_BYTES, NotebookError, SubmittedNotebook
from opensafely_lab.study.ids import CommitSha, is_name
from opensafely_lab.study.parameters import ParameterSpec, ParameterValue, bind
from opensafely_lab.study.project import Action, Project, UnknownAction, read_project
from opensafely_lab.wire.base import Digest, Message, Name
from opensafely_lab.wire.decode import BadMessage, decode
from opensafely_lab.wire.lab import Stage
from opensafely_lab.wire.site import Job, Layout, Me, RequestListText, SubmitRequest

PROJECT_FILE = "project.yaml"
MAX_PROJECT_FILE = 4_000_000
KEPT_DUMMY_RUNS = 100
Fix = Literal["commit", "strip"]
Progress = Callable[[Stage, float], None]


class NotAStudy(Refused):
    code = "not-a-study"


class NotebookMissing(Refused):
    code = "notebook-missing"


class DirtyTree(Refused):
    """What would be sent is not what is on the desk."""

    code = "dirty-tree"
    fix: ClassVar[str | None] = "commit"


class SavedOutputs(Refused):
    """Numbers in a commit leave with the code, for everybody to read."""

    code = "saved-outputs"
    fix: ClassVar[str | None] = "strip"


class CannotKeep(PlatformError):
    """The state folder cannot be written."""

    code = "cannot-keep"


@frozen
class Ask:
    """What somebody wants run. `path` is the notebook, or any folder or file of the study.

    Without `action` it is the one that runs the notebook at `path`. `parameters` are text as typed if
    `from_text`, else JSON values.
    """

    path: Path
    action: str | None = None
    parameters: Mapping[str, object] = field(factory=dict)
    from_text: bool = True
    fixes: Collection[str] = ()


@frozen
class Target:
    """Where the job goes, and the policy its results are judged by."""

    project: str
    workspace: str
    backends: tuple[str, ...]
    policy: str


@frozen
class DummyJob:
    """One action at one commit, checked out in `study`."""

    study: Path
    action: str
    parameters: Mapping[str, ParameterValue]
    commit: str


@frozen
class DummyResult:
    """What the dummy run fixes for the real one: the canonical text of its requests, layout, definitions."""

    requests: str
    layout: Layout
    definitions: Mapping[str, str]


class DummyRunner(Protocol):
    """Runs an action on dummy data in the sandbox. Raises a `LabError` if it does not end well.

    `fingerprint` names everything outside the study on which the result depends: the job's root, the policy.
    """

    @property
    def fingerprint(self) -> str: ...

    def __call__(self, job: DummyJob, progress: Callable[[float], None]) -> DummyResult: ...


class Site(Protocol):
    """What submitting needs of `desk.client.Client`."""

    def me(self) -> Me: ...

    def upload_bundle(self, data: bytes) -> str: ...

    def submit(self, request: SubmitRequest) -> list[Job]: ...


@frozen
class Ports:
    """The surroundings. `state` is a private folder of the desk; `new_key` gives 16 to 64 random characters."""

    site: Site
    dummy_run: DummyRunner
    state: Path
    target: Target
    new_key: Callable[[], str]
    who: str = "analyst"


@frozen
class Checked:
    """An action at a commit, with everything that can be checked at the desk checked."""

    study: Path
    project: Project
    action: Action
    notebook: SubmittedNotebook
    path: PurePosixPath  # of the notebook
    commit: CommitSha
    tree: str
    specs: Mapping[str, ParameterSpec]
    parameters: Mapping[str, ParameterValue]
    bundle: bytes = field(repr=False)


@frozen
class Submission:
    """What was sent, and the jobs that became of it: one per backend."""

    jobs: tuple[Job, ...]
    checked: Checked
    dummy: DummyResult
    dummy_reused: bool


class _DummyRecord(Message):
    """A dummy run as it is kept."""

    requests: RequestListText
    layout: Layout
    definitions: dict[Name, Digest]


def find_study(path: Path) -> Path:
    """The folder of the nearest project.yaml, at or above `path`. Raises `NotAStudy`."""
    start = path.absolute()
    for folder in (start, *start.parents):
        if (folder / PROJECT_FILE).is_file():
            return folder.resolve()
    raise NotAStudy(
        f"{start.name or start} is not in a study: there is no project.yaml beside or above it.",
        next_step="Make a study with `opensafely-lab init FOLDER`, or add a project.yaml.",
    )


def choose(ask: Ask) -> tuple[Path, Project, Action]:
    """The study, its project.yaml as it lies on the desk, and the action that is meant.

    Raises `NotAStudy`, `ProjectError`, `UnknownAction`.
    """
    study = find_study(ask.path)
    project = read_project(_file(study / PROJECT_FILE))
    if ask.action is not None:
        return study, project, project.action(ask.action)
    if ask.path.suffix != ".ipynb":
        return study, project, _only_notebook(project)
    inside = PurePosixPath(ask.path.absolute().resolve().relative_to(study).as_posix())
    return study, project, project.action_of(inside)


def _only_notebook(project: Project) -> Action:
    """The study's one action that runs a notebook. Raises `UnknownAction`."""
    found = [action for action in project.actions.values() if action.is_notebook]
    if len(found) == 1:
        return found[0]
    if found:
        few = ", ".join(action.name for action in found[:12])
        raise UnknownAction("It was not said which notebook to run.", next_step=f"Name its action, one of: {few}.")
    raise UnknownAction(
        "No action of project.yaml runs a notebook.",
        next_step="Add an action to it with a line such as `run: notebook:v1 analysis/report.ipynb`.",
    )


def prepare_submission(ask: Ask, ports: Ports) -> Checked:
    """Every precondition, in order; with the repairs that `ask.fixes` allows. Raises a `LabError`."""
    study, _, wanted = choose(ask)
    path = wanted.notebook
    repository = Repository.find(study)
    if repository.top != study:
        raise NotAStudy(
            f"The study {study.name} lies inside another git repository, {repository.top.name}.",
            next_step="Make it a repository of its own: project.yaml must be at the top.",
        )
    commit = _committed(repository, path, ask, ports.who)
    data = repository.blob(path, commit)
    if data is None:
        raise NotebookMissing(
            f"The notebook {path} of action {wanted.name} is not in the study.",
            next_step="Add it, or correct its path in project.yaml.",
        )
    notebook = SubmittedNotebook.parse(data)
    if notebook.has_outputs:
        if "strip" not in ask.fixes:
            raise SavedOutputs(
                f"The committed notebook {path.name} has saved outputs, which would be published with it.",
                next_step="Strip them: a commit without them is made, and your open notebook keeps them.",
            )
        commit = repository.strip_now(path, f"Strip the outputs of {path.name}", who=ports.who)
        data = repository.blob(path, commit) or b""
        notebook = SubmittedNotebook.parse(data)
        if notebook.has_outputs:
            raise SavedOutputs(
                f"The outputs of {path.name} could not be stripped.",
                next_step="Clear them in JupyterLab, save and commit.",
            )
    # From here on only the commit counts: what runs is what is sent.
    project = read_project(repository.blob(PurePosixPath(PROJECT_FILE), commit) or b"")
    action = project.action(wanted.name)
    if not is_name(action.name):
        raise Refused(
            f"The action's name {action.name} is too long, or has a character that cannot be sent.",
            next_step="Give it up to 64 letters, digits, `_`, `-` and `.`.",
        )
    specs = merge(declared(notebook), action.parameters)
    parameters = bind(specs, ask.parameters, from_text=ask.from_text)
    data = repository.bundle(commit)
    _permitted(ports.site.me(), ports.target)
    return Checked(
        study, project, action, notebook, path, commit, repository.tree(commit), specs, parameters, data
    )  # fmt: skip


def submit(ask: Ask, ports: Ports, progress: Progress) -> Submission:
    """Everything, from the look at the study to the jobs at the site. Raises a `LabError`."""
    progress(Stage.QUEUED, 0.0)
    checked = prepare_submission(ask, ports)
    progress(Stage.DUMMY_RUN, 0.0)
    dummy, reused = run_on_dummy_data(checked, ports, lambda part: progress(Stage.DUMMY_RUN, part))
    progress(Stage.SENDING, 0.0)
    digest = ports.site.upload_bundle(checked.bundle)
    progress(Stage.SENDING, 0.8)
    jobs = _send(checked, dummy, digest, ports)
    progress(Stage.WAITING, 0.0)
    return Submission(tuple(jobs), checked, dummy, reused)


def run_on_dummy_data(checked: Checked, ports: Ports, progress: Callable[[float], None]) -> tuple[DummyResult, bool]:
    """The dummy run of this commit, and whether one from before could be used. Raises a `LabError`."""
    kept = _room(ports.state, "dummy-runs") / f"{dummy_digest(checked, ports)}.json"
    known = _read_kept(kept)
    if known is not None:
        return known, True
    work = Path(tempfile.mkdtemp(prefix="dummy-", dir=_room(ports.state, "work")))
    try:
        study = work / "study"
        bundles.unpack(checked.bundle, checked.commit.text, study)
        job = DummyJob(study, checked.action.name, checked.parameters, checked.commit.text)
        result = ports.dummy_run(job, progress)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    record = _DummyRecord(requests=result.requests, layout=result.layout, definitions=dict(result.definitions))
    _keep(kept, record.model_dump_json())
    _forget_oldest(kept.parent)
    return result, False


def dummy_digest(checked: Checked, ports: Ports) -> str:
    """What a dummy run depends on: the commit's content (not its message), action, parameters, our software."""
    return _digest(
        {
            "tree": checked.tree,
            "action": checked.action.name,
            "parameters": dict(checked.parameters),
            "policy": ports.target.policy,
            "version": __version__,
            "fingerprint": ports.dummy_run.fingerprint,
        }
    )


def _committed(repository: Repository, notebook: PurePosixPath, ask: Ask, who: str) -> CommitSha:
    changes = repository.dirty(notebook, PurePosixPath(PROJECT_FILE))
    if not changes:
        return repository.head()
    if not {"commit", "strip"} & set(ask.fixes):  # stripping makes a commit too
        count = len(changes.paths)
        raise DirtyTree(
            f"{count} {'file has' if count == 1 else 'files have'} changes that are not committed: {changes.words()}.",
            next_step="Commit them now, or undo them: what is sent is the last commit.",
        )
    if _has_outputs(repository.top / notebook) and not repository.strips(notebook):
        # Before the commit, not after it: a later one without the output would leave it in the history.
        if "strip" not in ask.fixes:
            raise SavedOutputs(
                f"The notebook {notebook.name} has saved outputs, which would be committed and published with it.",
                next_step="Strip them: they are left out of the commit, and your open notebook keeps them.",
            )
        repository.install_filter(attributes=True)
        if not repository.strips(notebook):
            raise SavedOutputs(
                f"The outputs of {notebook.name} could not be stripped.",
                next_step="Clear them in JupyterLab, save the notebook, and try again.",
            )
    also = [p for p in (notebook, PurePosixPath(PROJECT_FILE)) if (repository.top / p).exists()]
    repository.commit_now(f"Submit {notebook.name}", *also, who=who)
    still = repository.dirty(notebook, PurePosixPath(PROJECT_FILE))
    if still:
        raise DirtyTree(
            f"After the commit there are still changes: {still.words()}.",
            next_step="Look at `git status` in a terminal; a hook or a filter may change files.",
        )
    return repository.head()


def _has_outputs(file: Path) -> bool:
    """Whether output lies in the notebook on the desk; False for what is no notebook, which is told elsewhere."""
    try:
        with file.open("rb") as opened:
            return SubmittedNotebook.parse(opened.read(MAX_BYTES + 1)).has_outputs
    except (OSError, NotebookError):
        return False


def _permitted(me: Me, target: Target) -> None:
    where = next((w for w in me.workspaces if (w.project, w.workspace) == (target.project, target.workspace)), None)
    if where is None or not where.may_submit:
        raise NoPermission(
            f"{me.user} may not submit to workspace {target.workspace} of project {target.project}.",
            next_step="Ask the project's owner for access, or choose another workspace.",
        )
    missing = [backend for backend in target.backends if backend not in where.backends]
    if missing or not target.backends:
        there = ", ".join(where.backends) or "no backend"
        raise NoPermission(
            f"Workspace {target.workspace} is not at backend {', '.join(missing) or '(none named)'}.",
            next_step=f"It is at: {there}.",
        )


def _send(checked: Checked, dummy: DummyResult, digest: str, ports: Ports) -> Sequence[Job]:
    """Send the request under a key that is kept until the answer is here.

    So a desk that dies between the two sends the same key when the same is submitted again, and the
    site makes one set of jobs of it.
    """
    said = {
        "project": ports.target.project,
        "workspace": ports.target.workspace,
        "backends": list(ports.target.backends),
        "commit": checked.commit.text,
        "bundle": digest,
        "action": checked.action.name,
        "parameters": dict(checked.parameters),
        "requests": dummy.requests,
        "layout": dummy.layout.model_dump(mode="json"),
        "definitions": dict(dummy.definitions),
        "policy": ports.target.policy,
    }
    pending = _room(ports.state, "pending") / _digest(said)
    key = _pending_key(pending)
    if key is None:
        key = ports.new_key()
        _keep(pending, key)
    jobs = ports.site.submit(SubmitRequest.model_validate({"idempotency_key": key, **said, "layout": dummy.layout}))
    pending.unlink(missing_ok=True)
    return jobs


def _pending_key(path: Path) -> str | None:
    try:
        text = path.read_text("ascii")
    except (OSError, ValueError):
        return None
    return text if 16 <= len(text) <= 64 and text.replace("-", "").replace("_", "").isalnum() else None


def _read_kept(path: Path) -> DummyResult | None:
    """A kept dummy run; None if there is none that can be read, for then it is simply run again."""
    try:
        record = decode(_DummyRecord, path.read_bytes())
    except (OSError, BadMessage):
        return None
    return DummyResult(record.requests, record.layout, record.definitions)


def _forget_oldest(folder: Path) -> None:
    try:
        kept = sorted(folder.glob("*.json"), key=lambda p: p.stat().st_mtime)
        for path in kept[:-KEPT_DUMMY_RUNS]:
            path.unlink(missing_ok=True)
    except OSError:
        return  # another desk of the same person is tidying up


def _room(state: Path, name: str) -> Path:
    folder = state / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_keep(folder, error) from None
    return folder


def _keep(path: Path, text: str) -> None:
    try:
        write_private(path, text)
    except OSError as error:
        raise _cannot_keep(path.parent, error) from None


def _cannot_keep(folder: Path, error: OSError) -> LabError:
    return CannotKeep(
        f"{folder} cannot be written ({error.strerror or 'an error of the disk'}).",
        next_step="Free some space or permit writing there, then try again; nothing was sent.",
    )


def _file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_PROJECT_FILE)
    except OSError as error:
        raise NotAStudy(f"{path} cannot be read ({error.strerror}).") from None


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()

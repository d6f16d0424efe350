"""The state folder: named, private where it must be, for one `up` at a time; and what ships with the package."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from opensafely_lab.desk.shipped import NotSynthetic, demo_records, require_synthetic
from opensafely_lab.desk.state import AlreadyRunning, State, default_state, write_private


@pytest.mark.parametrize(
    ("environ", "root", "folder"),
    [
        ({"HOME": "/home/ada"}, False, "/home/ada/.local/state/opensafely-lab"),
        ({"HOME": "/home/ada", "XDG_STATE_HOME": "/srv/state"}, False, "/srv/state/opensafely-lab"),
        ({"HOME": "/root"}, True, "/var/lib/opensafely-lab"),
        ({"HOME": "/root", "OPENSAFELY_LAB_STATE": "/tmp/elsewhere"}, True, "/tmp/elsewhere"),
    ],
)
def test_state_is_where_it_was_named_or_where_the_system_keeps_state(environ, root, folder):
    assert default_state(environ, root=root) == Path(folder)


def test_a_second_up_on_the_same_state_is_refused_with_the_address_of_the_first(tmp_path):
    state = State(tmp_path / "state")
    state.make()
    lock = state.lock()
    write_private(state.run_json, json.dumps({"lab": "http://127.0.0.1:1234"}))
    with pytest.raises(AlreadyRunning) as refused:
        state.lock()
    assert "already runs" in refused.value.sentence
    assert "http://127.0.0.1:1234" in refused.value.next_step
    os.close(lock)
    os.close(state.lock())


def test_a_token_file_is_private_and_replaced_whole(tmp_path):
    token = State(tmp_path).token("site")
    write_private(token, "one")
    write_private(token, "two")
    assert token.read_text() == "two"
    assert token.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [token]


def test_rooms_are_private_but_the_state_folder_can_be_passed_through(tmp_path):
    state = State(tmp_path / "state")
    state.make()
    assert state.folder.stat().st_mode & 0o777 == 0o711
    assert state.room("site").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("manifest", [None, "not json", "[]", "{}", '{"synthetic": "true"}', '{"synthetic": 1}'])
def test_records_that_do_not_say_that_they_are_synthetic_are_refused(tmp_path, manifest):
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(NotSynthetic) as refused:
        require_synthetic(tmp_path)
    assert "manifest.json" in refused.value.next_step


def test_the_demo_records_say_that_they_are_synthetic():
    require_synthetic(demo_records())

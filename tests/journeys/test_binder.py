"""Binder and Codespaces read these files as we mean them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BINDER = ROOT / "binder"


@pytest.mark.parametrize("name", ["postBuild", "start"])
def test_scripts_are_executable_and_parse(name):
    assert os.access(BINDER / name, os.X_OK)
    subprocess.run(["bash", "-n", BINDER / name], check=True)


def test_start_hands_over_to_what_binder_starts():
    assert (BINDER / "start").read_text().rstrip().endswith('exec "$@"')


def test_no_chromium_is_asked_of_binder():
    # repo2docker's Ubuntu has a snap stub under that name
    assert not (BINDER / "apt.txt").exists()


def test_the_dev_container_sets_up_this_folder():
    text = (ROOT / ".devcontainer" / "devcontainer.json").read_text()
    said = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    assert said["postCreateCommand"] == "make setup"
    assert ":3.11-" in said["image"]


@pytest.mark.slow
def test_repo2docker_would_build_this_folder_with_our_steps():
    command = [sys.executable, "-m", "repo2docker", "--no-build", "--debug", str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, cwd="/tmp")
    said = done.stdout + done.stderr
    assert re.search(r"postBuild", said)
    assert re.search(r"chmod \+x .*start", said)
    assert "3.11" in said

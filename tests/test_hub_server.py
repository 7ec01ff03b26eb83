"""Whatever the user has set, a test's Hub is the one that is asked, and the user's cache is left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub_server import environment, point_at

pytest.importorskip("huggingface_hub")

_URL = "http://127.0.0.1:9"
_USERS = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:8"}
_CACHES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
_TELL = """
import json
from huggingface_hub import constants
print(json.dumps([constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE, constants.ENDPOINT]))
"""


@pytest.fixture(autouse=True)
def _user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in _USERS.items():
        monkeypatch.setenv(name, value)
    for name in _CACHES:
        monkeypatch.setenv(name, str(tmp_path / "user"))


def _told(env: dict[str, str] | None) -> list[object]:
    done = subprocess.run([sys.executable, "-c", _TELL], env=env, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


def test_a_process_keeps_its_cache_in_the_home_given(tmp_path: Path) -> None:
    env = environment(_URL, tmp_path / "own")
    assert _told(env) == [str(tmp_path / "own" / "hub"), False, _URL]
    assert str(tmp_path / "user") not in env.values()


def test_so_do_this_process_and_those_that_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    point_at(_URL, tmp_path / "own", monkeypatch)
    told = _told(None)
    assert told == [constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE, constants.ENDPOINT]
    assert told == [str(tmp_path / "own" / "hub"), False, _URL]

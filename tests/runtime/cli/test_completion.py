"""What a shell asks `coda` at the Tab key, by the protocol that click's scripts for bash, zsh and fish speak."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CODE = "from coda_runtime.cli import main; main()"
SHELLS = ("bash", "zsh", "fish")


def asked(shell: str, words: list[str], typed: str) -> list[str]:
    """Return the answer's values, a folder as "dir:...", to what is typed after the words."""
    line = " ".join([*words, typed])
    env = {**os.environ, "_CODA_COMPLETE": f"{shell}_complete"}
    if shell == "fish":
        env |= {"COMP_WORDS": " ".join(words) + " ", "COMP_CWORD": typed}
    else:
        env |= {"COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    run = [sys.executable, "-c", CODE]
    done = subprocess.run(run, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    if shell == "zsh":  # three lines for each: type, value, help
        return [f"{kind}:{value}" for kind, value in zip(lines[::3], lines[1::3], strict=True)]
    if shell == "fish":
        return [f"{kind}:{value.partition(chr(9))[0]}" for kind, _, value in (line.partition(",") for line in lines)]
    return [f"{kind}:{value}" for kind, _, value in (line.partition(",") for line in lines)]


@pytest.mark.parametrize("shell", SHELLS)
def test_names_options_values_and_folders(shell: str) -> None:
    assert asked(shell, ["coda"], "de") == ["plain:decode", "plain:demo"]
    assert asked(shell, ["coda", "bench"], "co") == ["plain:compare", "plain:convert"]
    assert asked(shell, ["coda", "encode"], "--skip") == ["plain:--skip-bad"]
    assert asked(shell, ["coda", "encode", "--color"], "s") == ["plain:stored", "plain:srgb"]
    assert [kind.split(":")[0] for kind in asked(shell, ["coda", "encode"], "bun")] == ["dir"]  # BUNDLE
    assert [kind.split(":")[0] for kind in asked(shell, ["coda", "encode", "bundle"], "pho")] == ["file"]  # IMAGES


def test_a_command_that_is_not_installed_completes_to_nothing() -> None:
    code = f"import sys; sys.modules['coda_deploy'] = None; {CODE}"
    env = {**os.environ, "_CODA_COMPLETE": "bash_complete", "COMP_WORDS": "coda demo --", "COMP_CWORD": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_printed(shell: str) -> None:
    env = {**os.environ, "_CODA_COMPLETE": f"{shell}_source"}
    run = [sys.executable, "-c", CODE]
    script = subprocess.run(run, env=env, capture_output=True, text=True, timeout=60, check=True).stdout
    assert f"_CODA_COMPLETE={shell}_complete" in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_in_bash_itself(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    coda = tmp_path / "bin" / "coda"
    coda.write_text(f"#!{sys.executable}\n{CODE}\n", encoding="utf-8")
    coda.chmod(0o755)
    (tmp_path / "my-bundle").mkdir()
    script = """
eval "$(_CODA_COMPLETE=bash_source coda)"
complete -p coda
COMP_WORDS=(coda en); COMP_CWORD=1; _coda_completion coda; echo "${COMPREPLY[@]}"
COMPREPLY=(); COMP_WORDS=(coda serve --log-format t); COMP_CWORD=3; _coda_completion coda; echo "${COMPREPLY[@]}"
"""
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    registered, *answers = done.stdout.splitlines()
    assert registered.endswith("-F _coda_completion coda")
    assert answers == ["encode", "text"]

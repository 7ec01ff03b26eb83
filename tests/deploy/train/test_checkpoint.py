"""Checkpoints: whole or not there, never more than asked for, and told apart."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from coda_deploy import CodaTokenizer, ConfigError, WeightsError
from coda_deploy.train import checkpoint
from coda_deploy.train.checkpoint import Facts, check_room, check_same_run, load_checkpoint, save_checkpoint, tidy
from coda_runtime.errors import OutputError
from tests.deploy.train import runs
from tests.tiny_tokenizers import make

TENSORS = {"raw.x": torch.arange(6.0).view(2, 3).T, "seen": torch.ones(3, dtype=torch.int64)}


@pytest.fixture(scope="module")
def tokenizer() -> CodaTokenizer:
    return make()


def facts(step: int, **changes: Any) -> Facts:
    known: dict[str, Any] = {"config": runs.config().to_json(), "images_per_step": 4, "images": 14}
    return Facts(step, **known | changes)


def names(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def test_what_was_saved_comes_back(tokenizer: CodaTokenizer, tmp_path: Path) -> None:
    given = facts(
        7,
        window={"steps": 2, "sums": {"l1": 1 / 3}},
        skipped={"ä\udcff.png": "broken"},
        versions=checkpoint.versions(),
    )
    workspace = save_checkpoint(tmp_path, tokenizer, TENSORS, given, 3)
    assert workspace == tmp_path / "checkpoints" / "step-00000007"
    tensors, found = load_checkpoint(workspace)
    assert found == given
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    expected = tokenizer.state_dict()
    state = CodaTokenizer.from_pretrained(workspace).state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    libraries = {"torch", "coda-deploy", "diffusers", "peft", "numpy", "pillow"}
    libraries |= {name for name in ("timm", "lpips", "torchvision") if find_spec(name)}
    assert set(given.versions) == libraries | {"processor", "instruction set", "threads"}


def test_the_oldest_go(tokenizer: CodaTokenizer, tmp_path: Path) -> None:
    assert checkpoint.list_checkpoints(tmp_path) == []
    for step in (0, 5, 10, 100_000_000):
        save_checkpoint(tmp_path, tokenizer, TENSORS, facts(step), 2)
    assert names(tmp_path) == ["step-00000010", "step-100000000"]
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == names(tmp_path)
    # By number, not by name; and nothing else is taken for one.
    (tmp_path / "checkpoints" / "step-5").mkdir()
    assert len(checkpoint.list_checkpoints(tmp_path)) == 2


@pytest.mark.parametrize("call", ["write_bytes", "write_text", "rename"])
def test_a_full_disk_leaves_the_earlier_ones(
    tokenizer: CodaTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    save_checkpoint(tmp_path, tokenizer, TENSORS, facts(1), 1)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, call, full)
    with pytest.raises(OutputError, match=r"cannot be written \(No space left on device\)"):
        save_checkpoint(tmp_path, tokenizer, TENSORS, facts(2), 1)
    monkeypatch.undo()
    assert names(tmp_path) == ["step-00000001"]
    load_checkpoint(tmp_path / "checkpoints" / "step-00000001")


def test_a_checkpoint_that_is_being_removed_is_none(
    tokenizer: CodaTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, tokenizer, TENSORS, facts(1), 1)
    removed: list[str] = []
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: removed.append(path.name))
    save_checkpoint(tmp_path, tokenizer, TENSORS, facts(2), 1)
    monkeypatch.undo()
    assert removed[-1] == ".step-00000001.part"
    assert {".step-00000001.part", "step-00000002"} < set(names(tmp_path))
    tidy(tmp_path)
    assert names(tmp_path) == ["step-00000002"]


def test_tidy_takes_only_what_coda_left(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ours = [
        tmp_path / ".out.12-0123abcd.part",
        out / ".train.toml.1-0123abcd.part",
        out / "checkpoints" / ".step-00000001.7-0123abcd.part",
        out / "checkpoints" / "..step-00000001.7-0123abcd.part.7-89abcdef.part",
        out / "checkpoints" / ".step-00000001.part",
        out / "pictures" / ".step-00000001.png.7-0123abcd.part",
    ]
    others = [
        tmp_path / ".other.12-0123abcd.part",
        tmp_path / ".out.part",
        out / "notes.part",
        out / ".hidden.part",
        out / "checkpoints" / "step-00000001",
        out / "deeper" / ".x.12-0123abcd.part",
    ]
    for path in ours + others:
        path.mkdir(parents=True)
        (path / "file").touch()
    shutil.rmtree(ours[1])
    ours[1].touch()
    tidy(out)
    assert [path for path in ours if path.exists()] == []
    assert [path for path in others if not path.exists()] == []
    tidy(tmp_path / "none")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format_version": 1}', '{"format_version": 1, "step": 1, "x": 2}'])
def test_facts_that_cannot_be_read(tokenizer: CodaTokenizer, tmp_path: Path, damage: str) -> None:
    workspace = save_checkpoint(tmp_path, tokenizer, TENSORS, facts(1), 1)
    (workspace / "training.json").write_text(damage)
    with pytest.raises(
        WeightsError, match=r"step-00000001 is not a complete checkpoint \(.+\); delete it to continue from"
    ):
        load_checkpoint(workspace)


ODD = [
    *("null", "5", '"text"', "[]", "true", "[" * 100_000, '{"a":' * 100_000),
    *('{"format_version": ' + "9" * 5000 + "}", "\xff"),
]
ODD_VALUES: list[tuple[str, object]] = [
    *(("step", value) for value in (None, "7", -1, 1.5, True, 2**70)),
    *(("config", value) for value in (None, [], "x", {"tokenizer": []}, {"tokenizer": None})),
    *(("images_per_step", value) for value in (None, "4", 0, [])),
    *(("images", value) for value in (None, "x", -3)),
    *(("window", value) for value in ([], {"steps": "x"}, {"steps": 1, "sums": []}, {"steps": 1, "sums": {"l1": "x"}})),
    *(("skipped", value) for value in (None, [], {"a.png": 3})),
    *(("versions", value) for value in ([], {"torch": None})),
]


@pytest.mark.parametrize("text", ODD)
def test_odd_json(tokenizer: CodaTokenizer, tmp_path: Path, text: str) -> None:
    """In a checkpoint without SHA256SUMS too, as earlier versions wrote them."""
    place = save_checkpoint(tmp_path, tokenizer, TENSORS, facts(1), 1)
    (place / "SHA256SUMS").unlink()
    (place / "training.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(WeightsError, match=r"is not a complete checkpoint \(.+\); delete it|by another version"):
        load_checkpoint(place)


@pytest.mark.parametrize(("name", "value"), ODD_VALUES)
def test_odd_values(tokenizer: CodaTokenizer, tmp_path: Path, name: str, value: object) -> None:
    place = save_checkpoint(tmp_path, tokenizer, TENSORS, facts(1), 1)
    (place / "SHA256SUMS").unlink()
    data = json.loads((place / "training.json").read_text())
    (place / "training.json").write_text(json.dumps({**data, name: value}))
    with pytest.raises(WeightsError, match=r"is not a complete checkpoint \(.+\); delete it to continue"):
        load_checkpoint(place)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "training.safetensors", "training.json"])
def test_a_flipped_bit_anywhere(tokenizer: CodaTokenizer, tmp_path: Path, file: str) -> None:
    place = save_checkpoint(tmp_path, tokenizer, TENSORS, facts(1), 1)
    listed = [line.split("  ")[1] for line in (place / "SHA256SUMS").read_text().splitlines()]
    assert sorted(listed) == sorted(path.name for path in place.iterdir() if path.name != "SHA256SUMS")
    whole = (place / file).read_bytes()
    for at in (len(whole) // 3, len(whole) // 2, len(whole) - 2):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        (place / file).write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"is not a complete checkpoint \(.+\); delete it to continue from"):
            load_checkpoint(place)
    (place / file).write_bytes(whole)
    load_checkpoint(place)
    (place / file).unlink()
    with pytest.raises(WeightsError, match="is not a complete checkpoint"):
        load_checkpoint(place)


def test_sums_that_are_none(tokenizer: CodaTokenizer, tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path, tokenizer, TENSORS, facts(1), 1)
    for text in ("", "cut", f"{'0' * 64}  other\n"):
        (place / "SHA256SUMS").write_text(text)
        with pytest.raises(WeightsError, match="is not a complete checkpoint") as raised:
            load_checkpoint(place)
        assert "bundle" not in str(raised.value), "there is none"


@pytest.mark.parametrize("size", [None, 0, 4, 100])
def test_tensors_that_cannot_be_read(tokenizer: CodaTokenizer, tmp_path: Path, size: int | None) -> None:
    workspace = save_checkpoint(tmp_path, tokenizer, TENSORS, facts(1), 1)
    file = workspace / "training.safetensors"
    if size is None:
        file.unlink()
    else:
        os.truncate(file, size)
    with pytest.raises(WeightsError, match=r"is not a complete checkpoint"):
        load_checkpoint(workspace)


def test_another_version(tokenizer: CodaTokenizer, tmp_path: Path) -> None:
    workspace = save_checkpoint(tmp_path, tokenizer, TENSORS, facts(1), 1)
    data = json.loads((workspace / "training.json").read_text())
    (workspace / "training.json").write_text(json.dumps({**data, "format_version": 2}))
    with pytest.raises(WeightsError, match="was written by another version of coda-deploy: continue with that one"):
        load_checkpoint(workspace)


def test_room(tokenizer: CodaTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors: dict[str, Tensor] = {"x": torch.zeros(1_000_000)}
    size = 4_000_000 + sum(t.numel() * t.element_size() for t in tokenizer.state_dict().values())
    free = [0]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": free[0]}))
    out = tmp_path / "deep" / "out"
    free[0] = 4 * size
    check_room(out, tokenizer, tensors, 3)
    free[0] -= 1
    with pytest.raises(
        OutputError, match=r"has 0.0 GB free; 4 checkpoints of 0.00 GB each need more: make room, lower"
    ):
        check_room(out, tokenizer, tensors, 3)
    # Those that lie there already need no more, and the next takes the oldest one's place.
    for step in (1, 2, 3):
        (out / "checkpoints" / f"step-{step:08}").mkdir(parents=True)
    free[0] = size
    check_room(out, tokenizer, tensors, 3)


def changed(**sections: dict[str, Any]) -> str:
    """What is said of a run that goes on with some settings changed; empty where it may."""
    try:
        check_same_run(facts(3), runs.config(**sections), 4, 14, Path("place"))
    except ConfigError as error:
        return str(error)
    return ""


def test_what_may_change() -> None:
    assert changed() == ""
    assert changed(data={"workers": 9}, tokenizer={"vae": "other/vae", "init": "moved/run", "license": "MIT"}) == ""
    assert changed(loss={"lpips_weights": "a", "dino_weights": "b"}) == ""
    assert changed(save={"every": 99, "keep": 9, "log": 5, "dtype": "fp16"}, warmup={"images": 7}) == ""
    # Two processes with half as much each.
    check_same_run(facts(3), runs.config(optim={"batch": 2}), 4, 14, Path("place"))
    # Written before the number of images was kept.
    check_same_run(facts(3, images=0), runs.config(), 4, 99, Path("place"))


@pytest.mark.parametrize("section", ["tokenizer", "data", "optim", "loss"])
def test_every_other_setting_must_stay(section: str) -> None:
    free = {"workers", "vae", "init", "license", "lpips_weights", "dino_weights", "batch"}
    for key, value in runs.config().to_json()[section].items():
        if isinstance(value, bool):
            other: Any = not value
        elif isinstance(value, list):
            other = value[:-1] if value else ["x"]
        else:
            other = value + "x" if isinstance(value, str) else value + 1
        before = runs.config().to_json()
        before[section] = {**before[section], key: other}
        given = facts(3, config=before)
        if key in free:
            check_same_run(given, runs.config(), 4, 14, Path("place"))
        else:
            with pytest.raises(
                ConfigError, match=rf"place was trained with {section} {key} = .*, now it is .*: resume"
            ):
                check_same_run(given, runs.config(), 4, 14, Path("place"))


def test_another_share_of_a_step() -> None:
    with pytest.raises(ConfigError, match="with optim batch = 4, now it is 2"):
        check_same_run(facts(3), runs.config(optim={"batch": 2}), 2, 14, Path("place"))
    message = r"was trained with 4 images a step, now there are 8: choose optim.batch so that .* is 4 again"
    with pytest.raises(ConfigError, match=message):
        check_same_run(facts(3), runs.config(), 8, 14, Path("place"))
    with pytest.raises(ConfigError, match="was trained on 14 images, now --data holds 15"):
        check_same_run(facts(3), runs.config(), 4, 15, Path("place"))


def test_what_changed_since_it_was_saved_is_named() -> None:
    now = checkpoint.versions()
    facts = checkpoint.Facts(1, {}, 1, versions=now)
    assert checkpoint.changes(facts) == ""
    other = dataclasses.replace(facts, versions={**now, "threads": "64", "torch": "2.0", "gone": "1"})
    assert checkpoint.changes(other) == f"torch was 2.0, now {now['torch']}, threads was 64, now {now['threads']}"
    older = {"numpy": "1.26", "pillow": "9.0", "timm": "0.9", "lpips": "0.1", "torchvision": "0.1", "processor": "Z80"}
    installed = {name: before for name, before in older.items() if name in now}
    told = checkpoint.changes(dataclasses.replace(facts, versions={**now, **installed}))
    assert [name for name, before in installed.items() if f"{name} was {before}, now {now[name]}" not in told] == []
    # Checkpoints of earlier versions say less.
    assert checkpoint.changes(dataclasses.replace(facts, versions={})) == ""

"""The launcher's environment, and trackers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType

from coda_deploy import ConfigError, distributed
from coda_deploy.train import launch
from coda_deploy.train.launch import check_agreement, make_accelerator, start_tracking
from coda_runtime.errors import MissingDependencyError
from tests.deploy.train import runs


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """accelerate keeps its state for the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def test_one_process(tmp_path: Path) -> None:
    accelerator = make_accelerator(runs.config(), tmp_path / "out")
    assert (accelerator.num_processes, accelerator.is_main_process, distributed.world()) == (1, True, 1)
    assert accelerator.trackers == []
    check_agreement("step-00000001", tmp_path)
    start_tracking(runs.config(), accelerator)
    assert list(tmp_path.iterdir()) == []


def test_what_accelerate_config_has_set_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    accelerator = make_accelerator(runs.config(), tmp_path)
    weight = torch.ones(1, requires_grad=True)
    accelerator.backward((2 * weight).sum())
    assert weight.grad == 2
    layer = accelerator.prepare(torch.nn.Linear(1, 1))
    assert layer(torch.zeros(1, 1)).grad_fn is not None
    assert accelerator.mixed_precision == "no"


def test_a_launcher_that_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = make_accelerator(runs.config(), tmp_path)
    monkeypatch.setattr(type(accelerator), "distributed_type", DistributedType.FSDP)
    with pytest.raises(ConfigError, match="the launcher asks for FSDP, and the model is trained whole on every"):
        make_accelerator(runs.config(), tmp_path)


@pytest.mark.parametrize(("tracker", "versions"), [("wandb", ">=0.18"), ("tensorboard", ">=2.16")])
def test_a_tracker_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str, versions: str
) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    message = f'save.tracking={tracker} needs the package {tracker}; install it: pip install "{tracker}{versions}"'
    with pytest.raises(MissingDependencyError, match=message):
        make_accelerator(runs.config(save={"tracking": tracker}), tmp_path)


def test_processes_that_do_not_see_the_same(tmp_path: Path) -> None:
    def member() -> None:
        dist.init_process_group("gloo")
        rank = distributed.rank()
        check_agreement("step-00000001", tmp_path)
        try:
            check_agreement(["step-00000001", ""][rank], tmp_path)
        except ConfigError as error:
            (tmp_path / f"{rank}.json").write_text(json.dumps(str(error)))
        dist.destroy_process_group()

    runs.together(member, tmp_path)
    for rank in range(2):
        told = json.loads((tmp_path / f"{rank}.json").read_text())
        assert told.startswith(f"the processes see different checkpoints in {tmp_path} (step-00000001, none): put")

"""What a run has learned, as tensors, and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from coda_deploy import CodaTokenizer, WeightsError
from coda_deploy.train.build import build_tokenizer
from coda_deploy.train.config import OptimSection
from coda_deploy.train.discriminator import Discriminator
from coda_deploy.train.state import RunState, own_memory
from tests.deploy.train import runs


def make(workspace: runs.Workspace, *, judged: bool = True, **tokenizer: object) -> RunState:
    built = build_tokenizer(runs.config(tokenizer=tokenizer), workspace.vae)
    built.vae.to(memory_format=torch.channels_last)
    torch.manual_seed(0)
    heads = Discriminator(4, 1) if judged else None
    return RunState(built.train(), heads, OptimSection(weight_decay=0.1, weight_decay_discriminator=0.2))


def work(state: RunState, steps: int = 2, start: int = 0) -> None:
    """Steps with gradients drawn from their number."""
    assert state.heads is not None
    assert state.heads_optimizer is not None
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        state.set_learning_rates(0.1 * (step + 1), 0.2, 0.3)
        features = [torch.randn(2, 4, 9, generator=generator)]
        state.heads(features).sum().backward()
        for _, parameter in state.model.trainable():
            parameter.grad = torch.randn(parameter.shape, generator=generator).contiguous(
                memory_format=torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
            )
        for optimizer in (state.optimizer, state.heads_optimizer):
            optimizer.step()
            optimizer.zero_grad()
        state.ema.update(0.5)
        state.seen += 1


@pytest.fixture(scope="module")
def worked(workspace: runs.Workspace) -> dict[str, Tensor]:
    """Tensors of two steps; not to be changed."""
    state = make(workspace)
    work(state)
    return {name: tensor.clone().contiguous() for name, tensor in state.tensors().items()}


def test_it_goes_on_as_if_nothing_had_been(workspace: runs.Workspace, worked: dict[str, Tensor]) -> None:
    loaded = make(workspace)
    loaded.load(worked, "here")
    expected = make(workspace)
    work(expected, 2)
    for state, start in ((loaded, 2), (expected, 2)):
        work(state, 3, start)
    found, wanted = loaded.tensors(), expected.tensors()
    assert found.keys() == wanted.keys()
    assert [name for name in found if not torch.equal(found[name], wanted[name])] == []
    # Computed in one layout too: it decides which of a processor's instructions round.
    assert [name for name in found if found[name].stride() != wanted[name].stride()] == []


def test_what_is_kept(workspace: runs.Workspace, worked: dict[str, Tensor]) -> None:
    names = {name for name, _ in make(workspace).model.trainable()}
    for prefix in ("raw.", "ema."):
        assert {name.removeprefix(prefix) for name in worked if name.startswith(prefix)} == names
    assert {f"optimizer.{name}.exp_avg_sq" for name in names} <= worked.keys()
    # The state of the power iteration too.
    assert any(name.startswith("heads.") and name.endswith("_u") for name in worked)
    assert torch.equal(worked["seen"], torch.full((32,), 2))
    assert worked["optimizer.quantizer.codebook.step"] == 2
    assert not torch.equal(worked["raw.quantizer.codebook"], worked["ema.quantizer.codebook"])


def test_a_checkpoint_of_before_the_first_step(workspace: runs.Workspace) -> None:
    fresh = make(workspace)
    tensors = {name: tensor.clone() for name, tensor in fresh.tensors().items()}
    loaded = make(workspace)
    loaded.load(tensors, "here")
    for state in (fresh, loaded):
        torch.manual_seed(0)
        work(state, 1)
    assert torch.equal(loaded.tensors()["raw.quantizer.codebook"], fresh.tensors()["raw.quantizer.codebook"])


@pytest.mark.parametrize("name", ["seen", "raw.quantizer.codebook", "optimizer.quantizer.codebook.exp_avg"])
def test_a_missing_tensor(workspace: runs.Workspace, worked: dict[str, Tensor], name: str) -> None:
    with pytest.raises(WeightsError, match=f"^here has no '{name}': is it a checkpoint of this configuration"):
        make(workspace).load({key: worked[key] for key in worked if key != name}, "here")


def test_a_misshapen_tensor(workspace: runs.Workspace, worked: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match=r"'seen' has shape \[32\], expected \[64\]: it was trained with another"):
        make(workspace, vocab_size=64).load(worked, "here")


def test_a_tensor_too_many(workspace: runs.Workspace, worked: dict[str, Tensor]) -> None:
    count = sum(name.startswith("heads") for name in worked)
    with pytest.raises(WeightsError, match=rf"here has {count} unexpected keys, first 'heads"):
        make(workspace, judged=False).load(worked, "here")


def test_weight_decay_and_betas(workspace: runs.Workspace) -> None:
    state = make(workspace)
    assert state.heads_optimizer is not None
    assert {group["weight_decay"] for group in state.optimizer.param_groups} == {0.1}
    assert {group["weight_decay"] for group in state.heads_optimizer.param_groups} == {0.2}
    assert {group["betas"] for group in state.optimizer.param_groups} == {(0.5, 0.9)}


def test_without_lora(workspace: runs.Workspace, tmp_path: Path) -> None:
    state = make(workspace, judged=False, lora_rank=0)
    assert [group["kind"] for group in state.optimizer.param_groups] == ["quantizer"]
    state.set_learning_rates(1.0, 2.0, 3.0)
    assert [group["lr"] for group in state.optimizer.param_groups] == [2.0]
    state.model.save_pretrained(tmp_path)
    assert CodaTokenizer.from_pretrained(tmp_path).config.lora is None


def test_averages_start_again_from_what_the_warm_up_left(workspace: runs.Workspace) -> None:
    state = make(workspace)
    with torch.no_grad():
        state.model.quantizer.codebook += 1
    assert not torch.equal(state.ema.averages["quantizer.codebook"], state.model.quantizer.codebook)
    state.restart_averages()
    assert torch.equal(state.ema.averages["quantizer.codebook"], state.model.quantizer.codebook)


def test_weights_get_memory_of_their_own(tmp_path: Path) -> None:
    """What safetensors loads begins anywhere: MKL's last digits depend on it on some processors."""
    save_file({"odd": torch.zeros(1, dtype=torch.uint8), "weight": torch.ones(3, 5)}, tmp_path / "weights.safetensors")
    module = nn.Linear(5, 3).to(memory_format=torch.channels_last)
    module.weight.data = load_file(tmp_path / "weights.safetensors")["weight"]
    module.register_buffer("table", torch.arange(9.0)[1:])
    weight, optimizer = module.weight, torch.optim.AdamW(module.parameters())
    assert any(tensor.data_ptr() % 64 for tensor in (module.weight, module.table))
    own_memory(module)
    assert [tensor.data_ptr() % 64 for tensor in (*module.parameters(), *module.buffers())] == [0, 0, 0]
    assert module.weight is weight is optimizer.param_groups[0]["params"][0]
    assert torch.equal(module.weight, torch.ones(3, 5))
    assert module.table.tolist() == list(range(1, 9))

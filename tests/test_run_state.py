"""The state of a run on disk."""

from pathlib import Path

import pytest
import torch
from torch import nn

from phaseveil.errors import CheckpointError, ConfigError, TrainingError
from phaseveil.run_state import begun, load_state, require_finite, save_state, seeded


def network_and_optimizer(width: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    network = nn.Sequential(nn.Conv2d(2, width, 3), nn.BatchNorm2d(width)).to(memory_format=torch.channels_last)
    return network, torch.optim.AdamW(network.parameters(), lr=0.1)


def take_step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    network(torch.ones(2, 2, 4, 4)).square().sum().backward()
    optimizer.step()


def test_round_trip_restores_everything(tmp_path: Path) -> None:
    network, optimizer = network_and_optimizer()
    take_step(network, optimizer)
    save_state(tmp_path / "state.safetensors", {}, 7, {"net": network}, {"adam": optimizer}, {"value": 1.25})
    again, its_optimizer = network_and_optimizer()
    step, numbers = load_state(tmp_path / "state.safetensors", {"net": again}, {"adam": its_optimizer})
    assert (step, numbers) == (7, {"value": 1.25})
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    for index, slots in optimizer.state_dict()["state"].items():
        for slot, value in slots.items():
            assert torch.equal(value, its_optimizer.state_dict()["state"][index][slot])
    take_step(network, optimizer)
    take_step(again, its_optimizer)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_another_network_is_refused_untouched(tmp_path: Path) -> None:
    network, optimizer = network_and_optimizer()
    save_state(tmp_path / "state.safetensors", {}, 1, {"net": network}, {"adam": optimizer})
    other, its_optimizer = network_and_optimizer(width=4)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError, match="weights do not fit Sequential"):
        load_state(tmp_path / "state.safetensors", {"net": other}, {"adam": its_optimizer})
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_an_optimiser_of_more_parameters_is_refused(tmp_path: Path) -> None:
    network, optimizer = network_and_optimizer()
    take_step(network, optimizer)
    save_state(tmp_path / "state.safetensors", {}, 1, {"net": network}, {"adam": optimizer})
    fewer = torch.optim.AdamW([next(network.parameters())])
    with pytest.raises(CheckpointError, match="optimiser 'adam' has more parameters"):
        load_state(tmp_path / "state.safetensors", {"net": network}, {"adam": fewer})


def test_weights_of_another_kind_are_no_state(tiny_weights: Path) -> None:
    network, optimizer = network_and_optimizer()
    with pytest.raises(CheckpointError, match="holds 'heatmap' weights, but 'training' weights are needed"):
        load_state(tiny_weights / "heatmap.safetensors", {"net": network}, {"adam": optimizer})


def test_each_seed_step_and_purpose_has_numbers_of_its_own() -> None:
    keys = [(seed, step, purpose) for seed in (0, 1) for step in (0, 1, 500) for purpose in (0, 1, 5)]
    drawn = {torch.rand(2, generator=seeded(*key)).sum().item() for key in keys}
    assert len(drawn) == len(keys)
    assert torch.equal(torch.rand(3, generator=seeded(1, 2, 3)), torch.rand(3, generator=seeded(1, 2, 3)))


def test_a_diverged_step_is_refused() -> None:
    require_finite({"landmark": 0.1}, 3)
    with pytest.raises(TrainingError, match="step 3: r1 not finite"):
        require_finite({"landmark": 0.1, "r1": float("nan")}, 3)


def test_a_run_of_this_very_configuration_was_begun_or_not(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    config = {"steps": 3, "seed": 0, "out": "a"}
    assert not begun(state, config)
    save_state(state, config, 1, {"net": nn.Linear(1, 1)}, {})
    assert begun(state, config)
    assert begun(state, config | {"out": "b"}, places=("out",))
    with pytest.raises(ConfigError, match=r"state\.safetensors: begun with another out, steps; choose another --out"):
        begun(state, config | {"out": "b", "steps": 4})
    with pytest.raises(ConfigError, match="another rate"):
        begun(state, config | {"rate": 1})

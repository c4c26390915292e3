"""The running mean of weights."""

import pytest
import torch
from torch import nn

from phaseveil.training.ema import ModelEMA


def test_it_is_a_copy_that_does_not_learn() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = ModelEMA(network)
    assert not ema.module.training
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    network[0].weight.data.zero_()  # type: ignore[union-attr]
    assert ema.module[0].weight.abs().sum() > 0


@pytest.mark.parametrize(("step", "share"), [(0, 0.9), (8, 0.5), (10**6, 0.01)])
def test_each_update_goes_its_share_of_the_way(step: int, share: float) -> None:
    network = nn.Linear(3, 1)
    ema = ModelEMA(network, decay=0.99)
    before = ema.module.weight.clone()
    network.weight.data.add_(1.0)
    ema.update(network, step)
    torch.testing.assert_close(ema.module.weight.data, before + share)


def test_the_mean_of_a_run_that_goes_on_keeps_its_decay_from_the_first_step() -> None:
    network = nn.Linear(3, 1)
    ema = ModelEMA(network, decay=0.99, ramp=False)
    before = ema.module.weight.clone()
    network.weight.data.add_(1.0)
    ema.update(network, step=0)
    torch.testing.assert_close(ema.module.weight.data, before + 0.01)


def test_statistics_are_averaged_and_counters_copied() -> None:
    network = nn.BatchNorm1d(2)
    ema = ModelEMA(network, decay=0.5)
    network.running_mean.fill_(4.0)  # type: ignore[union-attr]
    network.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    ema.update(network, step=1000)
    torch.testing.assert_close(ema.module.running_mean, torch.full((2,), 2.0))
    assert ema.module.num_batches_tracked == 7

"""The bank of style codes."""

import torch

from phaseveil.training.style_bank import StyleBank


def test_the_bank_remembers_the_last_codes_of_each_domain() -> None:
    bank = StyleBank(style_dim=2, capacity=4)
    draws = torch.Generator().manual_seed(0)
    assert bank.draw(0, 1, draws) is None
    bank.add(torch.arange(12.0).reshape(6, 2), torch.tensor([0, 0, 0, 0, 0, 1]))
    kept = bank.draw(0, 4, draws)
    assert kept is not None
    assert sorted(kept[:, 0].tolist()) == [2.0, 4.0, 6.0, 8.0]  # the first has been overwritten
    only = bank.draw(1, 1, draws)
    assert only is not None
    assert only.tolist() == [[10.0, 11.0]]
    assert bank.draw(1, 2, draws) is None

"""What a seed draws."""

import pytest
import torch

from phaseveil import PhaseVeil
from phaseveil.errors import ConfigError
from phaseveil.seeds import SEEDS, draw_domain, draw_latent, face_seed, require_seed

SIZE = 64


@pytest.mark.parametrize("even", [0, 2, 6, 2**31, SEEDS - 2])
def test_an_odd_seed_is_the_opposite_of_the_even_one_before_it(even: int) -> None:
    latent = draw_latent(even, SIZE)
    assert torch.equal(latent, draw_latent(even, SIZE))
    assert torch.equal(draw_latent(even + 1, SIZE), -latent)


def test_latents_of_other_seeds_are_independent() -> None:
    latents = torch.stack([draw_latent(seed, SIZE) for seed in range(0, 400, 2)])
    assert latents.mean() == pytest.approx(0, abs=0.05)
    assert latents.std() == pytest.approx(1, abs=0.05)
    alike = torch.corrcoef(latents) - torch.eye(len(latents))
    assert alike.mean() == pytest.approx(0, abs=0.01)
    assert alike.std() == pytest.approx(SIZE**-0.5, rel=0.1)


def test_domains_do_not_depend_on_whether_a_seed_is_odd() -> None:
    drawn = torch.tensor([draw_domain(seed, SIZE, 2) for seed in range(1000)])
    for some in (drawn[::2], drawn[1::2], (drawn[::2] == drawn[1::2])):
        assert some.float().mean() == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize("first", [0, 1, 7, 1000, SEEDS - 1])
def test_every_face_has_a_seed_of_its_own_and_is_paired_with_its_opposite(first: int) -> None:
    seeds = [face_seed(first, number) for number in range(12)]
    assert seeds[0] == first
    assert len(set(seeds)) == 12
    for seed, other in zip(seeds[::2], seeds[1::2], strict=True):
        require_seed(seed)
        assert torch.equal(draw_latent(seed, SIZE), -draw_latent(other, SIZE))


@pytest.mark.parametrize("seed", [-1, SEEDS])
def test_what_is_no_seed_is_refused(seed: int) -> None:
    with pytest.raises(ConfigError, match=f"the seed must lie between 0 and {SEEDS - 1}, got {seed}"):
        require_seed(seed)


def test_neighbouring_seeds_have_unlike_styles() -> None:
    """Two random styles of one domain have a cosine of 0.13 in the mean, a tenth of them above 0.6."""
    pipeline = PhaseVeil.from_pretrained()
    for domain in ("female", "male"):
        even, odd = (pipeline.latent_styles(range(first, 64, 2), domain) for first in (0, 1))
        alike = torch.cosine_similarity(even, odd)
        assert alike.mean() < -0.4
        assert alike.quantile(0.9) < 0

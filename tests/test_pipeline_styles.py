"""Style strength: the truncation trick on the sphere of styles."""

import math
from pathlib import Path

import pytest
import torch

from phaseveil import PhaseVeil
from phaseveil.errors import ConfigError
from phaseveil.optics.camera import load_camera
from phaseveil.pipeline import STRENGTH


@pytest.fixture(scope="module")
def pipeline(tiny_weights: Path) -> PhaseVeil:
    return PhaseVeil.from_pretrained(tiny_weights, dtype=torch.float32)


def angles(styles: torch.Tensor, towards: torch.Tensor) -> torch.Tensor:
    return torch.acos(torch.cosine_similarity(styles, towards, dim=-1).clamp(-1, 1))


def test_full_strength_is_the_seeds_own_style(pipeline: PhaseVeil) -> None:
    seeds = list(range(6))
    own = pipeline.latent_styles(seeds, strength=1.0)
    torch.testing.assert_close(pipeline.latent_styles(seeds, strength=1 - 1e-6), own, rtol=0, atol=1e-4)
    assert torch.equal(pipeline.latent_styles(seeds), pipeline.latent_styles(seeds, strength=STRENGTH))


@pytest.mark.parametrize(("domain", "index"), [("female", 0), ("male", 1)])
def test_no_strength_gives_every_seed_its_domains_mean(pipeline: PhaseVeil, domain: str, index: int) -> None:
    styles = pipeline.latent_styles([1, 2, 3], domain, strength=0.0)
    assert (styles == styles[0]).all()
    mean = pipeline.mean_styles()[index]
    torch.testing.assert_close(styles[0], mean / mean.square().mean().sqrt(), rtol=1e-3, atol=1e-3)


def test_strength_is_the_share_of_the_angle_from_the_mean(pipeline: PhaseVeil) -> None:
    mean = pipeline.mean_styles()[0]
    whole = angles(pipeline.latent_styles([4, 5], "female", 1.0), mean)
    for strength in (0.25, 0.5, 1.25):
        away = angles(pipeline.latent_styles([4, 5], "female", strength), mean)
        torch.testing.assert_close(away, strength * whole, rtol=0, atol=2e-3)
    rms = pipeline.latent_styles([4, 5], "female", 0.5).square().mean(dim=1).sqrt()
    torch.testing.assert_close(rms, torch.ones(2), rtol=0, atol=1e-4)


def test_a_drawn_domain_goes_to_its_own_mean(pipeline: PhaseVeil) -> None:
    seeds = list(range(8))
    drawn = pipeline.latent_styles(seeds, strength=0.0)
    female, male = (pipeline.latent_styles(seeds, domain, 0.0) for domain in ("female", "male"))
    is_female = (pipeline.latent_styles(seeds) == pipeline.latent_styles(seeds, "female")).all(dim=1)
    assert torch.equal(drawn, torch.where(is_female[:, None], female, male))


def test_the_mean_style_is_that_of_many_latents(pipeline: PhaseVeil) -> None:
    assert torch.equal(pipeline.mean_styles(), pipeline.mean_styles())
    many = pipeline.latent_styles(range(2000), "male", 1.0).mean(dim=0)
    torch.testing.assert_close(pipeline.mean_styles()[1], many, rtol=0, atol=0.15)


@pytest.mark.parametrize("strength", [-0.1, math.inf, math.nan])
def test_an_impossible_strength_is_refused(pipeline: PhaseVeil, strength: float) -> None:
    with pytest.raises(ConfigError, match="style strength must be a number from 0 on"):
        pipeline.latent_styles([0], strength=strength)


def test_the_same_networks_stand_behind_another_camera(pipeline: PhaseVeil) -> None:
    clear = pipeline.with_camera(load_camera("identity"))
    scene = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert clear.engine is pipeline.engine
    assert (clear.acquire(scene, [0]) - scene).abs().mean() < (pipeline.acquire(scene, [0]) - scene).abs().mean()

"""Stage II's losses on a handful of synthetic faces: each trains what it claims, and nothing else."""

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from tests.training.face_cases import elsewhere
from torch import Tensor, nn

from phaseveil.data.datasets import load_faces
from phaseveil.data.transforms import recolour
from phaseveil.metrics.dlib_resnet import aligned_chips
from phaseveil.models.discriminator import Discriminator
from phaseveil.models.generator import ModulatedConv
from phaseveil.training import face as stage
from phaseveil.training import face_run as beginning
from phaseveil.training.face_batches import FaceStep, draw_step
from phaseveil.training.face_config import FaceLossWeights, FaceTraining
from phaseveil.training.face_losses import (
    cycle_loss,
    detector_loss,
    discriminator_loss,
    generator_losses,
    identity_loss,
    mirror_loss,
    r1_loss,
    style_losses,
)
from phaseveil.training.parallel import Processes, mixed_precision

pytestmark = pytest.mark.usefixtures("no_tensorboard")


class TinyRecogniser(nn.Module):
    """Stands in for dlib's network: chips to embeddings that lie close together."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.AvgPool2d(10), nn.Flatten(), nn.Linear(3 * 15 * 15, 16))
        self.requires_grad_(False)

    def forward(self, chips: Tensor) -> Tensor:
        return 0.1 * self.layers(chips)  # type: ignore[no-any-return]


class Example:
    """A run at its start and one batch of 16 with both domains among references and latents."""

    def __init__(self, config: FaceTraining) -> None:
        config = elsewhere(config, Path(config.out), batch_size=16)
        self.run = beginning.start_run(config, Processes())
        faces = load_faces(config.data, "train", 32)
        for number in range(20):
            self.batch: FaceStep = draw_step(faces, self.run.camera, self.run.heatmap_net, config, number, "cpu")
            if len(self.batch.domain[-4:].unique()) == len(self.batch.domain[:8].unique()) == 2:
                break
        self.drawn = stage._draw(self.batch, self.run)
        self.style, self.fake = self.drawn.style, self.drawn.fake

    def loss(self, name: str) -> Tensor:
        batch, run = self.batch, self.run
        if name == "cycle":
            return cycle_loss(batch, self.fake, run)
        if name == "identity":
            recogniser = TinyRecogniser()
            return identity_loss(batch, self.fake, lambda faces, points: recogniser(aligned_chips(faces, points)), 0.8)
        if name == "detector":
            return detector_loss(batch, self.fake, beginning._detector("cpu"))
        if name == "discriminator":
            return discriminator_loss(batch, self.drawn, run.discriminator)
        if name == "r1":
            assert isinstance(run.discriminator, Discriminator)
            return r1_loss(batch, run.discriminator)
        if name in ("style_prior", "uniformity"):
            run.bank.add(torch.randn(64, 8), torch.arange(64) % 2)
            return style_losses(batch, self.style, run, torch.Generator().manual_seed(0), count=16)[name]
        return generator_losses(batch, self.drawn, run, FaceLossWeights())[name]


READERS = ("generator", "style_encoder")  # the mapping network learns from the style prior alone
TRAINS = {
    "adversarial": READERS,
    "reconstruction": READERS,
    "perceptual": READERS,
    "reference": READERS,
    "style": READERS,
    "diversity": READERS,
    "mirror": READERS,
    "cycle": READERS,
    "heatmap": READERS,
    "landmark": READERS,
    "expression": READERS,
    "detector": READERS,
    "identity": READERS,
    "uniformity": ("style_encoder",),
    "style_prior": ("mapping",),
    "discriminator": ("discriminator",),
    "r1": ("discriminator",),
}
# Behind the last nonlinear layer but one, an offset does not change the verdict's gradient.
EXEMPT = {"r1": {"last.bias", "heads.bias"}}


def test_the_list_of_losses_is_complete(config: FaceTraining) -> None:
    assert set(TRAINS) == set(vars(config.weights)) | {"discriminator"}


@pytest.mark.parametrize("name", TRAINS)
def test_every_loss_reaches_every_parameter_that_it_trains(config: FaceTraining, name: str) -> None:
    example = Example(config)
    example.loss(name).backward()
    modules = {"discriminator": example.run.discriminator, **dict(example.run.networks.named_children())}
    for module in TRAINS[name]:
        for key, parameter in modules[module].named_parameters():
            if key not in EXEMPT.get(name, set()):
                assert parameter.grad is not None, f"{module}.{key}"
                assert parameter.grad.isfinite().all(), f"{module}.{key}"
                assert parameter.grad.abs().sum() > 0, f"{module}.{key}"


@pytest.mark.parametrize("name", ["adversarial", "discriminator"])
def test_the_verdict_on_features_reaches_every_parameter_that_it_trains(config: FaceTraining, name: str) -> None:
    example = Example(elsewhere(config, Path(config.out), judged_by="features"))
    example.loss(name).backward()
    modules = {"discriminator": example.run.discriminator, **dict(example.run.networks.named_children())}
    for module in TRAINS[name]:
        for key, parameter in modules[module].named_parameters():
            assert parameter.grad is not None, f"{module}.{key}"
            assert parameter.grad.abs().sum() > 0, f"{module}.{key}"
    assert all(parameter.grad is None for parameter in example.run.perceptual.parameters())


def test_the_detector_asks_for_the_source_s_geometry(config: FaceTraining) -> None:
    """It is pleased by the source itself, and the less, the farther a face has moved."""
    batch = Example(config).batch
    landmarks = torch.full_like(batch.landmarks, 0.5)
    landmarks[:, 36:42, 0], landmarks[:, 42:48, 0] = 0.35, 0.65
    batch = dataclasses.replace(batch, landmarks=landmarks)
    detector = beginning._detector("cpu")
    moved = [detector_loss(batch, batch.source.roll(pixels, -1), detector).item() for pixels in (0, 1, 3)]
    assert moved[0] == 0
    assert 0 < moved[1] < moved[2]


def test_the_identity_margin_asks_for_more_distance(config: FaceTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faces that lie far below either margin lack just as much more as the margin is larger."""
    monkeypatch.setattr(beginning, "DlibResNet", TinyRecogniser)
    paid = {}
    for margin in (0.8, 0.9):
        changed = elsewhere(config, Path(config.out), weights={"identity": 1.0}, identity_margin=margin)
        example = Example(changed)
        losses = stage._network_losses(0, example.batch, example.drawn, example.run, changed)
        paid[margin] = losses["identity"].item()
    assert paid[0.9] - paid[0.8] == pytest.approx(0.1, abs=1e-3)


def test_the_recogniser_looks_through_its_camera(config: FaceTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of one pixel moves the embedding of a face, but less so through a blur."""
    monkeypatch.setattr(beginning, "DlibResNet", TinyRecogniser)
    blur = Path(config.out).with_suffix(".yaml")
    blur.write_text("kind: gaussian\ngaussian_sigma: 0.1\npsf_support: 0.7\n", encoding="utf-8")
    faces = torch.full((1, 3, 32, 32), 0.5)
    lined = faces.clone()
    lined[:, :, 16] = 0
    points = Example(config).batch.landmarks[:1]
    moved = {}
    for camera in ("", str(blur)):
        recogniser = beginning._recogniser(elsewhere(config, Path(config.out), identity_camera=camera), "cpu")
        moved[camera] = (recogniser(lined, points) - recogniser(faces, points)).norm().item()
    assert 0 < moved[str(blur)] < moved[""]


def test_likeness_is_measured_face_by_face(config: FaceTraining) -> None:
    """What the perceptual network saw once serves both distances: they are those of the images themselves."""
    example = Example(config)
    batch, fake, run = example.batch, example.fake, example.run
    asked = run.perceptual(fake[:8], batch.source[:8]), run.perceptual(fake[8:12], batch.reference[8:12])
    got = [example.loss(name) for name in ("perceptual", "reference")]
    for value, distance in zip(got, asked, strict=True):
        assert torch.allclose(value, distance.mean(), rtol=0.02)  # batches of another size round otherwise in bf16


def test_the_perceptual_network_looks_at_no_more_faces_than_are_judged(config: FaceTraining) -> None:
    for judged_by, faces in (("pixels", 12), ("features", 16)):
        drawn = Example(elsewhere(config, Path(config.out), judged_by=judged_by)).drawn
        assert {len(stage) for stage in (*drawn.seen, *drawn.reference_seen)} == {faces}


def test_face_and_reference_are_looked_at_in_the_same_other_colours(config: FaceTraining) -> None:
    example = Example(elsewhere(config, Path(config.out), judged_by="features", recoloured=1.0))
    batch, drawn, run = example.batch, example.drawn, example.run
    assert all(not torch.equal(*pair) for pair in itertools.combinations(batch.recolouring, 2))
    for images, seen in ((drawn.fake, drawn.seen), (batch.reference, drawn.reference_seen)):
        with mixed_precision("cpu"):
            asked = run.perceptual.activations(recolour(images, batch.recolouring))
        assert all(torch.equal(*stage) for stage in zip(seen, asked, strict=True))


@pytest.mark.parametrize("name", ["diversity", "mirror"])
def test_no_second_face_is_drawn_where_its_loss_has_no_weight(config: FaceTraining, name: str) -> None:
    example, drawn = Example(config), []
    example.run.networks.generator.register_forward_hook(lambda *_: drawn.append(1))
    found = {}
    for weight in (0.1, 0.0):
        weights = FaceLossWeights(**{"diversity": 0.0, "mirror": 0.0, name: weight})
        found[weight] = generator_losses(example.batch, example.drawn, example.run, weights)
        drawn.append(0)
    assert drawn == [1, 0, 0]
    assert found[0.1].keys() - found[0.0].keys() == {name}


def test_a_generator_that_treats_both_sides_alike_has_no_mirror_loss(config: FaceTraining) -> None:
    example = Example(config)
    lopsided = mirror_loss(example.batch, example.drawn, example.run).item()
    for module in example.run.networks.generator.modules():  # symmetric kernels
        if isinstance(module, nn.Conv2d | ModulatedConv):
            module.weight.data = (module.weight.data + module.weight.data.flip(-1)) / 2
    batch, generator = example.batch, example.run.networks.generator
    pixels = generator.stem.weight.data[:, :12]  # mirroring exchanges the places that unshuffling makes channels of
    pixels.copy_(pixels.mean(dim=1, keepdim=True).expand_as(pixels))
    with torch.no_grad():  # without noise, so that both acquisitions are of the same light
        acquired = example.run.camera(batch.source)
        batch = dataclasses.replace(batch, acquisition=acquired, heatmap=example.run.heatmap_net(acquired).heatmap)
    fake = generator(batch.acquisition, batch.heatmap, example.style)
    alike = mirror_loss(batch, dataclasses.replace(example.drawn, fake=fake), example.run).item()
    assert alike < lopsided / 10


def test_the_mirror_loss_sees_single_columns(config: FaceTraining) -> None:
    example = Example(config)
    columns = torch.zeros_like(example.fake)
    columns[..., ::2] = 1  # mirrored, black and white change places; pooled, all is grey
    example.run.networks.generator.register_forward_hook(lambda module, given, found: columns[: len(found)])
    loss = mirror_loss(example.batch, dataclasses.replace(example.drawn, fake=columns), example.run)
    assert loss.item() == pytest.approx(2)


def test_what_is_fixed_takes_no_gradient(config: FaceTraining) -> None:
    run = Example(config).run
    for module in (run.camera, run.heatmap_net, run.perceptual, run.ema.module):
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_latent_styles_are_compared_once_the_bank_holds_enough(config: FaceTraining) -> None:
    example = Example(config)
    draws = torch.Generator().manual_seed(0)
    assert set(style_losses(example.batch, example.style, example.run, draws, count=100)) == {"uniformity"}
    named = style_losses(example.batch, example.style, example.run, draws, count=2)
    assert set(named) == {"uniformity", "style_prior"}

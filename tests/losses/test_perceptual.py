import os
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from phaseveil.errors import CheckpointError
from phaseveil.losses.perceptual import LPIPS

CONVOLUTIONS = {
    "alex": {
        0: (3, 64, 11, 4, 2),
        3: (64, 192, 5, 1, 2),
        6: (192, 384, 3, 1, 1),
        8: (384, 256, 3, 1, 1),
        10: (256, 256, 3, 1, 1),
    },
    "vgg16": {
        index: (inputs, outputs, 3, 1, 1)
        for index, inputs, outputs in (
            *((0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128)),
            *((10, 128, 256), (12, 256, 256), (14, 256, 256), (17, 256, 512), (19, 512, 512), (21, 512, 512)),
            *((24, 512, 512), (26, 512, 512), (28, 512, 512)),
        )
    },
}
POOLS = {"alex": {2: (3, 2), 5: (3, 2)}, "vgg16": {4: (2, 2), 9: (2, 2), 16: (2, 2), 23: (2, 2)}}
TAPS = {"alex": (1, 4, 7, 9, 11), "vgg16": (3, 8, 15, 22, 29)}  # ReLUs, torchvision's indices


def random_state(name: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for index, (inputs, outputs, kernel, _, _) in CONVOLUTIONS[name].items():
        weight = torch.randn(outputs, inputs, kernel, kernel, generator=generator)
        state[f"features.{index}.weight"] = weight * (2 / (inputs * kernel**2)) ** 0.5
        state[f"features.{index}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
    widths = [shape[1] for index, shape in CONVOLUTIONS[name].items() if index + 1 in TAPS[name]]
    for level, width in enumerate(widths):
        state[f"lin{level}.weight"] = torch.rand(1, width, 1, 1, generator=generator)
    return {key: tensor.to(dtype) for key, tensor in state.items()}


def reference_distance(name: str, state: dict[str, Tensor], first: Tensor, second: Tensor) -> Tensor:
    """LPIPS written after the authors' package: torchvision's sequence, unit vectors, heads, spatial mean, sum."""
    layers: list[nn.Module] = []
    for index in range(max(TAPS[name]) + 1):
        if index in CONVOLUTIONS[name]:
            layers.append(nn.Conv2d(*CONVOLUTIONS[name][index]))
        else:
            layers.append(nn.MaxPool2d(*POOLS[name][index]) if index in POOLS[name] else nn.ReLU())
    trunk = nn.Sequential(*layers)
    trunk.load_state_dict({k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")})
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, y = ((2 * image - 1 - shift[:, None, None]) / scale[:, None, None] for image in (first, second))
    total, level = torch.zeros(len(first)), 0
    for index, layer in enumerate(trunk):
        x, y = layer(x), layer(y)
        if index in TAPS[name]:
            unit = [t / t.norm(dim=1, keepdim=True).clamp_min(1e-10) for t in (x, y)]
            total = total + nn.functional.conv2d((unit[0] - unit[1]) ** 2, state[f"lin{level}.weight"]).mean(
                dim=(1, 2, 3)
            )
            level += 1
    return total


def images(count: int = 2, size: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, size, size, generator=generator), torch.rand(count, 3, size, size, generator=generator)


@pytest.fixture(scope="module")
def alex() -> LPIPS:
    return LPIPS(random_state("alex"))


@pytest.mark.parametrize("name", ["alex", "vgg16"])
def test_agrees_with_the_definition_on_torchvisions_layout(name: str) -> None:
    state = random_state(name)
    first, second = images(size=48)
    with torch.no_grad():
        assert torch.allclose(LPIPS(state)(first, second), reference_distance(name, state, first, second), rtol=1e-4)


def test_equal_images_are_at_distance_zero_and_order_does_not_matter(alex: LPIPS) -> None:
    first, second = images()
    assert alex(first, first).abs().max() == 0
    assert torch.allclose(alex(first, second), alex(second, first))


def test_gradient_reaches_the_image_and_no_weight(alex: LPIPS) -> None:
    first, second = images()
    alex(first.requires_grad_(), second).sum().backward()
    assert first.grad is not None
    assert first.grad.abs().sum() > 0
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in alex.parameters())


def test_gradient_is_finite_where_features_vanish() -> None:
    state = {name: torch.zeros_like(t) if name.endswith("bias") else t for name, t in random_state("alex").items()}
    network = LPIPS(state)
    grey = ((network.shift + 1) / 2).expand(1, 3, 64, 64).clone().requires_grad_()  # exactly 0 after normalisation
    network(grey, images(1)[0]).sum().backward()
    assert grey.grad is not None
    assert grey.grad.isfinite().all()


def test_a_reference_can_be_embedded_once(alex: LPIPS) -> None:
    first, second = images()
    with torch.no_grad():
        reference = alex.embed(second)
    assert torch.allclose(alex.distance(alex.embed(first), reference), alex(first, second))


def test_bf16_autocast_and_channels_last_agree_with_plain_float32(alex: LPIPS) -> None:
    first, second = images()
    plain = alex(first, second)
    with torch.autocast("cpu", torch.bfloat16):
        half = alex(first, second)
    last = alex(first.to(memory_format=torch.channels_last), second.to(memory_format=torch.channels_last))
    assert half.dtype == torch.float32
    assert torch.allclose(half, plain, rtol=0.02)
    assert torch.allclose(last, plain, rtol=1e-4)


def test_reads_half_precision_weights_from_a_file(tmp_path: Path, alex: LPIPS) -> None:
    path = tmp_path / "lpips.safetensors"
    save_file(random_state("alex", torch.float16), path)
    first, second = images()
    assert torch.allclose(LPIPS(path)(first, second), alex(first, second), rtol=1e-2)


def test_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"no weights")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign)
    with pytest.raises(CheckpointError, match="download perceptual"):
        LPIPS(tmp_path / "missing.safetensors")
    with pytest.raises(CheckpointError, match="damaged"):
        LPIPS(damaged)
    with pytest.raises(CheckpointError, match="AlexNet or VGG16"):
        LPIPS(foreign)


def test_refuses_an_incomplete_set_of_weights() -> None:
    state = random_state("alex")
    del state["lin4.weight"]
    with pytest.raises(CheckpointError, match=r"lin4\.weight"):
        LPIPS(state)


def test_embedding_is_the_activations_brought_to_unit_length(alex: LPIPS) -> None:
    frames = images()[0]
    raw, unit = alex.activations(frames), alex.embed(frames)
    assert alex.channels == tuple(level.shape[1] for level in raw) == (64, 192, 384, 256, 256)
    assert all(level.min() == 0 for level in raw)
    for one, other in zip(raw, unit, strict=True):
        assert torch.allclose(other, one / one.norm(dim=1, keepdim=True).clamp_min(1e-6), atol=1e-3)


@pytest.mark.skipif("PHASEVEIL_PERCEPTUAL" not in os.environ, reason="PHASEVEIL_PERCEPTUAL does not name lpips_alex")
def test_agrees_with_the_authors_package() -> None:
    lpips = pytest.importorskip("lpips", reason="needs the package lpips, and torchvision with it")
    path = os.environ["PHASEVEIL_PERCEPTUAL"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, of the way lpips calls it
        theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)  # heads from the package, no trunk fetched
    trunk = {name.removeprefix("features."): value for name, value in load_file(path).items() if "features" in name}
    for index, layer in ((name, child) for part in theirs.net.children() for name, child in part.named_children()):
        if isinstance(layer, nn.Conv2d):
            layer.load_state_dict({key: trunk[f"{index}.{key}"] for key in ("weight", "bias")})
    first, second = images(4, size=128)
    with torch.no_grad():
        expected = theirs(first, second, normalize=True).flatten()
        assert torch.allclose(LPIPS(path)(first, second), expected, rtol=1e-4)

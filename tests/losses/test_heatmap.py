"""Losses on geometry: values, invariances, and gradients to everything they train."""

import pytest
import torch
from torch import Tensor

from phaseveil.data.heatmaps import draw_heatmaps
from phaseveil.losses.heatmap import expression_loss, heatmap_loss, landmark_loss, teacher_loss
from phaseveil.models.heatmap import HeatmapConfig, HeatmapNet
from phaseveil.optics.camera import CameraConfig, PhaseMaskCamera


def face_points(batch: int = 2, seed: int = 0) -> Tensor:
    """Points spread over the frame, the eyes 0.3 apart. Shape ``(B, 68, 2)``."""
    points = 0.2 + 0.6 * torch.rand(batch, 68, 2, generator=torch.Generator().manual_seed(seed))
    points[:, 36:42] = torch.tensor([0.35, 0.35]) + 0.02 * points[:, 36:42]
    points[:, 42:48] = torch.tensor([0.65, 0.35]) + 0.02 * points[:, 42:48]
    return points


def logit(heatmap: Tensor) -> Tensor:
    return heatmap.clamp(1e-6, 1 - 1e-6).logit()


def test_heatmap_loss_is_nothing_at_the_target_and_grows_away_from_it() -> None:
    target = draw_heatmaps(face_points(), 16)
    exact, near, far = (heatmap_loss(logit(h), target).item() for h in (target, 0.9 * target, torch.zeros_like(target)))
    assert exact < 1e-9 < near < far


def test_heatmap_loss_sums_over_channels() -> None:
    target = torch.zeros(1, 5, 4, 4)
    logits = torch.full((1, 5, 4, 4), -20.0)
    logits[:, 2] = 20.0  # one channel all wrong: smooth L1 of 1 with beta 0.1 is 0.95
    assert heatmap_loss(logits, target).item() == pytest.approx(0.95, abs=1e-4)


def test_teacher_loss_draws_the_landmarks_at_the_logits_size() -> None:
    points = face_points()
    assert teacher_loss(logit(draw_heatmaps(points, 24)), points).item() < 1e-9
    assert teacher_loss(logit(draw_heatmaps(points + 0.1, 24)), points).item() > 0.01


def test_landmark_loss_counts_inter_ocular_distances() -> None:
    points = face_points()
    eyes = (points[:, 36:42].mean(dim=1) - points[:, 42:48].mean(dim=1)).norm(dim=-1)
    shifted = points + torch.tensor([0.03, 0.04])
    assert landmark_loss(shifted, points).item() == pytest.approx((0.05 / eyes).mean().item(), rel=1e-4)
    assert landmark_loss(3 * shifted, 3 * points).item() == pytest.approx((0.05 / eyes).mean().item(), rel=1e-4)


def test_expression_loss_ignores_where_the_head_is_and_sees_a_mouth_open() -> None:
    points = face_points()
    assert expression_loss(points + torch.tensor([0.1, -0.05]), points).item() == pytest.approx(0, abs=1e-6)
    jaw_moved = points.clone()
    jaw_moved[:, :17] += 0.2
    assert expression_loss(jaw_moved, points).item() == pytest.approx(0, abs=1e-6)
    open_mouth = points.clone()
    open_mouth[:, 55:60, 1] += 0.05
    assert expression_loss(open_mouth, points).item() > 0.005


@pytest.mark.parametrize("name", ["teacher", "landmark"])
def test_geometry_trains_the_network_and_through_the_acquisition_the_mask(name: str) -> None:
    torch.manual_seed(0)
    camera = PhaseMaskCamera(CameraConfig(aperture_radius=0.1e-3, pupil_samples=64, num_modes=8))
    camera.coefficients.data.uniform_(-1e-7, 1e-7)
    network = HeatmapNet(HeatmapConfig(size=32, width=4))
    output = network(camera(torch.rand(2, 3, 32, 32)))
    if name == "teacher":
        loss, head = teacher_loss(output.logits, face_points()), network.heatmap_head
        untouched = network.landmark_head
    else:
        loss, head = landmark_loss(output.landmarks, face_points()), network.landmark_head
        untouched = network.heatmap_head
    loss.backward()
    other = {id(parameter) for parameter in untouched.parameters()}
    if name == "landmark":  # read off at quarter resolution, below the last upward block
        other |= {id(parameter) for parameter in network.up[0].parameters()}
    trained = [p for p in [*camera.parameters(), *network.parameters()] if id(p) not in other]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in [*trained, *head.parameters()])
    assert torch.all(camera.coefficients.grad != 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", [landmark_loss, expression_loss])
def test_losses_on_points_have_right_gradients(loss) -> None:  # type: ignore[no-untyped-def]
    target = face_points(1).double()
    predicted = (face_points(1, seed=1).double() + 0.01).requires_grad_()
    assert torch.autograd.gradcheck(lambda points: loss(points, target), predicted, fast_mode=True)

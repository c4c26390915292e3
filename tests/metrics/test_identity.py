import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from phaseveil.errors import ConfigError
from phaseveil.metrics.identity import (
    DlibRecogniser,
    Pairs,
    Thresholds,
    area_under_curve,
    bootstrap_over_identities,
    equal_error_rate,
    rank_one,
    rank_one_by_chance,
    roc_curve,
    similarity,
    threshold_at,
    thresholds_on,
    verify,
)


def scores(shift: float, count: int = 2000) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    generator = np.random.default_rng(0)
    return generator.normal(shift, 1, count), generator.normal(0, 1, 3 * count)


def pairs(shift: float, people: int = 50) -> Pairs:
    generator = np.random.default_rng(1)
    identities = generator.integers(people, size=(4000, 2))
    identities[:1000, 1] = identities[:1000, 0]
    same = identities[:, 0] == identities[:, 1]
    return Pairs(generator.normal(0, 1, 4000) + shift * same, same, identities)


def test_threshold_lets_no_more_impostors_in_than_allowed() -> None:
    impostor = np.arange(10_000.0)
    threshold = threshold_at(impostor, 1e-3)
    assert (impostor >= threshold).sum() == 10


def test_threshold_stays_below_the_rate_when_scores_tie() -> None:
    impostor = np.repeat([0.0, 1.0], [990, 1010])
    assert (impostor >= threshold_at(impostor, 1e-2)).mean() <= 1e-2


def test_threshold_refuses_a_rate_that_too_few_pairs_can_tell() -> None:
    with pytest.raises(ConfigError, match="1000 impostor pairs"):
        threshold_at(np.zeros(500), 1e-3)


def test_thresholds_tell_the_stricter_rate_only_from_ten_thousand_pairs() -> None:
    scores = np.arange(10_000.0)
    strict = thresholds_on(scores)
    assert strict.fmr_1e4 is not None
    assert [(scores >= level).sum() for level in (strict.fmr_1e3, strict.fmr_1e4)] == [10, 1]
    assert thresholds_on(scores[:5000]).fmr_1e4 is None


def test_area_under_curve_agrees_with_scikit_learn() -> None:
    genuine, impostor = (np.round(values, 1) for values in scores(1.0))  # rounded, so that ties occur
    expected = roc_auc_score(np.repeat([1, 0], [len(genuine), len(impostor)]), np.concatenate([genuine, impostor]))
    assert area_under_curve(genuine, impostor) == pytest.approx(expected, abs=1e-12)


def test_equal_error_rate_of_two_gaussians() -> None:
    genuine, impostor = scores(2.0, count=20_000)
    assert equal_error_rate(genuine, impostor) == pytest.approx(0.1587, abs=0.005)  # Φ(-1)
    assert equal_error_rate([2.0, 3.0], [0.0, 1.0]) == 0


def test_roc_curve_runs_from_corner_to_corner() -> None:
    false_match, true_accept = roc_curve(*scores(1.0))
    assert (false_match[0], true_accept[0], false_match[-1], true_accept[-1]) == (0, 0, 1, 1)
    assert np.all(np.diff(false_match) >= 0)
    assert np.all(np.diff(true_accept) >= 0)


def test_verification_of_chance_and_of_perfection() -> None:
    chance = verify(pairs(0.0), thresholds_on(pairs(0.0).impostor), replicates=20)
    perfect = verify(pairs(50.0), Thresholds(25.0, 30.0), replicates=20)
    assert chance.auc.value == pytest.approx(0.5, abs=0.03)
    assert chance.tar.value == pytest.approx(0.001, abs=0.005)
    assert chance.tar_1e4 is None
    assert (perfect.tar.value, perfect.auc.value, perfect.eer.value, perfect.fmr) == (1, 1, 0, 0)
    assert perfect.tar_1e4 is not None
    assert perfect.tar_1e4.value == 1


def test_verification_fixes_one_threshold_and_refits_another() -> None:
    far = pairs(2.0)
    result = verify(far, Thresholds(1e6, None), replicates=20)
    assert (result.tar.value, result.fmr) == (0, 0)
    assert result.tar_refitted is not None
    assert result.tar_refitted.value > 0.1
    assert result.eer.low <= result.eer.value <= result.eer.high
    assert result.eer.value == pytest.approx(equal_error_rate(far.genuine, far.impostor), abs=1e-12)
    assert result.auc.value == pytest.approx(area_under_curve(far.genuine, far.impostor), abs=1e-12)
    assert (result.genuine_pairs, result.impostor_pairs) == (far.same.sum(), (~far.same).sum())


def test_verification_needs_both_kinds_of_pairs() -> None:
    with pytest.raises(ConfigError, match="genuine and impostor"):
        verify(Pairs(np.zeros(3), np.ones(3, bool), np.zeros((3, 2), np.int64)), Thresholds(0.0, None))


def test_bootstrap_repeats_with_its_seed_and_holds_the_value() -> None:
    data = pairs(1.0)

    def mean(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([weights @ data.scores / weights.sum()])

    first, again, other = (bootstrap_over_identities(mean, data, 50, seed)[0] for seed in (0, 0, 1))
    assert first == again != other
    assert first.low < first.value < first.high
    assert first.value == pytest.approx(data.scores.mean())


def test_bootstrap_draws_identities_and_not_pairs() -> None:
    """A hundred pairs of two persons say no more than two pairs: the interval must stay wide."""
    identities = np.repeat([[0, 0], [1, 1]], 50, axis=0)
    data = Pairs(identities[:, 0].astype(float), np.ones(100, bool), identities)
    interval = bootstrap_over_identities(lambda w: np.array([w @ data.scores / w.sum()]), data, 200, seed=0)[0]
    assert (interval.low, interval.high) == (0, 1)


def test_rank_one_finds_the_nearest() -> None:
    gallery = np.eye(4)
    probes = gallery[[0, 1, 2, 2]] + 0.1
    found = rank_one(probes, gallery, [0, 1, 2, 3], [0, 1, 2, 3])
    assert found.value == 0.75
    assert found.low < 0.75 < found.high
    assert rank_one_by_chance([0, 1], [0, 1, 1, 2]) == pytest.approx((0.25 + 0.5) / 2)


def test_similarity_is_minus_the_distance() -> None:
    assert similarity([[0.0, 0.0]], [[3.0, 4.0]]) == pytest.approx([-5])


def test_recogniser_with_oracle_alignment_knows_a_face_after_mild_blur(
    astronaut: np.ndarray, astronaut_landmarks: np.ndarray
) -> None:
    recogniser = DlibRecogniser(batch_size=2)
    coarse = astronaut[::3, ::3].repeat(3, axis=0).repeat(3, axis=1)[:512, :512]
    clear, blurred, upside_down = recogniser.embed(
        [astronaut, coarse, astronaut[::-1, ::-1]], np.stack([astronaut_landmarks] * 3)
    )
    assert clear.shape == (128,)
    assert -similarity(clear, blurred) < 0.4
    assert -similarity(clear, upside_down) > 0.6


def test_recogniser_takes_no_images() -> None:
    pytest.importorskip("dlib")
    assert DlibRecogniser().embed([], np.empty((0, 68, 2))).shape == (0, 128)


@pytest.mark.parametrize("decimals", [0, 1, 15])
@pytest.mark.parametrize("shift", [-0.5, 0.0, 1.0, 3.0])
def test_curve_area_and_equal_error_rate_agree_with_scikit_learn(shift: float, decimals: int) -> None:
    """Rounded scores tie within and across the kinds; below 0, genuine pairs score lower."""
    genuine, impostor = (np.round(values, decimals) for values in scores(shift, count=300))
    labels = np.repeat([1, 0], [len(genuine), len(impostor)])
    both = np.concatenate([genuine, impostor])
    false_match, true_accept, _ = sklearn_roc_curve(labels, both, drop_intermediate=False)
    ours = roc_curve(genuine, impostor)
    assert ours[0] == pytest.approx(false_match, abs=1e-12)
    assert ours[1] == pytest.approx(true_accept, abs=1e-12)
    assert area_under_curve(genuine, impostor) == pytest.approx(roc_auc_score(labels, both), abs=1e-12)
    # Along the curve's own length, since vertical steps are no function of the false-match rate.
    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(false_match), np.diff(true_accept)))])
    gap = false_match - (1 - true_accept)
    crossing = brentq(lambda place: np.interp(place, length, gap), 0, length[-1])
    expected = np.interp(crossing, length, false_match)
    assert equal_error_rate(genuine, impostor) == pytest.approx(expected, abs=1e-9)

"""The filter is the published one, and a face in steady motion is not behind."""

import math

import numpy as np
from test_motion import points_of

from phaseveil.apps.smoothing import BETA, MIN_CUTOFF, OneEuro
from phaseveil.data.landmarks import crop_box


def test_at_a_standstill_the_filter_is_the_published_one() -> None:
    signal = np.cumsum(np.random.default_rng(0).normal(0, 1, (30, 5, 2)), axis=0) + points_of(100, 80, 90)
    dt, filtered, state, derivative = 0.2, OneEuro(), signal[0], np.zeros((5, 2))
    estimate = signal[0]
    for measured in signal[1:]:
        estimate = filtered.update(estimate, measured, dt)
        side = crop_box(state)[2] - crop_box(state)[0]  # Casiez et al., algorithm 1, in units of the face
        step = 1 / (1 + 1 / (2 * math.pi * 1.0 * dt))
        derivative = step * (measured - state) / side / dt + (1 - step) * derivative
        cutoff = MIN_CUTOFF + BETA * np.abs(derivative)
        alpha = 1 / (1 + 1 / (2 * math.pi * cutoff * dt))
        state = alpha * measured + (1 - alpha) * state
        np.testing.assert_allclose(estimate, state)


def test_what_the_flow_has_seen_already_is_not_filtered() -> None:
    filtered, place = OneEuro(), points_of(100, 80, 90)
    for step in range(1, 20):
        expected = place + 7.0
        place = filtered.update(expected, points_of(100 + 7 * step, 80 + 7 * step, 90), 0.2)
        np.testing.assert_allclose(place, points_of(100 + 7 * step, 80 + 7 * step, 90))


def test_a_detection_far_off_is_followed_faster_than_a_tremble() -> None:
    place = points_of(100, 80, 90)
    small, large = OneEuro().update(place, place + 0.5, 0.2) - place, OneEuro().update(place, place + 20, 0.2) - place
    assert (small / 0.5).max() < 0.45
    assert (large / 20).min() > 0.6

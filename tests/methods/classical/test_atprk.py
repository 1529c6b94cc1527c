import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from papers import mean_sre, paper_scene

from s2pipe import Sensor
from s2pipe.core.bands import BANDS
from s2pipe.methods.classical.atprk import (
    AREAL_RANGE,
    areal_semivariogram,
    exponential,
    krige,
    kriging_weights,
    point_range,
    regularise,
)

PAPER = Sensor(mtf=tuple((band, math.exp(-((math.pi / 2) ** 2) / 2)) for band in BANDS))
"""The point spread function of the paper: a Gaussian whose sigma is half a coarse pixel."""


@pytest.mark.parametrize(
    ("name", "protocol", "expected"),
    [
        ("iceland", "centre", {"atprk": 31.62, "atprk-sel": 30.59}),
        ("iceland-raw", "corner", {"atprk": 23.56, "atprk-sel": 23.31}),
        ("T33UUB", "centre", {"atprk": 31.16, "atprk-sel": 31.30}),
    ],
)
def test_figures_are_those_measured_elsewhere_with_the_papers_psf_and_better_with_the_sensors(data_dir, name, protocol, expected):
    scene = paper_scene(data_dir, name)
    for method, sre in expected.items():
        assert mean_sre(scene, method, protocol, told=PAPER) == pytest.approx(sre, abs=0.1), method
        assert mean_sre(scene, method, protocol) > sre, method


def test_the_semivariogram_is_that_of_rows_and_columns():
    image = np.arange(5.0)[:, None] * np.ones((5, 3), np.float32)
    lags, values = areal_semivariogram([image.astype(np.float32)])
    # along columns h^2 / 2, (5 - h) * 3 pairs; along rows zero, (3 - h) * 5 pairs
    expected = [(5 - h) * 3 * h**2 / 2 / ((5 - h) * 3 + max(3 - h, 0) * 5) for h in (1, 2, 3, 4)]
    np.testing.assert_allclose(lags, [1, 2, 3, 4])
    np.testing.assert_allclose(values, expected)


def test_invalid_pixels_make_no_pairs():
    image = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    holed = np.pad(image, 15, constant_values=np.nan)
    for whole, part in zip(areal_semivariogram([image]), areal_semivariogram([holed]), strict=True):
        np.testing.assert_allclose(part, whole)


def test_regularising_takes_variance_away():
    lags = np.arange(1.0, 21)
    points, blocks = exponential(6 * lags, 1.0, 12.0), regularise(12.0, lags, 6)
    assert (blocks < points).all() and (np.diff(blocks) > 0).all()
    np.testing.assert_allclose(regularise(1e-9, lags, 2), 0.25)  # white noise: of the mean of four points


def test_the_range_of_points_is_found_from_blocks():
    lags = np.arange(1.0, 21)
    found = point_range(lags, 0.01 * regularise(6.0, lags, 2), 2)
    assert found == pytest.approx(6.0, rel=0.35)  # one of 20 steps of a grid, about a fit that is exponential itself


@pytest.mark.parametrize("semivariance", [np.zeros(20), np.ones(20), np.array([0.1, 0.2])])
def test_a_residual_without_structure_has_a_range_too(semivariance):
    found = point_range(np.arange(1.0, len(semivariance) + 1), semivariance, 2)
    assert 0 < found < np.inf
    if len(semivariance) < 3 or not semivariance.any():
        assert found == AREAL_RANGE * 2


@settings(max_examples=10)
@given(reach=st.floats(0.05, 50), ratio=st.sampled_from([2, 6]), protocol=st.sampled_from(["centre", "corner", "box"]))
def test_weights_sum_to_one_and_the_nearest_weighs_most(reach, ratio, protocol):
    weights = kriging_weights(reach, *Sensor.named(protocol).taps("B05" if ratio == 2 else "B09", ratio), ratio)
    assert weights.shape == (ratio**2, 9)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-8)
    assert weights.argmax(axis=1)[0] == 4
    if protocol != "corner":  # which puts coarse pixels at the first of their fine ones, far from the last
        assert (weights[:, 4] > 0).all()


def test_weights_are_symmetric_where_the_sensor_is():
    weights = kriging_weights(4.0, *Sensor().taps("B05", 2), 2).reshape(2, 2, 3, 3)
    np.testing.assert_allclose(weights[::-1, :, ::-1], weights, atol=1e-8)
    np.testing.assert_allclose(weights.transpose(1, 0, 3, 2), weights, atol=1e-8)


def test_kriging_puts_weights_where_they_belong():
    weights = torch.zeros(1, 4, 9)
    weights[0, :, [1, 5, 7, 3]] = torch.eye(4)  # the four fine pixels take the coarse one above, right, below, left
    coarse = torch.arange(12.0).reshape(1, 3, 4)
    fine = krige(coarse, weights, 2)
    assert fine[0, 2:4, 2:4].flatten().tolist() == [1, 6, 9, 4]
    assert fine[0, 0, 0] == 0  # mirrored at the edge

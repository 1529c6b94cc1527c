import numpy as np
import pytest
from scipy import ndimage

import s2pipe
from s2pipe import Sensor


def sharpened(method, coarse, sensor):
    fine = np.ones((4, *(2 * n for n in coarse.shape[1:])), np.float32)
    cube = s2pipe.from_arrays(fine, coarse)
    bands = ["B05", "B06", "B07", "B8A", "B11", "B12"]
    return s2pipe.sharpen(cube, method, sensor=sensor, bands=bands).compute().values[0]


@pytest.mark.parametrize("protocol", ["centre", "corner"])
def test_a_spline_goes_through_its_pixels_where_the_sensor_has_them(protocol):
    coarse = np.random.default_rng(0).random((6, 36, 36)).astype(np.float32)
    sensor = Sensor.named(protocol)
    result = sharpened("spline", coarse, sensor)
    filtered = [ndimage.spline_filter(band, order=3, mode="reflect") for band in coarse.astype(np.float64)]
    places = (np.arange(72) - sensor.phase(2)) / 2
    y, x = np.meshgrid(places, places, indexing="ij")
    for band, coefficients in zip(result, filtered, strict=True):
        expected = ndimage.map_coordinates(coefficients, [y, x], order=3, mode="reflect", prefilter=False)
        np.testing.assert_allclose(band, expected, atol=1e-5)
    if protocol == "corner":
        np.testing.assert_allclose(result[:, ::2, ::2], coarse, atol=1e-5)


@pytest.mark.parametrize("method", ["bicubic", "spline"])
def test_a_wave_is_interpolated_in_place(method):
    y = (np.arange(36) + 0.5) * 2  # centres, in fine pixels from the edge
    coarse = np.broadcast_to(np.sin(2 * np.pi * y / 24)[:, None], (6, 36, 36)).astype(np.float32)
    result = sharpened(method, coarse, Sensor())
    expected = np.sin(2 * np.pi * (np.arange(72) + 0.5) / 24)[:, None]
    error = np.abs(result - expected)[:, 12:-12].max()
    assert error < (2e-3 if method == "spline" else 2e-2)

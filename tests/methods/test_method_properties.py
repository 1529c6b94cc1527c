"""Properties that the methods have by their formulas; the table in docs/methods.md says which method has which."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quick import quick_options
from scenes import random_arrays

import s2pipe
from s2pipe import Sensor

# each injection with one of the two kinds of panchromatic band, each kind more than once
INTERPOLATION = ("bicubic", "spline")
ADDITIVE = ("gsa", "glp", "glp-fs-sel")
MULTIPLICATIVE = ("glp-hpm-sel", "hpm-r")
KRIGING = ("atprk", "atprk-sel")
INJECTION = (*ADDITIVE, *MULTIPLICATIVE)
LOCAL = (*INTERPOLATION, *INJECTION, *KRIGING, "ressr")
CLASSICAL = (*LOCAL, "supreme", "s2sharp", "ssss")

HEIGHT, WIDTH = 60, 48
few = settings(max_examples=2, suppress_health_check=[HealthCheck.too_slow])
seeds = st.integers(0, 1000)


def scene(seed):
    """Reflectance (band, y, x) at 10, 20 and 60 m: correlated noise, that at 20 and 60 m made of that at 10 m."""
    fine, *rest = (array[0].astype(np.float32) * 1e-4 for array in random_arrays(HEIGHT, WIDTH, seed=seed))
    sensor, rng = Sensor(), np.random.default_rng(seed)
    coarse = [
        0.7 * sensor.degrade(torch.from_numpy(mix(fine, rng, len(array))), s2pipe.core.bands.BANDS_BY_GSD[gsd], gsd // 10).numpy()
        + 0.3 * array
        for gsd, array in zip((20, 60), rest, strict=True)
    ]
    return [fine, *coarse]


def mix(fine, rng, count):
    shares = rng.dirichlet(np.ones(len(fine)), count).astype(np.float32)
    return np.einsum("bf,fyx->byx", shares, fine)


def sharpened(method, arrays, **options):
    """All bands of a float scene, fitted on itself, (band, y, x)."""
    cube = s2pipe.from_arrays(*arrays)
    return s2pipe.sharpen(cube, method, **quick_options(method) | options).compute().values[0]


@pytest.mark.parametrize("method", [*LOCAL, "supreme", "s2sharp"])
@few
@given(seed=seeds, factor=st.sampled_from([0.25, 0.5, 1.5]))
def test_scaling_the_input_scales_the_output(method, seed, factor):
    arrays = scene(seed)
    expected = factor * sharpened(method, arrays)
    np.testing.assert_allclose(sharpened(method, [factor * a for a in arrays]), expected, atol=2e-4)


@pytest.mark.parametrize("method", [*INTERPOLATION, *ADDITIVE, *KRIGING, "ressr"])
@few
@given(seed=seeds, constant=st.sampled_from([-0.05, 0.1, 0.3]))
def test_adding_a_constant_adds_it(method, seed, constant):
    arrays = scene(seed)
    expected = sharpened(method, arrays) + constant
    np.testing.assert_allclose(sharpened(method, [a + np.float32(constant) for a in arrays]), expected, atol=2e-4)


@pytest.mark.parametrize("method", [*LOCAL, "supreme", "s2sharp"])
@few
@given(seed=seeds)
def test_transposing_the_scene_transposes_the_output(method, seed):
    arrays = scene(seed)
    expected = sharpened(method, arrays).transpose(0, 2, 1)
    np.testing.assert_allclose(sharpened(method, [a.transpose(0, 2, 1) for a in arrays]), expected, atol=2e-4)


@pytest.mark.parametrize("method", LOCAL)
@few
@given(value=st.floats(0.01, 0.9))
def test_a_constant_scene_stays_constant(method, value):
    arrays = [np.full_like(a, value) for a in scene(0)]
    np.testing.assert_allclose(sharpened(method, arrays), value, rtol=1e-5)


@pytest.mark.parametrize("method", [*INTERPOLATION, *INJECTION])
@few
@given(seed=seeds)
def test_a_planar_scene_stays_planar_beyond_the_halo(method, seed):
    rng = np.random.default_rng(seed)
    height, width = 252, 240
    y, x = np.mgrid[:height, :width] / 240
    planes = [
        rng.uniform(0.2, 0.4, (count, 1, 1))
        + rng.uniform(0.02, 0.2, (count, 1, 1)) * y
        + rng.uniform(0.02, 0.2, (count, 1, 1)) * x
        for count in (4, 6, 2)
    ]
    arrays = [block_means(plane, ratio).astype(np.float32) for plane, ratio in zip(planes, (1, 2, 6), strict=True)]
    cube = s2pipe.from_arrays(*arrays)
    sharpener = s2pipe.fit(cube, method)
    inner = (slice(sharpener.halo, -sharpener.halo),) * 2
    result = s2pipe.sharpen(cube, sharpener).compute().values[0]
    order = ["B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09"]
    for band, plane in zip(order, np.concatenate(planes), strict=True):
        np.testing.assert_allclose(
            result[list(s2pipe.core.bands.BANDS).index(band)][inner], plane[inner], atol=1e-4
        )  # fits see the mirrored edges too


def block_means(plane, ratio):
    count, height, width = plane.shape
    return plane.reshape(count, height // ratio, ratio, width // ratio, ratio).mean(axis=(2, 4))


@pytest.mark.parametrize("method", KRIGING)
def test_what_atprk_gives_degraded_nearly_meets_the_observation(method):
    arrays = scene(3)
    cube = s2pipe.from_arrays(*arrays)
    result = s2pipe.sharpen(cube, method, bands=["B05", "B06", "B07", "B8A", "B11", "B12"]).compute().values[0]
    degraded = Sensor().degrade(torch.from_numpy(result), s2pipe.core.bands.BANDS_BY_GSD[20], 2).numpy()
    inner = (slice(None), slice(6, -6), slice(6, -6))
    left, contrast = degraded[inner] - arrays[1][inner], arrays[1][inner].std()
    bicubic = s2pipe.sharpen(cube, "bicubic", bands=["B05", "B06", "B07", "B8A", "B11", "B12"]).compute().values[0]
    blurred = Sensor().degrade(torch.from_numpy(bicubic), s2pipe.core.bands.BANDS_BY_GSD[20], 2).numpy()[inner] - arrays[1][inner]
    assert left.std() < 0.1 * contrast and left.std() < 0.5 * blurred.std()


# What harms a formula that divides


BAD = {
    "a constant 10 m band": lambda a: a[0].__setitem__(1, 0.3),
    "constant 10 m bands": lambda a: a[0].fill(0.3),
    "two equal 10 m bands": lambda a: a[0].__setitem__(2, a[0][1]),
    "a constant coarse band": lambda a: a[1].__setitem__(3, 0.25),
    "a zero coarse band": lambda a: a[1].__setitem__(3, 0.0),
    "a band dark where others are bright": lambda a: a[1].__setitem__(2, 0.9 - a[1][2]),
    "negative reflectance": lambda a: [array.__isub__(0.5) for array in a],
    "zeros": lambda a: [array.fill(0) for array in a],
    "half of a band invalid": lambda a: a[1][:, :20].__setitem__(2, np.nan),
    "half of a 10 m band invalid": lambda a: a[0][:, :40].__setitem__(1, np.nan),
    "a coarse band without data": lambda a: a[1].__setitem__(4, np.nan),
    "no 20 m band with data": lambda a: a[1].fill(np.nan),
    "no 60 m band with data": lambda a: a[2].fill(np.nan),
}


@pytest.mark.parametrize("harm", BAD)
@pytest.mark.parametrize("method", CLASSICAL)
def test_nothing_divides_by_zero(method, harm):
    arrays = scene(1)
    BAD[harm](arrays)
    result = sharpened(method, arrays)
    seen = [np.isfinite(a).repeat(ratio, 1).repeat(ratio, 2) for a, ratio in zip(arrays, (1, 2, 6), strict=True)]
    fine = seen[0].all(axis=0)
    for band, valid in zip(("B05", "B8A", "B01"), (seen[1][0], seen[1][3], seen[2][0]), strict=True):
        values = result[list(s2pipe.core.bands.BANDS).index(band)]
        np.testing.assert_array_equal(np.isfinite(values), valid & fine)
        assert np.abs(values[valid & fine]).max(initial=0) < 3


def test_the_60_m_bands_are_interpolated_where_a_sample_has_no_data_of_them():
    arrays = scene(1)
    arrays[2][:] = np.nan
    assert "B01" in s2pipe.fit(s2pipe.from_arrays(*arrays), "glp").bicubic_bands


def with_coarse_bands_turned(seed):
    """A scene whose coarse bands know nothing of its 10 m bands."""
    fine, *coarse = scene(seed)
    return [fine, *(np.ascontiguousarray(array[:, ::-1, ::-1]) for array in coarse)]


@pytest.mark.parametrize("method", ["gsa", "gsa-sel", *INJECTION, *KRIGING])
def test_bands_without_correlation_gain_no_detail_from_one_another(method):
    arrays = with_coarse_bands_turned(5)
    result, plain = (sharpened(m, arrays) for m in (method, "bicubic"))
    for band, array in (("B05", arrays[1][0]), ("B12", arrays[1][5])):
        row = list(s2pipe.core.bands.BANDS).index(band)
        assert np.abs(result[row] - plain[row]).std() < array.std()


def test_a_band_dark_where_others_are_bright_is_modulated_the_other_way_round():
    bright = scene(7)[0][0]
    fine, truth = np.stack([bright, 0.9 * bright, 0.8 * bright, 0.7 * bright]), 0.6 - 0.8 * bright
    coarse = Sensor().degrade(torch.from_numpy(np.stack([truth] * 6)), s2pipe.core.bands.BANDS_BY_GSD[20], 2).numpy()
    cube = s2pipe.from_arrays(fine, coarse)
    result, plain = (s2pipe.sharpen(cube, method, bands=["B11"]).compute().values[0, 0] for method in ("hpm-r-sel", "bicubic"))
    assert (result - truth).std() < 0.2 * (plain - truth).std()


@pytest.mark.parametrize("method", CLASSICAL)
def test_fewer_samples_than_unknowns_are_enough(method):
    arrays = [a[:, : 12 * 10 // gsd, : 12 * 10 // gsd] for a, gsd in zip(scene(0), (10, 20, 60), strict=True)]
    result = sharpened(method, arrays)  # four pixels at 60 m, and five unknowns
    assert np.isfinite(result).all() and np.abs(result).max() < 3

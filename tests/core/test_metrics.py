import math

import numpy as np
import pytest
import sewar
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from refusals import refused
from scipy import ndimage
from skimage.metrics import mean_squared_error, normalized_root_mse, structural_similarity
from torchmetrics.functional.image import (
    error_relative_global_dimensionless_synthesis,
    spectral_angle_mapper,
    structural_similarity_index_measure,
)

from s2pipe.core import metrics
from s2pipe.core.metrics import ergas, rmse, sam, sre, ssim, uiqi

IMAGE_METRICS = {"ssim": ssim, "uiqi": uiqi}
PIXEL_METRICS = {"sre": sre, "rmse": rmse, "sam": sam, "ergas": lambda x, y: ergas(x, y, 2)}


def scene(*shape, seed=0, noise=0.01):
    """A smooth random reference in reflectance, and the reference with noise."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), sigma=(0,) * (len(shape) - 2) + (2, 2))
    reference = 0.3 + 0.1 * smooth / smooth.std()
    return reference, reference + rng.normal(scale=noise, size=shape)


def cells(*shape):
    # never zero, so that every metric is defined
    return arrays(np.float64, shape, elements=st.integers(1, 1000).map(float))


pairs = st.integers(1, 4).flatmap(lambda n: st.tuples(cells(2, n), cells(2, n)))
images = st.tuples(cells(9, 12), cells(9, 12))
scales = st.floats(1e-4, 1e4)


def test_sre_of_known_errors():
    assert sre(np.full((4, 4), 2.0), np.full((4, 4), 2.2)) == pytest.approx(20)
    assert sre(np.array([3, 4]), np.array([3, 5])) == pytest.approx(10 * math.log10(25))


def test_rmse_of_a_known_error():
    assert rmse(np.array([3, 4]), np.array([0, 0])) == pytest.approx(math.sqrt(12.5))


def test_sam_of_known_angles_is_their_mean_in_degrees():
    reference = np.array([[1, 1, 1], [0, 0, 0]])
    estimate = np.array([[5, 0, -1], [5, 3, 0]])
    assert sam(reference, estimate) == pytest.approx((45 + 90 + 180) / 3)


def test_sam_resolves_small_angles():
    # acos would round this angle to zero
    assert sam(np.array([[1.0], [0]]), np.array([[1.0], [1e-10]])) == pytest.approx(math.degrees(1e-10))


def test_ergas_of_known_errors():
    reference = np.array([[1.0, 3], [2, 6]])
    estimate = reference + np.array([[0.2, -0.2], [1.2, 1.2]])
    # MSE / mean^2 is 0.04 / 4 and 1.44 / 16
    for ratio in (2, 6):
        assert ergas(reference, estimate, ratio) == pytest.approx(100 / ratio * math.sqrt((0.01 + 0.09) / 2))


def test_uiqi_of_known_blocks():
    x = np.ones((8, 8))
    x[:, 4:] = 3  # mean 2, variance 1
    assert uiqi(x, x + 1) == pytest.approx(4 * 1 * 2 * 3 / ((1 + 1) * (4 + 9)))
    assert uiqi(x, 2 * x) == pytest.approx(4 * 2 * 2 * 4 / ((1 + 4) * (4 + 16)))
    assert uiqi(x, 4 - x) == pytest.approx(-1)


def test_ssim_of_one_window():
    x, y = scene(11, 11)
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = np.outer(taps, taps) / taps.sum() ** 2
    mx, my = (weights * x).sum(), (weights * y).sum()
    vx, vy, cov = ((weights * a * b).sum() for a, b in ((x - mx, x - mx), (y - my, y - my), (x - mx, y - my)))
    c1, c2 = ((k * (x.max() - x.min())) ** 2 for k in (0.01, 0.03))
    expected = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert ssim(x, y) == pytest.approx(expected)


def test_sre_and_rmse_agree_with_scikit_image_and_sewar():
    x, y = scene(40, 30)
    assert sre(x, y) == pytest.approx(-20 * math.log10(normalized_root_mse(x, y, normalization="euclidean")))
    assert rmse(x, y) == pytest.approx(math.sqrt(mean_squared_error(x, y)))
    assert rmse(x, y) == pytest.approx(sewar.rmse(x, y))


def as_batch(array):
    return torch.from_numpy(array)[None]


def test_sam_agrees_with_torchmetrics_and_sewar():
    # both give radians; sewar has the bands last
    x, y = scene(6, 20, 30)
    assert sam(x, y) == pytest.approx(math.degrees(spectral_angle_mapper(as_batch(y), as_batch(x))))
    assert sam(x, y) == pytest.approx(math.degrees(sewar.sam(np.moveaxis(x, 0, -1), np.moveaxis(y, 0, -1))))


@pytest.mark.parametrize("ratio", [2, 6])
def test_ergas_agrees_with_torchmetrics_and_sewar(ratio):
    # torchmetrics divides by what it calls the ratio of high to low resolution; sewar multiplies by its inverse
    x, y = scene(6, 20, 30)
    theirs = error_relative_global_dimensionless_synthesis(as_batch(y), as_batch(x), ratio=ratio)
    assert ergas(x, y, ratio) == pytest.approx(float(theirs))
    assert ergas(x, y, ratio) == pytest.approx(sewar.ergas(np.moveaxis(x, 0, -1), np.moveaxis(y, 0, -1), r=1 / ratio))


def test_ssim_agrees_with_scikit_image_and_torchmetrics():
    x, y = scene(40, 30, noise=0.05)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    assert ssim(x, y) == pytest.approx(structural_similarity(x, y, data_range=np.ptp(x), **options), rel=1e-12)
    # torchmetrics counts the border too, which it mirrors
    _, similarity = structural_similarity_index_measure(
        as_batch(y[None]), as_batch(x[None]), data_range=float(np.ptp(x)), sigma=1.5, return_full_image=True
    )
    assert ssim(x, y) == pytest.approx(float(similarity[..., 5:-5, 5:-5].mean()))


def test_uiqi_agrees_with_scikit_image(monkeypatch):
    # SSIM with a uniform window and without its two constants is the UIQI; scikit-image allows odd windows only
    monkeypatch.setattr(metrics, "UIQI_BLOCK", 7)
    x, y = scene(40, 30, noise=0.05)
    assert uiqi(x, y) == pytest.approx(structural_similarity(x, y, data_range=1, win_size=7, K1=0, K2=0))


def uiqi_block_by_block(x, y, valid):
    found = []
    for rows, columns in np.ndindex(x.shape[0] - 7, x.shape[1] - 7):
        block = slice(rows, rows + 8), slice(columns, columns + 8)
        if valid[block].all():
            (vx, cov), (_, vy) = np.cov(x[block].ravel(), y[block].ravel())
            mx, my = x[block].mean(), y[block].mean()
            found.append(4 * cov * mx * my / ((vx + vy) * (mx**2 + my**2)))
    return np.mean(found)


def test_uiqi_is_the_mean_over_every_valid_block():
    x, y = scene(19, 23, noise=0.05)
    valid = np.ones(x.shape, dtype=bool)
    assert uiqi(x, y) == pytest.approx(uiqi_block_by_block(x, y, valid))
    valid[8, 14] = valid[18, 0] = False
    y[~valid] = np.nan
    assert uiqi(x, y, valid) == pytest.approx(uiqi_block_by_block(x, y, valid))


def test_ssim_is_the_mean_over_every_valid_window():
    x, y = scene(24, 26, noise=0.05)
    valid = np.ones(x.shape, dtype=bool)
    valid[8, 14] = False
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    _, similarity = structural_similarity(x, y, data_range=np.ptp(x[valid]), full=True, **options)
    whole = [(i, j) for i in range(5, 19) for j in range(5, 21) if max(abs(i - 8), abs(j - 14)) > 5]
    expected = np.mean([similarity[place] for place in whole])
    y[8, 14] = np.nan
    assert ssim(x, y, valid) == pytest.approx(expected)


@pytest.mark.parametrize("metric", IMAGE_METRICS.values(), ids=IMAGE_METRICS)
def test_a_mask_works_as_a_crop(metric):
    x, y = scene(30, 40)
    valid = np.zeros(x.shape, dtype=bool)
    valid[4:25, 7:33] = True
    expected = metric(x[4:25, 7:33], y[4:25, 7:33])
    for outside in (np.nan, 1e6):
        masked_x, masked_y = (np.where(valid, image, outside) for image in (x, y))
        assert metric(masked_x, masked_y, valid) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("metric", PIXEL_METRICS.values(), ids=PIXEL_METRICS)
def test_pixels_can_be_selected(metric):
    x, y = scene(3, 12, 14)
    valid = np.zeros((12, 14), dtype=bool)
    valid[2:7, 3:9] = True
    expected = metric(x[:, 2:7, 3:9], y[:, 2:7, 3:9])
    assert metric(x[:, valid], y[:, valid]) == pytest.approx(expected)
    assert metric(x, y) != pytest.approx(expected)


def test_an_offset_flatters_all_but_the_rmse():
    reference, estimate = (np.round(image * 1e4) for image in scene(6, 30, 40))
    shifted = reference + 1000, estimate + 1000
    assert sre(*shifted) > sre(reference, estimate) + 1
    assert sam(*shifted) < 0.9 * sam(reference, estimate)
    assert ergas(*shifted, 2) < 0.9 * ergas(reference, estimate, 2)
    for metric in IMAGE_METRICS.values():
        assert metric(shifted[0][0], shifted[1][0]) > metric(reference[0], estimate[0])
    assert rmse(*shifted) == rmse(reference, estimate)


@given(x=cells(2, 5))
def test_a_perfect_estimate_has_no_error(x):
    assert sre(x, x) == math.inf
    assert rmse(x, x) == sam(x, x) == ergas(x, x, 2) == 0


@given(x=cells(12, 13).filter(lambda x: np.ptp(x) > 0))
def test_a_perfect_estimate_has_index_one(x):
    assert ssim(x, x) == pytest.approx(1)
    assert uiqi(x, x) == pytest.approx(1)


@given(pair=pairs, scale=scales)
def test_the_unit_matters_to_the_rmse_only(pair, scale):
    x, y = pair
    assert sre(scale * x, scale * y) == (pytest.approx(sre(x, y), abs=1e-9) if (x != y).any() else math.inf)
    assert sam(scale * x, scale * y) == pytest.approx(sam(x, y), abs=1e-9)
    assert ergas(scale * x, scale * y, 6) == pytest.approx(ergas(x, y, 6))
    assert rmse(scale * x, scale * y) == pytest.approx(scale * rmse(x, y))


@given(pair=images, scale=scales)
def test_the_unit_does_not_matter_to_the_uiqi(pair, scale):
    x, y = pair
    assert uiqi(scale * x, scale * y) == pytest.approx(uiqi(x, y), abs=1e-6)


@pytest.mark.parametrize("scale", [1e-4, 7, 1e4])
def test_the_unit_does_not_matter_to_the_ssim(scale):
    x, y = scene(20, 20)
    assert ssim(scale * x, scale * y) == pytest.approx(ssim(x, y))


@given(pair=pairs, scale=scales)
def test_sam_does_not_see_brightness(pair, scale):
    x, y = pair
    assert sam(x, scale * y) == pytest.approx(sam(x, y), abs=1e-9)


@given(pair=pairs)
def test_rmse_and_sam_are_symmetric(pair):
    x, y = pair
    assert rmse(x, y) == rmse(y, x)
    assert sam(x, y) == pytest.approx(sam(y, x), abs=1e-12)
    assert 0 <= sam(x, y) <= 90


@given(pair=images)
def test_uiqi_is_symmetric_and_at_most_one(pair):
    x, y = pair
    assert uiqi(x, y) == pytest.approx(uiqi(y, x), abs=1e-12)
    assert abs(uiqi(x, y)) <= 1 + 1e-6


def test_more_noise_is_worse_by_every_metric():
    x, good = scene(6, 20, 24)
    bad = x + 3 * (good - x)
    for metric in (sre, lambda x, y: ssim(x[0], y[0]), lambda x, y: uiqi(x[0], y[0])):
        assert metric(x, bad) < metric(x, good)
    for metric in (rmse, sam, lambda x, y: ergas(x, y, 2)):
        assert metric(x, bad) > metric(x, good)


def test_small_integers_do_not_overflow():
    x, y = np.array([[250, 10], [0, 255]], dtype=np.uint8), np.array([[0, 255], [255, 3]], dtype=np.uint8)
    for metric in PIXEL_METRICS.values():
        assert metric(x, y) == metric(x.astype(float), y.astype(float))


def test_a_reference_without_signal_has_no_sre():
    assert math.isnan(sre(np.zeros(3), np.zeros(3)))
    assert math.isnan(sre(np.zeros(3), np.ones(3)))


def test_an_infinite_estimate_has_the_lowest_sre():
    assert sre(np.ones(3), np.array([1, 1, np.inf])) == -math.inf


def test_pixels_without_a_spectrum_have_no_angle():
    reference, estimate = np.array([[1, 0, 1], [0, 0, 0]]), np.array([[1, 1, 0], [1, 0, 0]])
    assert sam(reference, estimate) == pytest.approx(45)
    assert math.isnan(sam(reference[:, 1:], estimate[:, 1:]))


def test_a_band_of_zero_mean_has_no_ergas():
    assert math.isnan(ergas(np.array([[1.0, 1], [-1, 1]]), np.ones((2, 2)), 2))


def test_a_flat_reference_has_no_ssim():
    flat = np.full((20, 20), 0.1)
    assert math.isnan(ssim(flat, flat))


@pytest.mark.parametrize("metric", IMAGE_METRICS.values(), ids=IMAGE_METRICS)
def test_there_is_no_index_without_a_whole_window(metric):
    small, _ = scene(7, 30)
    assert math.isnan(metric(small, small))
    large, _ = scene(30, 30)
    assert math.isnan(metric(large, large, np.indices((30, 30)).sum(axis=0) % 7 > 0))


@pytest.mark.parametrize(("x", "y", "expected"), [(0.1, 0.1, 1), (0.1, 0.2, 0.8), (0, 0, 1), (0, 0.3, 0), (-0.1, 0.1, -1)])
def test_blocks_flat_in_both_images_are_compared_by_their_means(x, y, expected):
    assert uiqi(np.full((9, 11), x), np.full((9, 11), y)) == pytest.approx(expected)


def test_flat_blocks_are_known_beside_bright_ones():
    x = np.full((20, 400), 0.003)
    x[:, :40] += scene(20, 40)[0]
    # of 393 blocks in a row, 40 reach into the texture; both factors are 2 * 1.5 / (1 + 1.5^2) there, the second one elsewhere
    factor = 3 / 3.25
    assert uiqi(x, 1.5 * x) == pytest.approx((40 * factor**2 + 353 * factor) / 393)


def test_rounding_is_no_structure():
    flat = np.full((20, 20), 0.3)
    rounded = flat * (1 + np.random.default_rng(0).normal(scale=1e-7, size=flat.shape))
    assert uiqi(flat, rounded) == pytest.approx(1)


def test_one_dn_is_structure():
    flat = np.full((8, 8), 65534)
    touched = flat.copy()
    touched[3, 3] += 1
    assert uiqi(touched, touched) == pytest.approx(1)
    assert uiqi(flat, touched) == pytest.approx(0, abs=1e-3)


def test_structure_counts_where_the_means_are_zero():
    x = np.ones((8, 8))
    x[:, 4:] = -1
    assert uiqi(x, x) == 1
    assert uiqi(x, -x) == -1


@pytest.mark.parametrize("metric", (PIXEL_METRICS | IMAGE_METRICS).values(), ids=PIXEL_METRICS | IMAGE_METRICS)
def test_nan_among_the_compared_pixels_is_not_hidden(metric):
    x, y = scene(14, 15)
    y[6, 7] = np.nan
    assert math.isnan(metric(x, y))
    assert math.isnan(metric(y, x))


@pytest.mark.parametrize("metric", (PIXEL_METRICS | IMAGE_METRICS).values(), ids=PIXEL_METRICS | IMAGE_METRICS)
def test_arrays_that_do_not_fit_are_refused(metric):
    with refused("reference", "estimate", naming=((20, 20), (20, 21))):
        metric(np.ones((20, 20)), np.ones((20, 21)))
    with refused("reference", "estimate", naming=((2, 0),)):
        metric(np.ones((2, 0)), np.ones((2, 0)))


@pytest.mark.parametrize("metric", [sam, PIXEL_METRICS["ergas"]])
def test_spectra_need_a_band_axis(metric):
    with refused("reference", "estimate", naming=((5,), "(band, ...)")):
        metric(np.ones(5), np.ones(5))


@pytest.mark.parametrize("metric", IMAGE_METRICS.values(), ids=IMAGE_METRICS)
def test_image_metrics_take_one_band_and_a_boolean_mask(metric):
    with refused("reference", "estimate", naming=((2, 20, 20),)):
        metric(np.ones((2, 20, 20)), np.ones((2, 20, 20)))
    for valid in (np.ones((20, 19), dtype=bool), np.ones((20, 20))):
        with refused("valid", naming=(valid.shape, valid.dtype, (20, 20))):
            metric(np.ones((20, 20)), np.ones((20, 20)), valid)


@pytest.mark.parametrize("ratio", [0.5, 0, 4])
def test_ergas_knows_two_ratios(ratio):
    with refused("ratio", naming=(ratio,)):
        ergas(np.ones((2, 4)), np.ones((2, 4)), ratio)

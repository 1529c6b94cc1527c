import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused
from scipy import ndimage

from s2pipe import Sensor
from s2pipe.core.bands import BANDS, BANDS_BY_GSD
from s2pipe.core.metrics import sre
from s2pipe.physics.sensor import as_sensor, gaussian_sigma

COARSE = {2: BANDS_BY_GSD[20], 6: BANDS_BY_GSD[60]}


def plane(height, width, *, dy, dx):
    y, x = np.mgrid[:height, :width]
    return torch.from_numpy((100 + dy * y + dx * x)[None].astype(np.float64))


def test_sigma_gives_the_mtf_at_nyquist():
    # the transfer of a Gaussian of sigma s at frequency f is exp(-2 (pi s f)^2), Nyquist of a grid r times coarser is 1 / 2r
    for ratio in (2, 6):
        for band in BANDS.values():
            sigma = gaussian_sigma(band.mtf_nyquist, ratio)
            assert np.exp(-2 * (np.pi * sigma / (2 * ratio)) ** 2) == pytest.approx(band.mtf_nyquist)


@pytest.mark.parametrize("ratio", [2, 6])
@pytest.mark.parametrize("protocol", ["centre", "box"])
def test_degrading_a_plane_samples_it_at_block_centres(protocol, ratio):
    fine = plane(72, 84, dy=1.0, dx=-0.5)
    coarse = Sensor.named(protocol).degrade(fine, COARSE[ratio][:1], ratio)[0].numpy()
    centres = fine[0].numpy().reshape(72 // ratio, ratio, 84 // ratio, ratio).mean(axis=(1, 3))
    inner = slice(3, -3)
    np.testing.assert_allclose(coarse[inner, inner], centres[inner, inner], atol=1e-9)


@pytest.mark.parametrize("ratio", [2, 6])
def test_corner_samples_at_the_first_pixel_of_a_block(ratio):
    fine = plane(72, 84, dy=1.0, dx=-0.5)
    coarse = Sensor.named("corner").degrade(fine, COARSE[ratio][:1], ratio)[0].numpy()
    np.testing.assert_allclose(coarse[3:-3, 3:-3], fine[0].numpy()[::ratio, ::ratio][3:-3, 3:-3], atol=1e-9)


@pytest.mark.parametrize("ratio", [2, 6])
@pytest.mark.parametrize("protocol", ["centre", "corner", "box"])
def test_upsampling_undoes_the_geometry_of_degrading(protocol, ratio):
    sensor = Sensor.named(protocol)
    fine = plane(72, 84, dy=0.3, dx=0.7)
    back = sensor.upsample(sensor.degrade(fine, COARSE[ratio][:1], ratio), ratio)[0].numpy()
    inner = slice(4 * ratio, -4 * ratio)
    np.testing.assert_allclose(back[inner, inner], fine[0].numpy()[inner, inner], atol=1e-9)


def test_centre_is_a_gaussian_filter_sampled_between_pixels():
    # independent of the operator under test: a 6 times finer grid puts the block centre on a sample
    rng = np.random.default_rng(0)
    fine = ndimage.gaussian_filter(rng.normal(size=(48, 48)), 2)
    coarse = Sensor.named("centre").degrade(torch.from_numpy(fine)[None], ["B11"], 2)[0].numpy()
    sigma = gaussian_sigma(BANDS["B11"].mtf_nyquist, 2)
    taps = np.exp(-0.5 * ((np.arange(8) - 3.5) / sigma) ** 2)
    taps /= taps.sum()
    j, i = 9, 11  # block rows 18 19, columns 22 23: the eight taps run from 15 and 19
    expected = taps @ fine[15:23, 19:27] @ taps
    assert coarse[j, i] == pytest.approx(expected)


def test_box_is_a_narrow_gaussian_then_the_block_mean():
    rng = np.random.default_rng(1)
    fine = rng.normal(size=(36, 36))
    blurred = ndimage.gaussian_filter(fine, 1 / 2, truncate=4)
    expected = blurred.reshape(18, 2, 18, 2).mean(axis=(1, 3))
    coarse = Sensor.named("box").degrade(torch.from_numpy(fine)[None], ["B05"], 2)[0].numpy()
    np.testing.assert_allclose(coarse[2:-2, 2:-2], expected[2:-2, 2:-2], atol=1e-12)


def test_corner_pads_with_zeros_and_the_others_mirror():
    ones = torch.ones(1, 36, 36)
    assert Sensor.named("corner").degrade(ones, ["B05"], 2)[0, 0, 0] < 0.9
    for protocol in ("centre", "box"):
        torch.testing.assert_close(Sensor.named(protocol).degrade(ones, ["B05"], 2), torch.ones(1, 18, 18))


@given(protocol=st.sampled_from(["centre", "corner", "box"]), ratio=st.sampled_from([2, 6]), seed=st.integers(0, 99))
def test_reach_bounds_what_a_coarse_pixel_depends_on(protocol, ratio, seed):
    sensor, bands = Sensor.named(protocol), COARSE[ratio]
    fine = torch.from_numpy(np.random.default_rng(seed).normal(size=(len(bands), 72, 72)))
    reach, j = sensor.reach(ratio), 36 // ratio
    outside = torch.ones(72, 72, dtype=torch.bool)
    outside[36 - reach : 36 + ratio + reach, 36 - reach : 36 + ratio + reach] = False
    changed = torch.where(outside, fine + 7, fine)
    before, after = (sensor.degrade(x, bands, ratio)[:, j, j] for x in (fine, changed))
    torch.testing.assert_close(before, after)


def test_degrade_and_upsample_are_differentiable_and_keep_leading_axes():
    fine = torch.rand(3, 2, 24, 36, dtype=torch.float64, requires_grad=True)
    sensor = Sensor()
    coarse = sensor.degrade(fine, ["B01", "B09"], 6)
    assert coarse.shape == (3, 2, 4, 6)
    assert sensor.upsample(coarse, 6).shape == fine.shape
    coarse.sum().backward()
    assert fine.grad is not None and fine.grad.sum() == pytest.approx(3 * 2 * 4 * 6)


@pytest.mark.parametrize(
    ("make", "argument", "named"),
    [
        (lambda: Sensor.named("middle"), "name", "middle"),
        (lambda: Sensor(mtf=(("B05", 1.2),)), "mtf", 1.2),
        (lambda: Sensor(mtf=(("B99", 0.3),)), "mtf", "B99"),
        (lambda: Sensor().degrade(torch.ones(1, 9, 9), ["B05"], 2), "fine", "9 x 9"),
        (lambda: Sensor(mtf=(("B05", 0.3),)).degrade(torch.ones(1, 8, 8), ["B06"], 2), "sensor", "B06"),
        (lambda: as_sensor("middle"), "sensor", "middle"),
        (lambda: as_sensor(3, argument="told"), "told", 3),
    ],
)
def test_bad_sensors_and_inputs_are_refused(make, argument, named):
    with refused(argument, naming=(named,)):
        make()


@pytest.mark.parametrize("name", ["matched", "centre", "corner", "box"])
def test_a_name_is_as_good_as_the_sensor(name):
    assert as_sensor(name) == Sensor.named(name) == Sensor(name=name)


def test_both_spellings_name_one_sensor():
    assert as_sensor("center") == Sensor.named("center") == Sensor(name="center")
    assert Sensor.named("center").name == "centre"


def test_the_default_is_given_where_there_is_none():
    assert as_sensor(None) == Sensor() and as_sensor(None, default=Sensor.named("box")).name == "box"


def mean_sre(truth, estimate):
    """Over the bands, two pixels of the edge left out."""
    return np.mean([sre(*pair) for pair in zip(truth[:, 2:-2, 2:-2], estimate[:, 2:-2, 2:-2], strict=True)])


@pytest.fixture(scope="module")
def iceland(data_dir):
    mat = scipy.io.loadmat(data_dir / "papers" / "iceland.mat")
    return {key: torch.from_numpy(mat[key].astype(np.float64)).permute(2, 0, 1) for key in ("y10", "y20")}


def test_bicubic_meets_the_measured_figures_on_iceland(iceland):
    # mean SRE of bicubic at the lower scale: 22.99 dB on the repaired scene (whole-pixel crop slip undone), centre;
    # 21.49 dB on the scene as published, corner, interpolated at block centres as the published tables do
    repaired = iceland["y20"][:, 1:205, 1:205]
    centre, corner = Sensor.named("centre"), Sensor.named("corner")
    assert mean_sre(repaired, centre.upsample(centre.degrade(repaired, BANDS_BY_GSD[20], 2), 2)) == pytest.approx(22.99, abs=0.02)
    raw = iceland["y20"]
    assert mean_sre(raw, centre.upsample(corner.degrade(raw, BANDS_BY_GSD[20], 2), 2)) == pytest.approx(21.49, abs=0.02)


def test_matched_degrades_finer_bands_as_the_bands_that_are_wanted():
    sensor, own = Sensor.named("matched"), dict(Sensor().mtf)
    to_swir, to_60m = sensor.matched_to(["B11", "B12"]), sensor.matched_to(["B01"])
    assert dict(to_swir.mtf)["B02"] == pytest.approx((own["B11"] * own["B12"]) ** 0.5)
    assert all(dict(to_swir.mtf)[band] == own[band] for band in ("B05", "B11", "B12", "B01"))
    assert dict(to_60m.mtf)["B08"] == dict(to_60m.mtf)["B8A"] == own["B01"]
    fine = torch.rand(1, 24, 24, dtype=torch.float64)
    torch.testing.assert_close(sensor.matched_to(["B05"]).degrade(fine, ["B08"], 2), sensor.degrade(fine, ["B05"], 2))


def test_a_wanted_band_without_mtf_is_named():
    with refused("sensor", naming=("B11", "B05")):
        Sensor(mtf={"B05": 0.3}).matched_to(["B05", "B11"])


@pytest.mark.parametrize("name", ["centre", "corner", "box"])
def test_the_others_degrade_each_band_by_its_own_mtf(name):
    sensor = Sensor.named(name)
    assert sensor.matched_to(["B11"]) == sensor and sensor.groups(["B05", "B11"]) == [("B05", "B11")]


def test_groups_hold_each_band_once_and_in_order():
    sensor = Sensor.named("matched")
    for bands in (BANDS_BY_GSD[20], BANDS_BY_GSD[60], ("B05", "B12"), ("B11",)):
        assert tuple(band for group in sensor.groups(bands) for band in group) == bands


def test_the_mtf_may_be_given_as_a_dict():
    assert Sensor(mtf={"B05": 0.3}) == Sensor(mtf=(("B05", 0.3),))


@pytest.mark.parametrize("mtf", ["x", 3, (("B05", "much"),), (("B05", 0.2), ("B05", 0.3)), {"B05": 1.0}, {"B5": 0.3}])
def test_an_mtf_that_is_none_is_refused(mtf):
    with refused("mtf"):
        Sensor(mtf=mtf)


@pytest.mark.parametrize("ratio", [2, 6])
@pytest.mark.parametrize("name", ["centre", "corner", "box"])
def test_invalid_pixels_carry_no_weight(name, ratio):
    sensor, bands = Sensor.named(name), COARSE[ratio]
    fine = torch.from_numpy(np.random.default_rng(0).random((2, 72, 72)).astype(np.float32))
    valid = torch.ones(72, 72, dtype=torch.bool)
    valid[30:37, 20:44] = False
    seen = sensor.degrade(fine, bands[:2], ratio, valid)
    partly = sensor.degrade((~valid).float()[None], bands[:1], ratio)[0]
    some = (partly > 0) & (partly < 0.95)
    assert some.any()
    changed = sensor.degrade(torch.where(valid, fine, 50.0), bands[:2], ratio, valid)
    torch.testing.assert_close(changed[:, some], seen[:, some], atol=1e-4, rtol=0)
    whole = sensor.degrade(fine, bands[:2], ratio)
    assert torch.equal(seen[:, partly == 0], whole[:, partly == 0])
    constant = sensor.degrade(torch.ones(1, 72, 72), bands[:1], ratio, valid)[0]
    if name != "corner":  # which sees zeros beyond the edges
        torch.testing.assert_close(constant, torch.ones_like(constant))

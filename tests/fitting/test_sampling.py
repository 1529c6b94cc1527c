from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused
from scenes import random_arrays, random_cube, with_chunks, with_numbers

import s2pipe
from s2pipe.core.bands import BANDS_BY_GSD
from s2pipe.fitting.fingerprint import FINGERPRINT_SHARE, fingerprint
from s2pipe.fitting.sampling import (
    MAX_WINDOWS,
    WINDOW,
    Sample,
    Window,
    _window_places,
    bands_without_data,
    patch_corners,
    sample_windows,
)
from s2pipe.inputs.dataarray import as_cube


def test_windows_hold_reflectance_of_the_same_ground_at_every_resolution():
    cube = random_cube(120, 96)
    (window,) = sample_windows(as_cube(cube), seed=0)
    for gsd, array in window.reflectance.items():
        numbers = cube[f"r{gsd}m"]["reflectance"].values[0]
        np.testing.assert_allclose(array, numbers * 1e-4 - 0.1, atol=1e-6)
        assert window.valid[gsd].all()


def test_windows_follow_the_seed_and_not_the_chunks():
    cube = random_cube(780, 96, dates=6)
    whole, small = with_chunks(cube, 780, 96), with_chunks(cube, 60, 30)
    first, again, other = (sample_windows(as_cube(c), seed=seed) for c, seed in ((whole, 1), (small, 1), (whole, 2)))
    assert len(first) == MAX_WINDOWS < 2 * 6
    assert {window.valid[10].shape for window in first} == {(4, 756, 96)}
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.reflectance[10], b.reflectance[10])
    assert any(not np.array_equal(a.reflectance[10], b.reflectance[10]) for a, b in zip(first, other, strict=True))


def test_no_more_is_read_than_the_windows():
    read = []

    def spy(block_id):
        read.append(block_id)
        return np.full((1, 4, 756, 756), 3000, "uint16")

    numbers = da.map_blocks(
        spy, chunks=((1,) * 40, (4,), (756,) * 2, (756,) * 2), dtype="uint16", meta=np.empty((0,) * 4, "uint16")
    )
    coarse = [
        da.full((40, n, 1512 // r, 1512 // r), 3000, chunks=(1, n, 756 // r, 756 // r), dtype="uint16")
        for n, r in ((6, 2), (2, 6))
    ]
    assert len(sample_windows(as_cube(s2pipe.from_arrays(numbers, *coarse)), seed=0)) == MAX_WINDOWS
    assert len(set(read)) == len(read) == MAX_WINDOWS
    assert WINDOW == 756


def test_windows_reach_every_pixel_of_the_scene():
    covered = np.zeros((1938, 1926), bool)
    for _, rows, columns in _window_places(xr.DataArray(np.empty((1, 1, 1938, 1926), "u1"), dims=("time", "band", "y", "x"))):
        covered[rows, columns] = True
        assert (rows.stop - rows.start, columns.stop - columns.start) <= (WINDOW, WINDOW)
    assert covered.all()


def test_the_only_imagery_is_found_wherever_it_lies():
    cube = random_cube(96, 96, dates=60)
    numbers = {name: cube[name]["reflectance"].values for name in cube.children}
    for array in numbers.values():
        array[:-1] = 0
    sparse = with_numbers(cube, **numbers)
    for seed in range(5):
        (window,) = sample_windows(as_cube(sparse), seed=seed)
        assert all(valid.all() for valid in window.valid.values())


def test_windows_with_imagery_are_preferred_and_nodata_only_is_refused():
    cube = random_cube(96, 96, dates=3)
    numbers = {name: cube[name]["reflectance"].values for name in cube.children}
    for array in numbers.values():
        array[0] = 0
        array[1, :, : array.shape[2] * 7 // 8] = 0
    assert len(sample_windows(as_cube(with_numbers(cube, **numbers)), seed=0)) == 1
    for array in numbers.values():
        array[2] = 0
    assert len(sample_windows(as_cube(with_numbers(cube, **numbers)), seed=0)) == 1
    for array in numbers.values():
        array[:] = 0
    with refused("data"):
        sample_windows(as_cube(with_numbers(cube, **numbers)), seed=0)


def test_valid_at_asks_the_bands_that_are_needed():
    valid = {gsd: np.ones((2, 60 * 10 // gsd, 36 * 10 // gsd), bool) for gsd in (10, 20, 60)}
    valid[10][0, 0, 35] = valid[20][1, 29, 0] = valid[60][:] = False
    window = Window(reflectance={}, valid=valid)
    assert np.argwhere(~window.valid_at(20, {10: [0, 1], 20: [0, 1]})).tolist() == [[0, 17], [29, 0]]
    assert np.argwhere(~window.valid_at(60, {10: [0, 1], 20: [0]})).tolist() == [[0, 5]]
    assert window.valid_at(10, {10: [1]}).all()


def blank(cube, **bands):
    """The cube with the bands at these positions of each node without data."""
    numbers = {name: cube[name]["reflectance"].values.copy() for name in bands}
    for name, positions in bands.items():
        numbers[name][:, positions] = 0
    return with_numbers(cube, **numbers)


def test_bands_without_data_are_named(caplog):
    cube = random_cube(96, 96)
    names = {gsd: BANDS_BY_GSD[gsd] for gsd in (10, 20, 60)}
    assert bands_without_data(sample_windows(as_cube(blank(cube, r20m=[2], r60m=[1])), seed=0), names) == ("B07", "B09")
    assert "B07, B09 hold nodata only" in caplog.text
    with refused("data", naming=("B03",)):
        bands_without_data(sample_windows(as_cube(blank(cube, r10m=[1])), seed=0), names)
    without_fine = blank(cube, r20m=slice(None))
    windows = sample_windows(as_cube(without_fine), seed=0)
    with refused("data", naming=("B05, B06, B07, B8A, B11, B12",)):
        bands_without_data(windows, {10: names[10], 20: names[20]})


def test_patches_are_cut_where_everything_is_usable():
    usable = np.ones((32, 40), bool)
    assert len(patch_corners(usable, size=16, stride=8)) == 3 * 4
    usable[20, 3] = False
    corners = patch_corners(usable, size=16, stride=8)
    assert [8, 0] not in corners.tolist() and [16, 0] not in corners.tolist() and [16, 8] in corners.tolist()
    assert patch_corners(np.ones((10, 40), bool), size=16, stride=8).shape == (0, 2)


def test_dn_given_as_floats_are_noticed(caplog):
    arrays = [cube_array.astype("float32") for cube_array in random_arrays(96, 96)]
    sample_windows(as_cube(s2pipe.from_arrays(*arrays, scale=1e-4)), seed=0)
    assert not caplog.text
    sample_windows(as_cube(s2pipe.from_arrays(*arrays)), seed=0)
    assert "DN seem to have been given as reflectance" in caplog.text


def test_a_sample_tells_what_is_to_be_sharpened():
    sample = Sample.of(as_cube(random_cube(96, 96)), seed=0)
    assert sample.bands == BANDS_BY_GSD and sample.gsds == (20, 60)
    assert sample.targets == BANDS_BY_GSD[20] + BANDS_BY_GSD[60]
    assert replace(sample, gsds=(60,)).targets == BANDS_BY_GSD[60]
    (window,), (expected,) = sample.windows, sample_windows(as_cube(random_cube(96, 96)), seed=0)
    np.testing.assert_array_equal(window.reflectance[20], expected.reflectance[20])


def test_only_targets_without_data_count():
    sample = Sample.of(as_cube(blank(random_cube(96, 96), r20m=[2], r60m=[1])), seed=0)
    assert sample.targets_without_data() == ("B07", "B09")
    assert replace(sample, gsds=(20,)).targets_without_data() == ("B07",)


GROUND = np.random.default_rng(0).random((2, 60, 50), np.float32)


def of_array(reflectance, valid=None):
    return fingerprint(reflectance, np.ones(reflectance.shape, bool) if valid is None else valid)


@given(st.integers(0, 40), st.integers(0, 30), st.integers(20, 60), st.integers(20, 50))
def test_two_cuts_of_a_scene_share_the_hashes_of_the_ground_they_share(top, left, bottom, right):
    one, two = GROUND[:, top:, left:], GROUND[:, :bottom, :right]
    shared = np.intersect1d(of_array(one), of_array(two))
    np.testing.assert_array_equal(shared, of_array(GROUND[:, top:bottom, left:right]))


def test_a_fingerprint_holds_one_square_in_so_many_once_and_sorted():
    reflectance = np.random.default_rng(1).random((3, 203, 203), np.float32)
    hashes = of_array(reflectance)
    assert hashes.dtype == np.uint64 and (np.diff(hashes) > 0).all()
    assert len(hashes) == pytest.approx(3 * 200**2 / FINGERPRINT_SHARE, rel=0.1)
    np.testing.assert_array_equal(of_array(np.concatenate([reflectance, reflectance[::-1]], axis=1)[:, :203]), hashes)


def test_other_ground_another_order_or_sign_shares_nothing():
    hashes = of_array(GROUND)
    assert len(hashes) > 50
    for other in (np.random.default_rng(1).random(GROUND.shape, np.float32), GROUND[:, ::-1], GROUND.swapaxes(1, 2), -GROUND):
        assert not np.isin(of_array(np.ascontiguousarray(other)), hashes).any()


def test_scenes_of_a_few_numbers_have_no_fingerprint():
    rng = np.random.default_rng(0)
    clipped = rng.integers(1, 4, (1, 300, 300)).astype(np.float32) * 1e-4
    assert of_array(clipped).size == of_array(np.full((1, 300, 300), 0.3, np.float32)).size == 0
    assert of_array(clipped * rng.integers(1, 100, clipped.shape).astype(np.float32)).size > 500


def test_a_scene_smaller_than_a_square_has_no_fingerprint():
    hashes = of_array(GROUND[:, :3])
    assert hashes.size == 0 and hashes.dtype == np.uint64


def test_squares_with_invalid_pixels_are_left_out():
    valid = np.ones(GROUND.shape, bool)
    valid[0, 30, 25] = valid[1, :, 10:12] = False
    filled = np.where(valid, GROUND, 0.5)
    hashes = of_array(filled, valid)
    np.testing.assert_array_equal(hashes, of_array(np.where(valid, GROUND, 0.7), valid))
    without_second = of_array(GROUND[1:, :, :10]), of_array(GROUND[1:, :, 12:])
    around = of_array(GROUND[:1, 27:34, 22:29])
    expected = np.setdiff1d(np.concatenate([of_array(GROUND[:1]), *without_second]), around)
    np.testing.assert_array_equal(hashes, expected)


def test_the_fingerprint_of_a_sample_is_that_of_its_coarse_bands():
    cube = random_cube(96, 96)
    hashes = Sample.of(as_cube(cube), seed=0).fingerprint()
    other = random_cube(96, 96, seed=1)
    changed = {name: with_numbers(cube, **{name: other[name]["reflectance"].values}) for name in cube.children}
    of_changed = {name: Sample.of(as_cube(one), seed=0).fingerprint() for name, one in changed.items()}
    np.testing.assert_array_equal(of_changed["r10m"], hashes)
    assert 0 < np.isin(of_changed["r20m"], hashes).sum() < np.isin(of_changed["r60m"], hashes).sum() < len(hashes)


def test_a_fingerprint_does_not_follow_how_reflectance_is_stored():
    arrays = random_arrays(96, 96)
    stored = [
        s2pipe.from_arrays(*arrays, offset=-0.1),
        s2pipe.from_arrays(*[array - np.uint16(1000) for array in arrays]),
        s2pipe.from_arrays(*[(array * 1e-4 - 0.1).astype(np.float32) for array in arrays]),
        with_chunks(s2pipe.from_arrays(*[array * 1e-4 - 0.1 for array in arrays]), 48, 48),
    ]
    first, *others = (Sample.of(as_cube(cube), seed=0).fingerprint() for cube in stored)
    assert len(first) > 50
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_a_fingerprint_does_not_follow_a_mistaken_offset():
    arrays = random_arrays(120, 96)
    cubes = [as_cube(s2pipe.from_arrays(*arrays, offset=offset)) for offset in (-0.1, 0.0)]
    right, mistaken = (Sample.of(cube, seed=0).fingerprint() for cube in cubes)
    np.testing.assert_array_equal(right, mistaken)


def test_the_clearest_part_of_a_window_is_found():
    valid = {gsd: np.zeros((count, 720 // gsd, 1200 // gsd), dtype=bool) for gsd, count in ((10, 4), (20, 6))}
    for gsd, mask in valid.items():
        mask[:, 240 // gsd : 600 // gsd, 600 // gsd : 960 // gsd] = True
    window = Window(reflectance={gsd: mask.astype(np.float32) for gsd, mask in valid.items()}, valid=valid)
    part = window.clearest_part(36, {10: range(4), 20: range(6)})
    assert part.valid[10].shape == (4, 36, 36) and part.valid[20].shape == (6, 18, 18)
    assert part.valid[10].all() and part.reflectance[20].all()
    whole = window.clearest_part(90, {10: range(4)})
    assert whole.valid[10].shape == (4, 72, 90)

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from scenes import random_arrays, random_cube, with_chunks, with_numbers

import s2pipe
from s2pipe import InputError
from s2pipe.bands import BANDS_BY_GSD
from s2pipe.sampling import MAX_WINDOWS, WINDOW, Window, _window_places, patch_corners, sample_windows, unseen_bands


def test_windows_hold_reflectance_of_the_same_ground_at_every_resolution():
    cube = random_cube(120, 96)
    (window,) = sample_windows(cube, seed=0)
    for gsd, array in window.reflectance.items():
        numbers = cube[f"r{gsd}m"]["reflectance"].values[0]
        np.testing.assert_allclose(array, numbers * 1e-4 - 0.1, atol=1e-6)
        assert window.seen[gsd].all()


def test_windows_follow_the_seed_and_not_the_chunks():
    cube = random_cube(780, 96, dates=6)
    whole, small = with_chunks(cube, 780, 96), with_chunks(cube, 60, 30)
    first, again, other = (sample_windows(c, seed=seed) for c, seed in ((whole, 1), (small, 1), (whole, 2)))
    assert len(first) == MAX_WINDOWS < 2 * 6
    assert {window.seen[10].shape for window in first} == {(4, 756, 96)}
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
    assert len(sample_windows(s2pipe.from_arrays(numbers, *coarse), seed=0)) == MAX_WINDOWS
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
        (window,) = sample_windows(sparse, seed=seed)
        assert all(seen.all() for seen in window.seen.values())


def test_windows_with_imagery_are_preferred_and_nodata_only_is_refused():
    cube = random_cube(96, 96, dates=3)
    numbers = {name: cube[name]["reflectance"].values for name in cube.children}
    for array in numbers.values():
        array[0] = 0
        array[1, :, : array.shape[2] * 7 // 8] = 0
    assert len(sample_windows(with_numbers(cube, **numbers), seed=0)) == 1
    for array in numbers.values():
        array[2] = 0
    assert len(sample_windows(with_numbers(cube, **numbers), seed=0)) == 1
    for array in numbers.values():
        array[:] = 0
    with pytest.raises(InputError, match="nodata only"):
        sample_windows(with_numbers(cube, **numbers), seed=0)


def test_seen_at_asks_the_bands_that_are_needed():
    seen = {gsd: np.ones((2, 60 * 10 // gsd, 36 * 10 // gsd), bool) for gsd in (10, 20, 60)}
    seen[10][0, 0, 35] = seen[20][1, 29, 0] = seen[60][:] = False
    window = Window(reflectance={}, seen=seen)
    assert np.argwhere(~window.seen_at(20, {10: [0, 1], 20: [0, 1]})).tolist() == [[0, 17], [29, 0]]
    assert np.argwhere(~window.seen_at(60, {10: [0, 1], 20: [0]})).tolist() == [[0, 5]]
    assert window.seen_at(10, {10: [1]}).all()


def blank(cube, **bands):
    """The cube with the bands at these positions of each node never seen."""
    numbers = {name: cube[name]["reflectance"].values.copy() for name in bands}
    for name, positions in bands.items():
        numbers[name][:, positions] = 0
    return with_numbers(cube, **numbers)


def test_bands_that_were_never_seen_are_named(caplog):
    cube = random_cube(96, 96)
    names = {gsd: BANDS_BY_GSD[gsd] for gsd in (10, 20, 60)}
    assert unseen_bands(sample_windows(blank(cube, r20m=[2], r60m=[1]), seed=0), names) == ("B07", "B09")
    assert "B07, B09 hold nodata only" in caplog.text
    with pytest.raises(InputError, match="10 m bands B03 hold nodata only"):
        unseen_bands(sample_windows(blank(cube, r10m=[1]), seed=0), names)
    without_fine = blank(cube, r20m=slice(None))
    windows = sample_windows(without_fine, seed=0)
    with pytest.raises(InputError, match=r"bands B05, B06, B07, B8A, B11, B12 hold nodata only"):
        unseen_bands(windows, {10: names[10], 20: names[20]})


def test_patches_are_cut_where_everything_is_usable():
    usable = np.ones((32, 40), bool)
    assert len(patch_corners(usable, size=16, stride=8)) == 3 * 4
    usable[20, 3] = False
    corners = patch_corners(usable, size=16, stride=8)
    assert [8, 0] not in corners.tolist() and [16, 0] not in corners.tolist() and [16, 8] in corners.tolist()
    assert patch_corners(np.ones((10, 40), bool), size=16, stride=8).shape == (0, 2)


def test_dn_given_as_floats_are_noticed(caplog):
    arrays = [cube_array.astype("float32") for cube_array in random_arrays(96, 96)]
    sample_windows(s2pipe.from_arrays(*arrays, scale=1e-4), seed=0)
    assert not caplog.text
    sample_windows(s2pipe.from_arrays(*arrays), seed=0)
    assert "DN seem to have been given as reflectance" in caplog.text

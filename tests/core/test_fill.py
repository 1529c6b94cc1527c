import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from s2pipe.core.fill import fill_nodata


def test_an_array_without_holes_is_returned_as_it_is():
    array = np.ones((2, 6, 6), np.float32)
    assert fill_nodata(array, 3) is array


def test_holes_take_the_nearest_valid_pixel_of_their_band():
    array = np.tile(np.arange(9, dtype=np.float32), (2, 9, 1))
    array[0, :, 6:] = np.nan
    filled = fill_nodata(array, 3)
    np.testing.assert_array_equal(filled[0, :, 6:], 5)
    np.testing.assert_array_equal(filled[1], array[1])


def test_beyond_the_reach_the_other_bands_serve_and_then_zero():
    array = np.full((3, 20, 20), np.nan, np.float32)
    array[0, :, :2] = 0.25
    array[1] = 0.75
    filled = fill_nodata(array, 4)
    assert filled[0, 0, 5] == 0.25
    assert filled[0, 0, 6] == 0.75
    np.testing.assert_array_equal(filled[2, :, 6:], 0.75)
    assert fill_nodata(np.full((2, 4, 4), np.nan, np.float32), 4).max() == 0


@given(seed=st.integers(0, 10_000), reach=st.integers(1, 6), share=st.floats(0.05, 0.9))
def test_a_window_is_filled_as_the_whole_is_wherever_the_reach_stays_inside_it(seed, reach, share):
    rng = np.random.default_rng(seed)
    whole = rng.random((2, 40, 40), np.float32)
    whole[rng.random(whole.shape) < share] = np.nan
    filled = fill_nodata(whole, reach)
    assert np.isfinite(filled).all()
    top, left = rng.integers(0, 15, 2)
    window = fill_nodata(whole[:, top : top + 25, left : left + 25], reach)
    inner = slice(reach, 25 - reach)
    np.testing.assert_array_equal(window[:, inner, inner], filled[:, top : top + 25, left : left + 25][:, inner, inner])

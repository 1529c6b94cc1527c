import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from s2pipe.fitting.noise import noise_level


def piece(noise, texture, *, size=160, seed=0):
    """What is left of a band: noise, and texture that is strong where the two guides vary, and weak where they do not."""
    rng = np.random.default_rng(seed)
    strength = np.clip(ndimage.gaussian_filter(rng.standard_normal((size, size)), 12) * 20, 0, None)
    guides = strength * rng.standard_normal((2, size, size))
    left = noise * rng.standard_normal((size, size)) + texture * strength * rng.standard_normal((size, size))
    return left, guides, np.ones((size, size), bool)


@settings(max_examples=20)
@given(noise=st.sampled_from([1e-4, 5e-4, 1e-3]), texture=st.floats(0, 3), seed=st.integers(0, 99))
def test_texture_that_goes_with_the_guides_is_not_taken_for_noise(noise, texture, seed):
    assert noise_level([piece(noise, texture * noise, seed=seed)]) == pytest.approx(noise, rel=0.2)


def test_pieces_count_together_and_invalid_pixels_do_not():
    pieces = [piece(5e-4, 1e-3, size=64, seed=seed) for seed in range(4)]
    before = noise_level(pieces)
    assert before == pytest.approx(5e-4, rel=0.25)
    left, guides, valid = pieces[0]
    valid = valid.copy()
    valid[:, :9] = False
    spoilt = np.where(valid, left, 1.0), np.where(valid, guides, -1.0), valid
    assert noise_level([spoilt, *pieces[1:]]) == pytest.approx(before, rel=0.25)


def test_where_too_little_is_valid_it_is_nought():
    left, guides, valid = piece(5e-4, 0)
    assert noise_level([(left, guides, ~valid)]) == 0
    assert noise_level([(left[:8, :8], guides[:, :8, :8], valid[:8, :8])]) == 0

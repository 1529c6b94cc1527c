import torch
from hypothesis import given
from hypothesis import strategies as st

from s2pipe.fitting.training import seeded
from s2pipe.methods.mtf_resnet.local_regression import regress_locally
from s2pipe.physics.window import REACH


def everywhere(bands, size=24):
    return torch.ones(bands, size, size, dtype=torch.bool)


def images(count, *, seed=0, size=24):
    with seeded(seed):
        return torch.randn(count, size, size)


@given(seed=st.integers(0, 100))
def test_a_linear_relation_is_found_everywhere(seed):
    guides, slopes = images(3, seed=seed), torch.tensor([0.5, -0.2, 0.1])
    observed = torch.einsum("k,kyx->yx", slopes, guides)[None] + 0.3
    found = regress_locally(guides, observed, everywhere(1))
    assert found.shape == (1, 4, 24, 24)
    inner = (..., slice(3, -3), slice(3, -3))  # mirrored at the edges, less of the guides is seen
    torch.testing.assert_close(found[0, 1:][inner], slopes[:, None, None].expand(-1, 18, 18), atol=0.08, rtol=0)  # for the ridge
    torch.testing.assert_close(found[0, 0][inner], torch.full((18, 18), 0.3), atol=0.05, rtol=0)


def test_a_relation_that_changes_is_followed():
    guides = images(1)
    slopes = torch.where(torch.arange(24) < 12, 1.0, -1.0)
    found = regress_locally(guides, guides * slopes, everywhere(1))[0, 1]
    assert (found[:, :8] > 0.9).all() and (found[:, 16:] < -0.9).all()


def test_constant_images_have_no_slope():
    found = regress_locally(torch.zeros(2, 12, 12), torch.full((1, 12, 12), 0.5), everywhere(1, 12))
    torch.testing.assert_close(found[0, 0], torch.full((12, 12), 0.5), atol=1e-4, rtol=0)
    assert not found[0, 1:].any()


def test_equal_images_share_the_slope():
    guide = images(1)
    found = regress_locally(guide.expand(2, -1, -1), guide, everywhere(1))[0, 1:]
    torch.testing.assert_close(found, torch.full_like(found, 0.5), atol=0.02, rtol=0)


def test_a_pixel_depends_on_its_window_only():
    guides, observed = images(2), images(1, seed=1)
    elsewhere = torch.ones(24, 24, dtype=torch.bool)
    elsewhere[12 - REACH : 13 + REACH, 12 - REACH : 13 + REACH] = False
    changed = torch.where(elsewhere, 5.0, guides)
    torch.testing.assert_close(
        regress_locally(changed, observed, everywhere(1))[..., 12, 12],
        regress_locally(guides, observed, everywhere(1))[..., 12, 12],
    )


def test_a_pixel_that_is_not_known_has_no_say():
    guides, observed, known = images(2), images(2, seed=1), everywhere(2)
    known[0, 8:14, 10:16] = False
    changed = torch.where(known, observed, 50.0)
    torch.testing.assert_close(regress_locally(guides, changed, known), regress_locally(guides, observed, known))
    torch.testing.assert_close(regress_locally(guides, changed, known)[1], regress_locally(guides, observed, everywhere(2))[1])


def test_where_nothing_is_known_there_is_no_relation():
    assert not regress_locally(images(2), images(1, seed=1), ~everywhere(1)).any()

import dask.array as da
import numpy as np
import pytest
import torch
from scenes import random_cube, with_chunks, with_numbers

import s2pipe
from s2pipe import InputError
from s2pipe.training import MAX_WINDOWS, WINDOW, Window, patch_corners, sample_windows, seeded, train


def test_windows_hold_reflectance_of_the_same_ground_at_every_resolution():
    cube = random_cube(120, 96)
    (window,) = sample_windows(cube, seed=0)
    for gsd, array in window.reflectance.items():
        numbers = cube[f"r{gsd}m"]["reflectance"].values[0]
        np.testing.assert_allclose(array, numbers * 1e-4 - 0.1, atol=1e-6)
        assert window.seen[gsd].all()


def test_windows_do_not_cross_chunks_and_follow_the_seed():
    cube = with_chunks(random_cube(240, 240, dates=3), 120, 120)
    first, again, other = (sample_windows(cube, seed=seed) for seed in (1, 1, 2))
    assert len(first) == MAX_WINDOWS
    assert {window.seen[10].shape for window in first} == {(120, 120)}
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


def test_nodata_only_is_refused_and_windows_without_it_preferred():
    cube = random_cube(240, 120)
    numbers = {name: cube[name]["reflectance"].values for name in cube.children}
    empty = with_numbers(cube, **{name: np.zeros_like(array) for name, array in numbers.items()})
    with pytest.raises(InputError, match="nodata only"):
        sample_windows(with_chunks(empty, 120, 120), seed=0)
    for array in numbers.values():
        array[..., : array.shape[2] // 2, :] = 0
    half = with_chunks(with_numbers(cube, **numbers), 120, 120)
    for seed in range(4):
        (window,) = sample_windows(half, seed=seed)
        assert window.seen_at(60).all()


def test_seen_at_asks_every_resolution():
    seen = {gsd: np.ones((60 * 10 // gsd, 36 * 10 // gsd), bool) for gsd in (10, 20, 60)}
    seen[10][0, 35] = seen[20][29, 0] = False
    window = Window(reflectance={}, seen=seen)
    assert np.argwhere(~window.seen_at(20)).tolist() == [[0, 17], [29, 0]]
    assert np.argwhere(~window.seen_at(60)).tolist() == [[0, 5], [9, 0]]


def test_patches_are_cut_where_everything_is_usable():
    usable = np.ones((32, 40), bool)
    assert len(patch_corners(usable, size=16, stride=8)) == 3 * 4
    usable[20, 3] = False
    corners = patch_corners(usable, size=16, stride=8)
    assert [8, 0] not in corners.tolist() and [16, 0] not in corners.tolist() and [16, 8] in corners.tolist()
    assert patch_corners(np.ones((10, 40), bool), size=16, stride=8).shape == (0, 2)


def fitted(seed):
    inputs = torch.rand(32, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = 0.5 * inputs[:, :1] + 0.25 * inputs[:, 1:]
    steps = []
    with seeded(seed):
        network = torch.nn.Conv2d(2, 1, 1)
    train(
        network, inputs, targets, steps=150, batch=8, learning_rate=0.05, seed=seed, device="cpu", label="toy",
        progress=lambda label, step, total, loss: steps.append((label, step, total, loss)),
    )  # fmt: skip
    return network, steps


def test_training_learns_reports_and_is_reproducible():
    network, steps = fitted(3)
    assert steps[0][:3] == ("toy", 1, 150) and steps[-1][:3] == ("toy", 150, 150)
    assert steps[-1][3] < 0.05 * steps[0][3]
    again, _ = fitted(3)
    torch.testing.assert_close(network.state_dict(), again.state_dict(), rtol=0, atol=0)
    other, _ = fitted(4)
    assert not torch.equal(network.weight, other.weight)


def test_seeded_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    with seeded(0):
        torch.rand(5)
    assert torch.equal(torch.rand(1), expected)

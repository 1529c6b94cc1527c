import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from papers import mean_sre, paper_scene, sre_between_cuts
from refusals import refused
from scenes import random_cube, with_numbers
from scipy.spatial import cKDTree

import s2pipe
from s2pipe import Sensor
from s2pipe.fitting.sampling import Sample
from s2pipe.inputs.dataarray import as_cube
from s2pipe.methods import get_method
from s2pipe.methods.classical import ssss
from s2pipe.methods.classical.ssss import PATCH, PENALTY, SEARCH, Edges, mixed_subspace, mixtures, nearest_patches, super_resolved
from s2pipe.methods.classical.subspace import Observation, spectra

BANDS, SHAPE = ("B04", "B05", "B11"), (24, 30)
SIMILARITY = 3e3  # so that the patches of random numbers, some 1e4 DN apart, pull on each other


@pytest.fixture
def block():
    """Images of `BANDS`, a subspace, and what z starts from; patches are nearest to some that they share pixels with."""
    rng = np.random.default_rng(0)
    smooth = rng.random(SHAPE).cumsum(axis=0).cumsum(axis=1) / 400
    images = [smooth, *(rng.random(tuple(n // 2 for n in SHAPE)) for _ in range(2))]
    subspace, start = np.linalg.qr(rng.normal(size=(3, 2)))[0], rng.random((2, 1))
    return [torch.from_numpy(a.astype(np.float32)) for a in images], *(
        torch.from_numpy(a.astype(np.float32)) for a in (subspace, start)
    )


def solved(block, *, iterations):
    images, subspace, start = block
    return super_resolved(images, BANDS, Sensor(), subspace=subspace, start=start, similarity=SIMILARITY, iterations=iterations)


def difference_of(edges, edge):
    """E of one edge, a matrix (pixel of a patch, pixel of the block)."""
    matrix = torch.zeros(PATCH**2, SHAPE[0] * SHAPE[1])
    rows = torch.arange(PATCH**2)
    matrix[rows, edges.first[edge]] += 1
    matrix[rows, edges.second[edge]] -= 1
    return matrix


def test_holding_no_copies_changes_nothing(block, monkeypatch):
    images, subspace, start = block
    edges = Edges.of(images[0], SIMILARITY / PENALTY)
    count = len(edges.first)
    monkeypatch.setattr(ssss, "COPIES", count)
    assert any(len(set(pair.tolist())) < 2 * PATCH**2 for pair in torch.cat([edges.first, edges.second], dim=1))
    seen = Observation.of(BANDS, images, Sensor(), "cpu")
    back, matrices = seen.back_projected(), [difference_of(edges, i) for i in range(count)]
    proximal = [torch.linalg.inv(torch.eye(e.shape[1]) + s * e.T @ e) for e, s in zip(matrices, edges.stiffness, strict=True)]
    z = spectra(start, images[0][None])
    d, duals = torch.zeros_like(back), [torch.zeros(2, images[0].numel())] * count
    for _ in range(5):
        v = seen.resolve(back + PENALTY * (spectra(subspace, z) - d), PENALTY)
        copies = [(z.flatten(1) - dual) @ matrix for dual, matrix in zip(duals, proximal, strict=True)]
        pulled = sum(copy + dual for copy, dual in zip(copies, duals, strict=True)).reshape(z.shape)
        z = spectra(torch.linalg.inv(subspace.T @ subspace + count * torch.eye(2)), spectra(subspace.T, v + d) + pulled)
        d = d + v - spectra(subspace, z)
        duals = [dual + copy - z.flatten(1) for copy, dual in zip(copies, duals, strict=True)]
    torch.testing.assert_close(solved(block, iterations=5), z, atol=1e-4, rtol=0)


def test_admm_ends_where_the_cost_is_least(block, monkeypatch):
    monkeypatch.setattr(ssss, "COPIES", 4)  # they set the speed, not the end
    images, subspace, _ = block
    edges = Edges.of(images[0], SIMILARITY)
    z = torch.zeros(2, *SHAPE, requires_grad=True)

    def cost(z):
        x = spectra(subspace, z)
        misfit = ((x[0] - images[0]) ** 2).sum()
        for i in (1, 2):
            misfit = misfit + ((Sensor().degrade(x[i : i + 1], BANDS[i : i + 1], 2)[0] - images[i]) ** 2).sum()
        return misfit / 2 + (edges.stiffness * edges.differences(z) ** 2).sum() / 2

    optimiser = torch.optim.LBFGS([z], max_iter=2000, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe")
    optimiser.step(lambda: (optimiser.zero_grad(), (value := cost(z)).backward(), value)[2])
    found = solved(block, iterations=3000)
    torch.testing.assert_close(cost(found), cost(z.detach()), rtol=1e-3, atol=0)


@given(seed=st.integers(0, 9999), rows=st.integers(1, 5), columns=st.integers(1, 6))
def test_each_patch_is_joined_to_its_nearest(seed, rows, columns):
    height, width = rows * PATCH, columns * PATCH
    image = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    distance, offset = nearest_patches(torch.from_numpy(image))
    if rows == columns == 1:
        assert distance.isinf().all()
        return
    patches = np.lib.stride_tricks.sliding_window_view(image, (PATCH, PATCH)).reshape(-1, PATCH**2)
    corners = np.stack(np.divmod(np.arange(len(patches)), width - PATCH + 1), axis=1)
    for row, column in np.ndindex(rows, columns):
        corner = np.array([row, column]) * PATCH
        near = patches[np.abs(corners - corner).max(axis=1) <= SEARCH]
        own = patches[(corners == corner).all(axis=1)][0]
        assert distance[row, column] == pytest.approx(cKDTree(near).query(own, k=2)[0][1], rel=1e-4)
        found = patches[(corners == corner + offset[:, row, column].numpy()).all(axis=1)][0]
        assert np.linalg.norm(found - own) == pytest.approx(float(distance[row, column]), rel=1e-4)


@given(seed=st.integers(0, 9999), height=st.integers(6, 40), width=st.integers(6, 40))
def test_the_pull_is_the_transpose_of_the_differences(seed, height, width):
    generator = torch.Generator().manual_seed(seed)
    image, images = torch.rand(height, width, generator=generator), torch.rand(2, height, width, generator=generator)
    edges = Edges.of(image, 1e4)
    t = torch.rand(edges.differences(images).shape, generator=generator)
    expected = (edges.differences(images) * edges.stiffness * t).sum()
    torch.testing.assert_close((images * edges.pull(t, images.shape)).sum(), expected, atol=1e-3, rtol=1e-3)


def test_patches_less_than_one_dn_apart_are_joined_as_if_they_were_one_dn_apart():
    flat = Edges.of(torch.full((24, 24), 0.2), 3.0)
    assert (flat.stiffness == 3).all() and flat.relaxation.isfinite().all()
    noisy = Edges.of(0.2 + 1e-6 * torch.rand(24, 24), 3.0)
    assert (noisy.stiffness == 3).all()


def test_a_patch_that_has_no_other_is_joined_to_nothing():
    alone = Edges.of(torch.rand(11, 11), 3.0)
    assert (alone.stiffness == 0).all()
    torch.testing.assert_close(alone.relaxation, torch.eye(36)[None])


def test_mixtures_have_no_negative_part_and_find_the_band_that_is_one():
    cube = random_cube(120, 120)
    fine = cube["r10m"]["reflectance"].values
    numbers = cube["r20m"]["reflectance"].values.copy()
    truth = np.array([0.2, 0.0, 0.5, 0.3])
    mixed = np.einsum("f,tfyx->tyx", truth, fine).astype(np.float32)
    numbers[:, 4] = Sensor().degrade(torch.from_numpy(mixed), ["B11"], 2).round().numpy()
    sample = Sample.of(as_cube(with_numbers(cube, r20m=numbers)), seed=0)
    found = mixtures(sample, Sensor(), without=())
    np.testing.assert_array_equal(found[:4], np.eye(4))
    np.testing.assert_allclose(found[8], truth, atol=1e-3)
    assert (found >= 0).all()


def test_the_subspace_is_that_of_the_mixtures_and_then_of_what_they_leave():
    sample = Sample.of(as_cube(random_cube(120, 120)), seed=0)
    mixture = mixtures(sample, Sensor(), without=())
    subspace = mixed_subspace(sample, Sensor(), mixture, without=())
    np.testing.assert_allclose(subspace.T @ subspace, np.eye(5), atol=1e-9)
    np.testing.assert_allclose(subspace[:, :4] @ (subspace[:, :4].T @ mixture), mixture, atol=1e-6)
    assert np.abs(mixture.T @ subspace[:, 4]).max() < 1e-6 and np.abs(subspace[4:, 4]).max() > 0.1


def test_a_band_without_data_harms_no_other():
    cube = random_cube(120, 120)
    numbers = {name: cube[name]["reflectance"].values.copy() for name in ("r20m", "r60m")}
    numbers["r20m"][:, 3] = 0
    numbers["r60m"][:, 1] = 0
    holed = with_numbers(cube, **numbers)
    kept = {"r10m": [0, 1, 2, 3], "r20m": [0, 1, 2, 4, 5], "r60m": [0]}
    without = xr.DataTree.from_dict({name: cube[name].to_dataset().isel(band=rows) for name, rows in kept.items()})
    sharpener = s2pipe.fit(holed, "ssss")
    assert sharpener.bicubic_bands == ("B8A", "B09")
    bands = ["B01", "B05", "B12"]
    result, expected = (s2pipe.sharpen(c, s, bands=bands).compute() for c, s in ((holed, sharpener), (without, "ssss")))
    np.testing.assert_allclose(result.values.astype(int), expected.values.astype(int), atol=1)


@pytest.mark.parametrize(("name", "protocol", "expected"), [("iceland-raw", "corner", 27.41), ("iceland", "centre", 30.24)])
def test_figures_are_those_measured_before(data_dir, name, protocol, expected):
    # 27.52 is published for raw Iceland: Nguyen et al. 2021, doi:10.1109/JSTARS.2021.3092286, table III
    found = mean_sre(paper_scene(data_dir, name), "ssss", protocol, told=Sensor.named(protocol))
    assert found == pytest.approx(expected, abs=0.05)


def test_blocks_hardly_matter(data_dir):
    assert sre_between_cuts(data_dir, "ssss") > 75  # dB: a few DN at most


@pytest.mark.parametrize("options", [{"similarity": 0}, {"iterations": 0}, {"similarity": "x"}])
def test_bad_options_are_refused(options):
    with refused(*options, naming=tuple(options.values())):
        get_method("ssss", **options)

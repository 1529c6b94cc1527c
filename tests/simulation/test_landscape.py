"""The simulated scene: what it holds, and that its COGs and items are what a catalog of the real archive would give."""

import json

import numpy as np
import pystac
import pytest
import rasterio
import torch
from refusals import refused

import s2pipe
from s2pipe.core.bands import BANDS, BANDS_BY_GSD, GSDS
from s2pipe.core.encoding import PRESENT_ENCODING
from s2pipe.core.errors import InputError
from s2pipe.physics.sensor import Sensor
from s2pipe.simulation.archive import write_scene
from s2pipe.simulation.landscape import enlarge_scene, simulate_scene


@pytest.fixture(scope="module")
def scene():
    return simulate_scene(180, seed=1)


@pytest.mark.parametrize("size", [60, 102, 240])
def test_shapes_and_types(size):
    scene = simulate_scene(size)
    assert scene.truth.shape == (12, size, size)
    assert scene.truth.dtype == np.float32
    for gsd in GSDS:
        assert scene.observed(gsd).shape == (len(BANDS_BY_GSD[gsd]), size * 10 // gsd, size * 10 // gsd)
        assert scene.observed(gsd).dtype == np.uint16
        assert scene.observed(gsd).min() > 0


def test_the_seed_decides_the_scene(scene):
    again, other = simulate_scene(180, seed=1), simulate_scene(180, seed=2)
    for gsd in GSDS:
        np.testing.assert_array_equal(scene.observed(gsd), again.observed(gsd))
        assert (scene.observed(gsd) != other.observed(gsd)).mean() > 0.9


@pytest.mark.parametrize("size", [0, 54, 100])
def test_sizes_off_the_lattice_are_refused(size):
    with refused("size", naming=(size, 6)):
        simulate_scene(size)


@pytest.mark.parametrize("protocol", ["centre", "corner", "box"])
def test_observations_are_the_degraded_truth_within_noise(protocol):
    sensor = Sensor.named(protocol)
    scene = simulate_scene(120, seed=3, sensor=sensor)
    for gsd in (20, 60):
        bands = BANDS_BY_GSD[gsd]
        truth = torch.from_numpy(scene.truth[[list(BANDS).index(band) for band in bands]])
        error = PRESENT_ENCODING.decode(scene.observed(gsd)) - sensor.degrade(truth, bands, gsd // 10).numpy()
        assert 2e-4 < error.std() < 8e-4
        assert abs(error.mean()) < 1e-4


def test_reflectance_is_plausible_and_coarse_bands_hold_more_than_the_10_m_bands_say():
    truth = simulate_scene(240, seed=0).truth
    assert truth.min() > 0
    assert truth.max() < 1
    bands = list(BANDS)
    ten = np.stack([truth[bands.index(band)].ravel() for band in BANDS_BY_GSD[10]] + [np.ones(truth[0].size)], axis=1)
    for band in ("B05", "B11", "B12", "B09"):
        target = truth[bands.index(band)].ravel()
        rest = target - ten @ np.linalg.lstsq(ten, target, rcond=None)[0]
        assert 0.6 < 1 - rest.var() / target.var() < 0.995, band


def test_cogs_hold_the_scene_on_the_tiles_lattice(scene, tmp_path):
    catalog = pystac.Catalog.from_file(str(write_scene(scene, tmp_path)))
    (item,) = catalog.get_items(recursive=True)
    assert set(item.assets) == {band.keys[0] for band in BANDS.values()}
    for name, band in BANDS.items():
        asset = item.assets[band.keys[0]]
        assert not asset.href.startswith("/")  # self-contained: the folder can be moved
        with rasterio.open(asset.get_absolute_href()) as file:
            assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert file.crs.to_epsg() == 32633
            assert file.transform.c % 60 == file.transform.f % 60 == 0
            assert list(file.transform)[:6] == asset.extra_fields["proj:transform"]
            assert list(file.shape) == asset.extra_fields["proj:shape"]
            assert file.nodata == 0
            observed = scene.observed(band.gsd)[BANDS_BY_GSD[band.gsd].index(name)]
            np.testing.assert_array_equal(file.read(1), observed)


def test_items_state_what_earth_search_states(scene, tmp_path):
    write_scene(scene, tmp_path, tile="19HDB", baseline="05.11", cloud_cover=12.5, datetime="2026-01-02T14:40:01Z")
    (item,) = json.loads((tmp_path / "items.json").read_text())["features"]
    properties = item["properties"]
    assert item["id"] == "S2A_19HDB_20260102_0_L2A"
    assert item["collection"] == "sentinel-2-l2a"
    assert properties["proj:code"] == "EPSG:32719"  # zone 19, southern latitude band
    assert properties["grid:code"] == "MGRS-19HDB"
    assert properties["s2:processing_baseline"] == "05.11"
    assert properties["earthsearch:boa_offset_applied"] is False
    assert properties["eo:cloud_cover"] == 12.5
    assert item["assets"]["rededge1"]["raster:bands"][0]["offset"] == -0.1
    west, south, east, north = item["bbox"]
    assert west < east
    assert south < north < 0


def test_scenes_gather_in_one_catalog(scene, tmp_path):
    write_scene(scene, tmp_path)
    write_scene(scene, tmp_path, datetime="2026-06-26T10:00:31Z")
    write_scene(scene, tmp_path, tile="33TXM")
    path = write_scene(scene, tmp_path)  # a second time: replaced, not doubled
    items = list(pystac.Catalog.from_file(str(path)).get_items(recursive=True))
    ids = ["S2A_33TWM_20260621_0_L2A", "S2A_33TWM_20260626_0_L2A", "S2A_33TXM_20260621_0_L2A"]
    assert sorted(item.id for item in items) == ids
    assert sorted(item.id for item in pystac.ItemCollection.from_file(str(tmp_path / "items.json"))) == ids


def test_an_origin_off_the_lattice_is_refused(scene, tmp_path):
    with refused("origin", naming=((540010, 5160000), "60 m")):
        write_scene(scene, tmp_path, origin=(540010, 5160000))
    assert not list(tmp_path.iterdir())


def test_load_gives_exactly_the_dn_back(scene, tmp_path):
    write_scene(scene, tmp_path)
    cube = s2pipe.load(s2pipe.search(tmp_path / "catalog.json"), chunks=60)
    for gsd in GSDS:
        loaded = cube[f"r{gsd}m"]["reflectance"]
        assert list(loaded["band"].values) == list(BANDS_BY_GSD[gsd])
        np.testing.assert_array_equal(loaded.values[0], scene.observed(gsd))
    assert cube["r10m"].x.values[0] == 540005
    assert cube["r10m"].y.values[0] == 5159995


def test_both_catalog_files_find_the_same_pixels(scene, tmp_path):
    write_scene(scene, tmp_path)
    cubes = [s2pipe.load(s2pipe.search(tmp_path / name), bands=["B04"]) for name in ("catalog.json", "items.json")]
    np.testing.assert_array_equal(*(cube["r10m"]["reflectance"].values for cube in cubes))


def test_a_crop_made_larger_is_the_crop_mirrored_and_perturbed(scene):
    crop = [scene.observed(gsd).copy() for gsd in GSDS]
    crop[1][0, :2, :3] = 0
    crop[1][1, :2, :3] = 65535
    cube = s2pipe.from_arrays(*crop, scale=PRESENT_ENCODING.scale, offset=PRESENT_ENCODING.offset)
    large = enlarge_scene(cube, 420, seed=1)
    for gsd, small in zip(GSDS, crop, strict=True):
        edge, size = 420 * 10 // gsd, small.shape[-1]
        seen = large.observed(gsd)
        assert seen.shape == (len(BANDS_BY_GSD[gsd]), edge, edge)
        mirrored = np.pad(small, [(0, 0), (0, edge - size), (0, edge - size)], mode="symmetric")
        marks = (mirrored == 0) | (mirrored == 65535)
        np.testing.assert_array_equal(seen[marks], mirrored[marks])
        ratio = PRESENT_ENCODING.decode(seen)[~marks] / PRESENT_ENCODING.decode(mirrored)[~marks]
        assert 0.8 < np.percentile(ratio, 1) < 0.95 and 1.05 < np.percentile(ratio, 99) < 1.2
        # the mirror images differ from one another
        assert (seen[:, :size, :size] != seen[:, :size, size : 2 * size][:, :, ::-1]).mean() > 0.8
    assert (enlarge_scene(cube, 420, seed=2).r10m != large.r10m).mean() > 0.9


def test_a_crop_that_lacks_bands_is_not_made_larger(scene):
    cube = s2pipe.from_arrays(scene.r10m, scene.r20m, scale=1e-4, offset=-0.1)
    with pytest.raises(InputError, match="'B01', 'B09' are not available"):
        enlarge_scene(cube, 420)

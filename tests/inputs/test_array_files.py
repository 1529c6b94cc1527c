import numpy as np
import pytest
from refusals import refused

from s2pipe import Sensor, evaluate, read_scene

BANDS = {10: ["B02", "B03", "B04", "B08"], 20: ["B05", "B8A", "B11"], 60: ["B01"]}


def truth_file(folder, **changed):
    random = np.random.default_rng(0)
    arrays = {f"truth{gsd}": random.random((len(names), 72, 84)).astype(np.float32) for gsd, names in BANDS.items()}
    arrays |= {f"bands{gsd}": np.array(names) for gsd, names in BANDS.items()}
    np.savez(folder / "cube.npz", **(arrays | changed))
    return folder / "cube.npz", arrays


def test_of_bands_known_at_the_fine_scale_the_scene_is_what_the_sensor_sees(tmp_path):
    path, arrays = truth_file(tmp_path)
    scene = read_scene(path)
    assert scene.name == "cube" and scene.references.keys() == {20, 60}
    np.testing.assert_array_equal(scene.references[20], arrays["truth20"])
    node = scene.cube["r20m"]["reflectance"]
    assert node["band"].values.tolist() == BANDS[20] and node.shape == (1, 3, 36, 42)
    row, column = (Sensor().matrix("B11", 2, size).numpy() for size in (72, 84))
    np.testing.assert_allclose(node.values[0, 2], row @ arrays["truth20"][2] @ column.T, atol=1e-6)


def test_they_judge_methods_with_noise_and_without(tmp_path):
    path, _ = truth_file(tmp_path)
    scene = read_scene(path)
    tables = [
        evaluate(scene.cube, ["bicubic"], gsd=gsd, reference=scene.references[gsd], noise=noise, progress=lambda *_: None)
        for gsd, noise in ((20, None), (20, 0.3), (60, None))
    ]
    clean, noisy, coarse = (table.set_index("band")["sre_db"] for table in tables)
    assert (noisy < clean).all() and clean.index.tolist() == [*BANDS[20], "all"] and coarse.index.tolist() == ["B01", "all"]


@pytest.mark.parametrize(
    "changed",
    [
        {"bands20": np.array(["B05", "B11", "B8A"])},
        {"bands20": np.array(["B05", "B8A"])},
        {"bands60": np.array(["B02"])},
        {"truth60": np.zeros((1, 72, 72), np.float32)},
        {"truth20": np.zeros((72, 84), np.float32)},
    ],
)
def test_what_is_no_such_cube_is_refused(tmp_path, changed):
    path, _ = truth_file(tmp_path, **changed)
    with refused("scene"):
        read_scene(path)


def test_what_is_not_known_at_the_fine_scale_is_not_seen(tmp_path):
    _, arrays = truth_file(tmp_path)
    arrays["truth20"][:, 20:24, 30:34] = np.nan
    path, _ = truth_file(tmp_path, truth20=arrays["truth20"])
    seen = read_scene(path).cube["r20m"]["reflectance"].values[0]
    assert np.isnan(seen[:, 10:12, 15:17]).all() and np.isnan(seen).sum() == 3 * 4

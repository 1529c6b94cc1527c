"""Many tiles: each comes out as it does alone, few of them are held at once, and what fails does not stop the others."""

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import dask
import pytest
import xarray as xr
from distributed import Client, LocalCluster, as_completed
from scenes import random_cube, with_chunks, with_numbers

import s2pipe
from s2pipe.core.errors import ReadError
from s2pipe.jobs.job import Job, Submitted, planned
from s2pipe.simulation.archive import write_scene
from s2pipe.simulation.landscape import simulate_scene
from s2pipe.store.location import locate
from s2pipe.store.zarr_io import plan_writing

TILES = [f"tile{number}" for number in range(5)]


def cube_of(number: int) -> xr.DataTree:
    return with_chunks(random_cube(144, 144, dates=2, seed=number), 72, 72)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=":0", host="127.0.0.1") as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


@pytest.fixture(params=["threads", "cluster"])
def place(request: pytest.FixtureRequest) -> str:
    """Where the work is done."""
    if request.param == "cluster":
        request.getfixturevalue("client")
    return str(request.param)


def unreadable() -> xr.DataTree:
    """A cube of which one chunk cannot be read, of the second date, once it was fitted."""
    cube = cube_of(0)

    def read(block, block_info=None):
        if block_info[None]["chunk-location"] == (1, 0, 1, 1):
            raise ReadError("cannot read band B02")
        return block

    return with_numbers(cube, r10m=cube["r10m"]["reflectance"].data.map_blocks(read, dtype="uint16"))


def broken() -> xr.DataTree:
    raise OSError("the network is down")


def test_each_tile_comes_out_as_it_does_alone(place: str, tmp_path: Path) -> None:
    s2pipe.sharpen_tiles({tile: partial(cube_of, n) for n, tile in enumerate(TILES)}, tmp_path / "a.zarr", method="glp")
    for number, tile in enumerate(TILES):
        xr.testing.assert_identical(
            s2pipe.open_zarr(tmp_path / "a.zarr", group=tile).compute(), s2pipe.sharpen(cube_of(number), "glp").compute()
        )


def test_it_tells_how_many_tiles_are_done(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cubes: dict[str, Callable[[], xr.DataTree]] = {"broken": broken, "good": partial(cube_of, 1)}
    with pytest.raises(s2pipe.S2PipeError, match="1 of 2 failed"):
        s2pipe.sharpen_tiles(cubes, tmp_path / "a.zarr", method="glp")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tiles: ")]
    assert lines == ["tiles: 50 % (1 of 2)", "tiles: 100 % (2 of 2)"]


@pytest.mark.parametrize("at_once", [1, 3])
def test_few_tiles_are_held_at_once_on_a_cluster(client: Client, tmp_path: Path, at_once: int) -> None:
    held = []

    def make(number: int) -> xr.DataTree:
        complete = [tile for tile in TILES if (tmp_path / "a.zarr" / tile).exists() and _complete(tmp_path / "a.zarr", tile)]
        held.append(number + 1 - len(complete))
        return cube_of(number)

    s2pipe.sharpen_tiles(
        {tile: partial(make, n) for n, tile in enumerate(TILES)}, tmp_path / "a.zarr", at_once=at_once, method="glp"
    )
    assert max(held) == at_once
    assert all(_complete(tmp_path / "a.zarr", tile) for tile in TILES)


def _complete(store: Path, tile: str) -> bool:
    try:
        s2pipe.open_zarr(store, group=tile)
    except s2pipe.StoreError:
        return False
    return True


def test_a_tile_that_fails_does_not_stop_the_others_and_can_be_gone_on_with(place: str, tmp_path: Path) -> None:
    sharpener = s2pipe.fit(cube_of(0), "glp")
    cubes: dict[str, Callable[[], xr.DataTree]] = {
        "bad": unreadable,
        "refused": lambda: s2pipe.load([]),
        "broken": broken,
        "good": partial(cube_of, 1),
    }
    with pytest.raises(s2pipe.S2PipeError, match="3 of 4 failed: "):
        s2pipe.sharpen_tiles(cubes, tmp_path / "a.zarr", method=sharpener)
    assert _complete(tmp_path / "a.zarr", "good")
    assert s2pipe.list_chunks(tmp_path / "a.zarr", group="bad")["written"].sum() >= 4
    s2pipe.sharpen_tiles({"bad": partial(cube_of, 0), "good": partial(cube_of, 1)}, tmp_path / "a.zarr", method=sharpener)
    expected = s2pipe.sharpen(cube_of(0), sharpener).compute()
    xr.testing.assert_identical(s2pipe.open_zarr(tmp_path / "a.zarr", group="bad").compute(), expected)


def test_two_dates_at_most_are_at_work_on_a_cluster(client: Client, tmp_path: Path) -> None:
    cube = with_chunks(random_cube(144, 144, dates=7), 72, 72)
    with planned(cube, tmp_path / "a.zarr", Job.of("glp"), group=None) as plan, Submitted(plan, client) as submitted:
        completed, most = as_completed(submitted.begin()), 0
        for future in completed:
            most = max(most, len(submitted._at_work))
            completed.update(submitted.take(future))
        submitted.finish()
    assert (most, submitted.left) == (2 * 4, 0)
    assert s2pipe.open_zarr(tmp_path / "a.zarr").sizes["time"] == 7


def test_a_cluster_is_sent_a_date_without_the_tasks_of_others(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cube = with_chunks(random_cube(144, 144, dates=7), 72, 72)
    sent: list[int] = []
    get = client.get
    with planned(cube, tmp_path / "a.zarr", Job.of("glp"), group=None) as plan, Submitted(plan, client) as submitted:
        monkeypatch.setattr(client, "get", lambda graph, keys, **options: sent.append(len(graph)) or get(graph, keys, **options))
        submitted.begin()
        of_all_dates = len(plan.writes[0][0].dask)
    assert len(sent) == 2 and max(sent) < of_all_dates / 5


@pytest.mark.parametrize("cubes", [["a", "b"], {"a": cube_of(0)}, {"a": partial(cube_of, 0), "a/": partial(cube_of, 1)}])
def test_illegal_cubes(cubes: object, tmp_path: Path) -> None:
    with pytest.raises(s2pipe.InputError, match="cubes="):
        s2pipe.sharpen_tiles(cubes, tmp_path / "a.zarr")  # type: ignore[arg-type]


@pytest.mark.parametrize(("options", "match"), [({"at_once": 0}, "at_once"), ({"group": "a"}, "group= names one group")])
def test_illegal_arguments(options: dict[str, object], match: str, tmp_path: Path) -> None:
    with pytest.raises(s2pipe.InputError, match=match):
        s2pipe.sharpen_tiles({"a": partial(cube_of, 0), "b": partial(cube_of, 1)}, tmp_path / "a.zarr", **options)
    assert not (tmp_path / "a.zarr").exists()


def test_a_whole_tile_is_planned_quickly_and_in_few_tasks(tmp_path: Path) -> None:
    dates = 3
    for date in range(dates):
        write_scene(simulate_scene(60), tmp_path / "items", datetime=f"2026-06-{1 + date:02d}T10:00:31Z")
    items = json.loads((tmp_path / "items" / "items.json").read_text())["features"]
    for item in items:  # as if the files were as large as a tile's, of which nothing is read
        for asset in item["assets"].values():
            asset["proj:shape"] = [10980 * 10 // asset["gsd"]] * 2
    sharpener = s2pipe.fit(random_cube(240, 240), "glp")
    start = time.perf_counter()
    sharpened = s2pipe.sharpen(s2pipe.load(items), sharpener)
    plan = plan_writing(sharpened, locate(tmp_path / "a.zarr", None), overwrite=False, resume=False, refit=False, shards=True)
    assert time.perf_counter() - start < 2 * dates
    assert plan.total == 36 * dates
    for date in plan.writes:
        (work,) = dask.optimize(dask.delayed(date))
        assert len(dict(work.dask)) <= 100 * 36

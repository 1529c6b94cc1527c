"""The running servers and their content: the real crops as COGs over http, described in a real STAC API."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from items import CONVENTIONS, OFFSET_APPLIED, SCENES, collection, earth_search_item, write_cogs
from servers import AssetServer, MissingService, asset_server, stac_api

from s2pipe.simulation.archive import write_scene
from s2pipe.simulation.landscape import simulate_scene


@pytest.fixture(scope="session")
def cog_dir(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the COGs of every scene."""
    folder = tmp_path_factory.mktemp("cogs")
    for scene in SCENES:
        write_cogs(data_dir / "crops", folder, scene)
    return folder


@pytest.fixture(scope="session")
def assets(cog_dir: Path) -> Iterator[AssetServer]:
    """The COGs over http, without faults."""
    with asset_server(cog_dir) as server:
        yield server


@pytest.fixture
def faulty_assets(cog_dir: Path) -> Iterator[AssetServer]:
    """The COGs over http, for the test to break."""
    with asset_server(cog_dir) as server:
        yield server


@pytest.fixture(scope="session")
def catalog(assets: AssetServer, cog_dir: Path) -> Iterator[str]:
    """Address of a STAC API with one collection per convention."""
    items = [build(scene, cog_dir, assets.url()) for build in CONVENTIONS.values() for scene in SCENES]
    items.append(earth_search_item(OFFSET_APPLIED, cog_dir, assets.url()))
    collections = [collection(name) for name in CONVENTIONS]
    try:
        with stac_api(collections, items) as url:
            yield url
    except MissingService as missing:
        if os.environ.get("S2PIPE_REQUIRE_SERVICES") == "1":
            pytest.fail(str(missing))
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local catalog with one small simulated scene."""
    return write_scene(simulate_scene(144, seed=4), tmp_path_factory.mktemp("archive"))

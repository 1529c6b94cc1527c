"""What goes wrong on the way from a catalog to pixels: each ends in one of s2pipe's errors, and none tells a token."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import traceback
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pystac
import pytest
from items import (
    CAMEROON,
    GSD,
    TEST_REPROCESSING,
    THAILAND,
    Scene,
    earth_search_item,
    native_file,
    planetary_computer_item,
    present_encoding,
    read_band,
)
from servers import HOST, AssetServer, free_port

import s2pipe

LOADERS = pytest.mark.parametrize("loader", ["stackstac", "odc"])


@pytest.fixture
def scene_dir(cog_dir: Path, tmp_path: Path) -> Path:
    """A folder of the test's own with Cameroon's COGs, to be spoilt."""
    for band in GSD:
        target = tmp_path / "cogs" / native_file(CAMEROON, band)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((cog_dir / native_file(CAMEROON, band)).read_bytes())
    return tmp_path / "cogs"


def item_of(scene: Scene, folder: Path, server: AssetServer) -> pystac.Item:
    return pystac.Item.from_dict(planetary_computer_item(scene, folder, server.url()))


def path_of(scene: Scene, band: str) -> str:
    return f"/{native_file(scene, band)}"


def whole_text(error: BaseException) -> str:
    """What a user may get to see of an error: it, its causes, and their tracebacks."""
    return "".join(traceback.format_exception(error))

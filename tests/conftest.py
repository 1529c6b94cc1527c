"""What every test shares: the real data and the settings of hypothesis."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") or os.environ.get("S2PIPE_REQUIRE_DATA") == "1" else "default")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real Sentinel-2 data: `S2PIPE_DATA`, by default ``../shared/data`` beside the repository."""
    repository = Path(__file__).parents[1]
    folder = Path(os.environ.get("S2PIPE_DATA", repository.parent / "shared" / "data"))
    if not (folder / "crops").is_dir():
        message = f"no real data at {folder}; set S2PIPE_DATA to its folder"
        if os.environ.get("S2PIPE_REQUIRE_DATA") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return folder.resolve()

"""The benchmark of a whole tile on a small one: killed and started again, it ends in the store of an undisturbed job."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from interrupted import wait_for

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BY_GLP = f"""
import sys
sys.path.insert(0, {str(BENCHMARKS)!r})
import tile_input, whole_tile
tile_input.PARTS = {{"1": 1}}  # the tile, at one date and at several, but no part of it
tile_input.CHUNKS_A_SIDE = 3
whole_tile.METHOD = "glp"  # quicker than the default; in the processes that it starts, too, which run all but the last line
if __name__ == "__main__":
    whole_tile.measure_and_render(whole_tile.__doc__, whole_tile.run, whole_tile.render, whole_tile.RESULTS)
"""


@pytest.mark.slow
@pytest.mark.skipif(not (BENCHMARKS.parent / ".git").exists(), reason="states the commit of a checkout")
def test_killed_and_started_again_it_ends_in_the_same_store(data_dir: Path, tmp_path: Path) -> None:
    results, work, script = tmp_path / "results.json", tmp_path / "216px" / "work", tmp_path / "by_glp.py"
    script.write_text(BY_GLP)
    command = [sys.executable, script, "--size", "216", "--cache", tmp_path, "--results", results]
    environment = os.environ | {"S2PIPE_DATA": str(data_dir)}
    first = subprocess.Popen([*map(str, command)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for((work / "216px1.zarr" / "s2pipe" / "chunks").exists, seconds=300)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert "network, round 1" in json.loads((work / "measured.json").read_text())

    second = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=500)
    assert second.returncode == 0, second.stderr
    assert "1 tile, 1 date, round 1, resumed" in second.stderr  # and the benchmark compares it with an undisturbed one
    assert second.stderr.splitlines().count("network, round 1") == 0  # what was measured before stays
    result = json.loads(results.read_text())
    assert {"wall_s", "network_s", "copy_s", "peak_rss_gb", "megapixels", "machine", "date", "commit"} <= set(result)
    assert len(result["jobs"]) == 2
    assert "| 1 tile, 3 dates |" in second.stdout
    assert not list(work.iterdir())

"""How far the pixels of the default method differ between kinds of processors, and between precisions.

    python benchmarks/processor_kinds.py           some minutes on two cores, and the page
    python benchmarks/processor_kinds.py --render  the page only, from the results there are

An x86 processor with AMX plays the older ones: the libraries under torch are told, by their environment variables, to keep to
fewer instructions. Each kind sharpens a scene by a fit of its own, in a process of its own. Compared are DN.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from run_facts import HERE, commit, load_scene, markdown, stated

import s2pipe

RESULTS = HERE / "results" / "processor_kinds.json"
SCENES = ("T48QUE", "iceland")
KINDS = {
    "AMX": {},
    "AVX-512 with bfloat16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
    "AVX-512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}
PRECISIONS = {"float32": tuple(KINDS), "bfloat16": ("AMX", "AVX-512 with bfloat16", "AVX-512")}
"""And the kinds that compute in each."""


def sharpen(scene: str, precision: str, path: Path) -> None:
    """The pixels of a scene, by the kind of processor that this process believes to be on, into a file."""
    cube = load_scene(scene)
    sharpener = s2pipe.fit(cube, precision=precision, progress=lambda *_: None)
    np.save(path, s2pipe.sharpen(cube, sharpener).values)


def difference(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Of two results, in DN."""
    apart = one.astype(int) - other.astype(int)
    return {"largest": int(np.abs(apart).max()), "rms": float(np.sqrt((apart**2).mean())), "share": float((apart != 0).mean())}


def run() -> dict[str, Any]:
    """Sharpen by every kind, and compare with the first."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for scene in SCENES:
            pixels = {}
            for precision, kinds in PRECISIONS.items():
                for kind in kinds:
                    path = Path(folder) / "pixels.npy"
                    command = [sys.executable, __file__, "--sharpen", scene, precision, str(path)]
                    subprocess.run(command, env=os.environ | KINDS[kind], check=True)
                    pixels[precision, kind] = np.load(path)
                    first = pixels[precision, kinds[0]]
                    rows.append(
                        {"scene": scene, "precision": precision, "kind": kind, **difference(pixels[precision, kind], first)}
                    )
            apart = difference(pixels["bfloat16", "AMX"], pixels["float32", "AMX"])
            rows.append({"scene": scene, "precision": "bfloat16 beside float32", "kind": "AMX", **apart})
    return {**stated(commit()), "rows": rows}


def render(result: dict[str, Any]) -> str:
    """The page, in Markdown."""
    rows = [
        [row["scene"], row["precision"], row["kind"], str(row["largest"]), f"{row['rms']:.3f}", f"{row['share']:.4%}"]
        for row in result["rows"]
    ]
    return "\n".join(
        [
            "# Kinds of processors\n",
            f"Written by `python benchmarks/processor_kinds.py`, whose head says what is measured, on {result['machine']}, "
            f"{result['date']}, commit {result['commit']}: how far each kind is from AMX, in DN.\n",
            markdown(["scene", "precision", "kind", "largest", "rms", "pixels that differ"], rows),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--render", action="store_true", help="only render the results there are")
    parser.add_argument("--sharpen", nargs=3, metavar=("SCENE", "PRECISION", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.sharpen:
        scene, precision, path = options.sharpen
        sharpen(scene, precision, Path(path))
        return
    if not options.render:
        RESULTS.write_text(json.dumps(run(), indent=1) + "\n")
    RESULTS.with_suffix(".md").write_text(render(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()

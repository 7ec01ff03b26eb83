"""The kernels' model against what an H100 took, and how machine code and measurements are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.kernel_model.assembly import _read
from benchmarks.kernel_model.measured import batches, launch_rows

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

CODE = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   FFMA R2, R2, R3, R4 ;
.L_x_0:
        /*0020*/                   FMNMX R5, R5, R2, !PT ;
        /*0030*/              @P0 BRA `(.L_x_0) ;
        /*0040*/              @P1 BRA `(.L_x_1) ;
        /*0050*/                   EXIT ;
        /*0060*/                   MUFU.RCP R7, R7 ;
        /*0070*/                   BRA `(.L_x_1) ;
"""


def test_loops_are_those_before_the_last_exit() -> None:
    instructions, loops, way = _read(CODE)
    assert way == 6 < len(instructions)
    assert loops == (range(1, 5), range(2, 4))
    assert instructions[3].startswith("BRA")


def test_measured_batches_of_both_layouts(tmp_path: Path) -> None:
    row = {"operation": "quantizer", "contender": "cuda-sm80", "shape": "mar_v16384", "batch": 8, "median_ms": 0.25}
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps({"machine": {"device": "NVIDIA H200"}, "rows": [row, {**row, "contender": "torch"}]}))
    assert batches(file) == {("mar", "H200", 8): pytest.approx(250)}
    assert len(batches(RESULTS / "kernel-h100.json")) == 6


def test_the_launches_of_a_batch_are_all_of_it() -> None:
    for _, shape, batch, measured in launch_rows(RESULTS / "kernel-h100-launches.json"):
        assert len(measured) == 39, (shape, batch)


@pytest.mark.slow
def test_it_is_within_a_quarter_of_what_an_h100_took() -> None:
    pytest.importorskip("triton")
    from benchmarks.kernel_model.__main__ import SPECS, Compiled, table
    from benchmarks.kernel_model.gpus import CHIPS

    known = batches(RESULTS / "kernel-h100.json")
    rows = table({key: Compiled(spec) for key, spec in SPECS.items()}, [it for it in CHIPS if it.name == "H100"])
    found = {(row["shape"], row["gpu"], row["batch"]): row["us"] for row in rows}
    assert found == {key: pytest.approx(us, rel=0.25) for key, us in known.items()}

"""What is written down of an engine once it was loaded: here by the tests' TensorRT, on the stand-in for the driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from coda_runtime.build.measuring import with_parity
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.engine_key import EngineKey
from coda_runtime.format.parity import Measured, parity_records
from coda_runtime.format.profiles import Batch
from tests.runtime import measurable
from tests.runtime.backends import engines
from tests.runtime.backends.cuda import fake_trt
from tests.runtime.backends.cuda.driver.controls import Driver
from tests.runtime.backends.tensorrt.test_backend import Machine


@pytest.mark.parametrize("profiles", [((1, 2, 4),), ((1, 1, 1), (2, 3, 6))])
def test_the_memory_of_each_profile_is_written_down_with_the_parity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: Driver, profiles: tuple[Batch, ...]
) -> None:
    machine = Machine(monkeypatch, rtx=False)
    bundle = Bundle.open(measurable.make(tmp_path / "bundle"))
    artifact = machine.artifact(bundle.folder, bundle.folder, profiles=profiles).with_profiles(profiles)
    made = with_parity(bundle, artifact)
    assert made.engine is not None
    assert made.engine["scratch_bytes"] == [fake_trt.SCRATCH * high for _, _, high in profiles]
    assert EngineKey.from_json(made.engine).to_json() == made.engine
    (record,) = parity_records(made.parity).values()
    assert isinstance(record, Measured)
    assert list(record.batches) == [str(size) for size in sorted({size for of in profiles for size in of})]
    assert machine.trt.ran_in[-1] == (len(profiles) - 1, profiles[-1][2])


def test_where_an_engine_cannot_be_loaded_its_memory_is_not_known(tmp_path: Path) -> None:
    bundle = Bundle.open(measurable.make(tmp_path / "bundle"))
    artifact = engines.write(bundle.folder, bundle.folder, "decoder", (1, 1, 1), (2, 3, 6))
    made = with_parity(bundle, artifact)
    assert "scratch_bytes" not in (made.engine or {})
    assert not made.is_measured

"""The measuring from end to end on the tiny bundle, and with workers that go wrong."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coda_runtime.backends.base import LoadOptions
from coda_runtime.bench.image_set import take_images
from coda_runtime.bench.noise import collect_warnings
from coda_runtime.bench.operations import ON_DEVICE
from coda_runtime.bench.plan import Plan
from coda_runtime.bench.results import Results
from coda_runtime.bench.run import Hooks, run_bench, steps
from coda_runtime.bench.summary import MAX_SAMPLES, summarise
from coda_runtime.errors import BackendError, InputError
from coda_runtime.format.bundle import Bundle, seal
from tests.runtime.bench.fakes import worker

FAST: dict[str, Any] = {"backends": ("onnxruntime",), "devices": ("cpu",), "threads": (1,), "repeat_process": 1}
FAST |= {"seconds": 0.02, "batches": (1, 2)}
SAMPLE = "'samples': [0.25] * 10, 'images_per_sample': 1, 'warmup_runs': 6, 'warm': True, 'peak_host_bytes': 5"
MEASURED = f"""
m = {{{SAMPLE}, 'peak_device_bytes': None, 'parts_s': None, 'server': None}}
def measured(n, **changes): say('measured', **dict(zip(('operation', 'scenario', 'batch'), case['measurements'][n])),
                                **{{**m, **changes}})
"""


class Watch:
    """A busy machine, or a quiet one."""

    def __init__(self, share: float | None) -> None:
        self._share = share

    def share(self) -> float | None:
        return self._share


def run(bundle: Path, plan: Plan, *, code: str = "", silence_s: float = 60, busy: Iterator[float] | None = None) -> Any:
    opened = Bundle.open(bundle)
    hooks = Hooks(
        watch=lambda: Watch(None if busy is None else next(busy)),
        sleep=lambda seconds: None,
        command=worker(MEASURED + code) if code else None,
    )
    return run_bench(opened, take_images(opened), plan, ["coda"], silence_s=silence_s, hooks=hooks).data


def test_operations_after_one_with_a_roofline(bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    work = {"encoder": 1e6, "quantizer": 1e5, "decoder": 1e6}
    seal(folder, dataclasses.replace(Bundle.open(folder).manifest, provenance={"flops": work}))
    (cell,) = run(folder, Plan(**{**FAST, "batches": (1,)}, operations=("encode", "decode", "round-trip")))["cells"]
    assert cell["problem"] is None
    assert [of["operation"] for of in cell["measurements"]] == ["encode", "decode", "round-trip"]
    assert all(of["roofline"]["flops"] > 0 for of in cell["measurements"])


def test_the_whole_matrix_in_processes_of_their_own(bundle: Path, tmp_path: Path) -> None:
    plan = Plan(
        **{**FAST, "precisions": ("auto", "fp16"), "devices": ("cpu", "cuda:7")},
        operations=("encode", "quantise", "decode", "round-trip"),
        scenarios=("single-stream", "offline"),
    )
    data = run(bundle, plan)
    assert steps(plan, Bundle.open(bundle)) == 4 * 16
    asked = [(cell["precision"], cell["device"]) for cell in data["cells"]]
    assert asked == [("fp32", "cpu"), ("fp32", "cuda:7"), ("fp16", "cpu"), ("fp16", "cuda:7")]
    ran, *others = data["cells"]
    assert all(cell["measurements"] == [] and cell["problem"] for cell in others)
    assert "fp16" in others[1]["problem"]
    assert [artifact["part"] for artifact in ran["artifacts"]] == ["encoder", "quantizer", "decoder"]
    assert ran["problem"] is None
    assert len(ran["measurements"]) == 16
    for of in ran["measurements"]:
        assert of["repeats"] >= 6
        assert (of["parts_s"] is not None) == (of["scenario"] == "single-stream")
        assert of["latency_s"]["ci95"][0] <= of["latency_s"]["p50"] <= of["latency_s"]["ci95"][1]
        assert of["busy_cpus"] > 0
        assert set(of["watts"]) == {"cpu", "gpu"}
        assert (of["timeline"] is not None) == (of["scenario"] == "single-stream")
        if of["scenario"] == "single-stream":
            spans = [span["name"] for span in of["timeline"]["spans"]]
            assert set(spans) == set(of["parts_s"]) - {"runtime"}
            assert of["throughput"] == pytest.approx(of["batch"] / of["latency_s"]["p50"])
    assert set(ran["measurements"][-4]["parts_s"]) == {"encoder", "quantizer", "decoder", "runtime"}
    assert data["images"] == take_images(Bundle.open(bundle)).facts()
    Results.check(data).save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json").data == data


@pytest.mark.slow
def test_without_detail_the_times_are_all(bundle: Path) -> None:
    (cell,) = run(bundle, Plan(**FAST, detailed=False))["cells"]
    for of in cell["measurements"]:
        assert of["latency_s"]["p50"] > 0
        assert [of[name] for name in ("parts_s", "transfers_s", "timeline", "roofline", "flops_share")] == [None] * 5


@pytest.mark.slow
def test_load_options_reach_the_processes(bundle: Path) -> None:
    plan = Plan(**FAST, operations=("decode",), options=LoadOptions(providers=["CPUExecutionProvider"]))
    (cell,) = run(bundle, plan)["cells"]
    assert len(cell["measurements"]) == 2
    plan = Plan(**FAST, operations=("decode",), options=LoadOptions(providers=["NoSuchExecutionProvider"]))
    with pytest.raises(BackendError, match="'cpu' and the first provider is NoSuchExecutionProvider"):
        run(bundle, plan)


@pytest.mark.slow
def test_a_server_is_searched_for_the_rate_that_it_holds(bundle: Path) -> None:
    plan = Plan(**FAST, operations=("encode",), scenarios=("server",), latency_bound_s=0.02)
    (cell,) = run(bundle, plan)["cells"]
    assert [of["batch"] for of in cell["measurements"]] == [1, 2]
    for of in cell["measurements"]:
        server = of["server"]
        assert server["latency_bound_s"] == 0.02
        assert {server["offered_rate"], server["max_rate"]} <= {*(point["rate"] for point in server["curve"]), None}
        if server["max_rate"] is not None:  # of a busy machine nothing is known
            assert of["processes"][0]["p99"] <= 0.02
            assert of["throughput"] == server["achieved_rate"] > 0


def test_rates_and_callers_that_are_given(bundle: Path) -> None:
    plan = Plan(
        **{**FAST, "batches": (2,)},
        operations=("decode",),
        scenarios=("offered", "concurrent"),
        rates=(40.0, 20.0),
        callers=(1, 3),
    )
    offered, concurrent = run(bundle, plan)["cells"][0]["measurements"]
    assert [point["rate"] for point in offered["server"]["curve"]] == [20.0, 40.0]
    assert offered["server"]["offered_rate"] == 20.0
    assert "concurrency" not in offered or offered["concurrency"] is None
    assert [point["callers"] for point in concurrent["concurrency"]["points"]] == [1, 3]
    assert concurrent["concurrency"]["knee"] in (1, 3)
    for wrong in ({"scenarios": ("offered",)}, {"rates": (0.0,)}, {"callers": (0,)}, {"callers": (1000,)}):
        with pytest.raises(InputError, match=r"expected|--rate 10,20,40"):
            Plan(**{**FAST, **wrong})


@pytest.mark.slow
def test_arrays_that_lie_on_the_device(bundle: Path) -> None:
    plan = Plan(**FAST, operations=tuple(ON_DEVICE), scenarios=("single-stream", "offline", "concurrent"), callers=(2,))
    data = run(bundle, plan)
    assert not any("could not be measured" in text for text in data["noise"]["warnings"])
    (cell,) = data["cells"]
    assert len(cell["measurements"]) == 12
    for of in cell["measurements"]:
        assert of["transfers_s"] is None, "it ran on the CPU"
        assert of["processes"][0]["transfers_s"] is None
    for scenario in ("server", "offered"):
        with pytest.raises(InputError, match=rf"in the scenario {scenario} images arrive .* or measure decode"):
            Plan(operations=("decode-device",), scenarios=(scenario,), rates=(1.0,), latency_bound_s=1.0)


def test_transfers_are_medians_of_those_of_the_processes(bundle: Path) -> None:
    times = [{"host_to_device": t, "compute": 2 * t, "device_to_host": 3 * t} for t in (0.5, 1.0, 9.0)]
    code = f"measured(0, transfers_s={times[0]}); say('done', throttled=0)"
    message: dict[str, Any] = {"operation": "encode", "scenario": "single-stream", "batch": 1, "samples": [1.0] * 6}
    message |= dict.fromkeys(("peak_host_bytes", "peak_device_bytes", "parts_s", "server"))
    message |= {"images_per_sample": 1, "warmup_runs": 1, "warm": True}
    found = summarise([{**message, "transfers_s": of} for of in times])
    assert found["transfers_s"] == times[1]
    assert [process["transfers_s"] for process in found["processes"]] == times
    (cell,) = run(bundle, Plan(**FAST), code=code)["cells"]
    assert cell["measurements"][0]["transfers_s"] == times[0]


def test_repeated_processes_are_one_cell_in_turn(bundle: Path) -> None:
    plan = Plan(**{**FAST, "threads": (1, 2), "repeat_process": 2}, operations=("decode",))
    data = run(
        bundle, plan, code="measured(0); measured(1, samples=[float(os.getpid())] * 6); say('done', throttled=None)"
    )
    assert [cell["threads"] for cell in data["cells"]] == [1, 2]
    for cell in data["cells"]:
        assert [of["repeats"] for of in cell["measurements"]] == [20, 12]
        assert [of["warmup_runs"] for of in cell["measurements"]] == [12, 12]
    pids = [list(dict.fromkeys(cell["measurements"][1]["latency_s"]["samples"])) for cell in data["cells"]]
    assert len({*pids[0], *pids[1]}) == 4


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("raise RuntimeError('it broke')", "RuntimeError: it broke (the process ended with exit code 1)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "when memory runs out"),
        ("time.sleep(600)", "no call ended within 2 s"),
        ("say('problem', problem='no such device')", "no such device"),
        (
            "say('skipped', operation='encode', scenario='x', batch=1, problem='too many'); say('done', throttled=0)",
            "too many",
        ),
    ],
)
def test_a_worker_that_fails_leaves_a_cell_with_a_problem(code: str, problem: str, bundle: Path) -> None:
    good = "measured(0); say('done', throttled=False)"
    both = f"if case['threads'] == 1:\n    {code}\nelse:\n    {good}"
    data = run(bundle, Plan(**{**FAST, "threads": (1, 2)}), code=both, silence_s=2)
    failed, fine = data["cells"]
    assert problem in failed["problem"]
    assert failed["measurements"] == []
    assert len(fine["measurements"]) == 1
    with pytest.raises(BackendError, match=r"could be measured; onnxruntime.* 1 thread: ") as caught:
        run(bundle, Plan(**FAST), code=both, silence_s=2)
    assert problem in str(caught.value)


def test_what_was_measured_before_a_failure_is_kept(bundle: Path) -> None:
    data = run(bundle, Plan(**FAST), code="measured(0); measured(1)\nraise MemoryError('full')")
    (cell,) = data["cells"]
    assert cell["problem"] is None
    assert len(cell["measurements"]) == 2
    (warning,) = data["noise"]["warnings"]
    assert "the rest could not be measured: MemoryError: full" in warning
    skipped = "say('skipped', operation='encode', scenario='offline', batch=8, problem='no room')"
    skip = f"measured(0); {skipped}; say('done', throttled=True)"
    data = run(bundle, Plan(**FAST), code=skip)
    assert data["cells"][0]["skipped"] == [
        {"operation": "encode", "scenario": "offline", "batch": 8, "problem": "no room"}
    ]
    noise = data["noise"]
    assert noise["throttled"] is True
    assert any(
        "encode, offline, batch 8 could not be measured: no room (onnxruntime" in text for text in noise["warnings"]
    )
    assert any("too hot" in text for text in noise["warnings"])


def test_a_busy_machine_is_reported(bundle: Path) -> None:
    code = "measured(0); say('done', throttled=None)"
    plan = Plan(**{**FAST, "threads": (1, 2)})
    noise = run(bundle, plan, code=code, busy=iter([0.05, 0.02, 0.37]))["noise"]
    assert (noise["load_before"], noise["load_during"]) == (0.05, 0.37)
    (warning,) = noise["warnings"]
    assert warning.startswith("the machine was busy: other processes used 37 % of the CPU during")
    assert run(bundle, plan, code=code, busy=iter([0.1, 0.1, 0.1]))["noise"]["warnings"] == []
    assert "before" in run(bundle, plan, code=code, busy=iter([0.11, 0, 0]))["noise"]["warnings"][0]


def test_a_process_that_was_disturbed_alone_is_no_busy_machine(bundle: Path) -> None:
    code = "measured(0); measured(1); say('done', throttled=None)"
    plan = Plan(**{**FAST, "repeat_process": 3})
    noise = run(bundle, plan, code=code, busy=iter([0.0, 0.02, 0.9, 0.03]))["noise"]
    assert (noise["load_during"], noise["warnings"]) == (0.03, [])


SPEED = """
from pathlib import Path
log = Path(case["images"]).with_name("log")
number = len(log.read_text()) if log.exists() else 0
log.write_text("x" * (number + 1))
"""


@pytest.mark.parametrize(
    ("processes", "slow", "made", "counted"),
    [
        (5, "number < 3", 8, 5),  # three more, until there are five
        (5, "number % 2", 9, 5),  # of every other one
        (5, "number > 0", 6, 5),  # of the others
        (4, "number == 0", 4, 3),  # nobody concludes from four
    ],
)
def test_processes_are_made_until_enough_ran_at_one_speed(
    processes: int, slow: str, made: int, counted: int, bundle: Path
) -> None:
    code = SPEED + f"took = 1.3 if {slow} else 1.0\nmeasured(0, reference_s=[took, took * 1.01], "
    code += "samples=[took / 4] * 10); measured(1); say('done', throttled=None)"
    data = run(bundle, Plan(**{**FAST, "repeat_process": processes}), code=code)
    of, other = data["cells"][0]["measurements"]
    assert (len(of["processes"]), of["repeats"]) == (made, 10 * counted)
    assert other["repeats"] == 10 * made
    assert len({tuple(process["reference_s"]) for process in of["processes"]}) == 2
    (warning,) = data["noise"]["warnings"]
    assert f"disturbed {made - counted} of {made} processes, which are left out" in warning


def test_no_more_than_as_many_again_are_made(bundle: Path) -> None:
    code = SPEED + "measured(0, reference_s=[1.1**number, 1.1**number]); say('done', throttled=None)"
    data = run(bundle, Plan(**{**FAST, "repeat_process": 5}), code=code)
    (of,) = data["cells"][0]["measurements"]
    assert (len(of["processes"]), of["repeats"]) == (10, 10)


def test_a_process_beside_other_work_is_repeated(bundle: Path) -> None:
    code = SPEED + "measured(0, others=0.06 if number == 2 else 0.02); say('done', throttled=None)"
    data = run(bundle, Plan(**{**FAST, "repeat_process": 5}), code=code)
    (of,) = data["cells"][0]["measurements"]
    assert [process["others"] for process in of["processes"]] == [0.02, 0.02, 0.06, 0.02, 0.02, 0.02]
    assert of["repeats"] == 50


def test_a_speed_that_never_holds_is_told(bundle: Path) -> None:
    code = "measured(0, reference_s=[1.0, 1.3]); say('done', throttled=None)"
    data = run(bundle, Plan(**{**FAST, "repeat_process": 5}), code=code)
    (of,) = data["cells"][0]["measurements"]
    assert (len(of["processes"]), of["repeats"]) == (10, 100)
    assert "they count all the same" in data["noise"]["warnings"][0]


def test_a_real_process_tells_the_speed_of_its_processor(bundle: Path) -> None:
    (of, _, *_) = run(bundle, Plan(**FAST))["cells"][0]["measurements"]
    (process,) = of["processes"]
    assert len(process["reference_s"]) == 2
    assert all(0 < seconds < 10 for seconds in process["reference_s"])
    assert 0 <= process["others"] <= 1


def test_what_was_not_warm_and_what_rests_on_little_is_reported(bundle: Path) -> None:
    server = {"latency_bound_s": 0.05, "max_rate": None, "offered_rate": 2.0, "achieved_rate": 1.5, "queue_p99_s": 1.0}
    code = f"measured(0, warm=False); measured(1, server={{**{server}, 'curve': []}}); say('done', throttled=None)"
    plan = Plan(**FAST, operations=("encode",), scenarios=("server",), latency_bound_s=0.05)
    with pytest.raises(InputError, match="server"):
        run(bundle, plan, code=code)  # a server scenario without its numbers is no result
    both = (
        f"s = {{**{server}, 'curve': []}}\nmeasured(0, server=s, warm=False)\n"
        "measured(1, server={**s, 'max_rate': 2.0}); say('done', throttled=None)"
    )
    data = run(bundle, plan, code=both)
    cold, none, few = data["noise"]["warnings"]
    assert cold.startswith("encode, server, batch 1 did not warm up")
    assert none.startswith("encode, server, batch 1: no rate that was tried keeps the 99th percentile under 50 ms")
    assert few.startswith("encode, server, batch 2: its 99th percentile rests on 10 requests")
    assert [of["throughput"] for of in data["cells"][0]["measurements"]] == [1.5, 1.5]
    assert collect_warnings([], None, None, None) == []


def test_many_samples_are_thinned_and_the_numbers_are_of_all(bundle: Path) -> None:
    samples = (1 + np.arange(9000) / 9000).tolist()
    message = {"operation": "encode", "scenario": "offline", "batch": 4, "samples": samples, "images_per_sample": 8}
    rest = dict.fromkeys(("peak_host_bytes", "peak_device_bytes", "parts_s", "server"))
    out = summarise([{**message, **rest, "warmup_runs": 1, "warm": True}])
    kept = out["latency_s"]["samples"]
    assert out["latency_s"]["samples_thinned"]
    assert len(kept) == MAX_SAMPLES
    assert (kept[0], kept[-1]) == (samples[0], samples[-1])
    assert kept == sorted(kept)
    assert out["repeats"] == 9000
    assert out["throughput"] == pytest.approx(8 / 1.5, rel=1e-3)
    json.dumps(out, allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"operations": ("encod",)},
            "operation is 'encod'; expected encode, encode-files, encode-device, quantise, decode, decode-device",
        ),
        ({"scenarios": ("multi",)}, "scenario is 'multi'"),
        ({"backends": ("torch",)}, "backend is 'torch'"),
        ({"devices": ("gpu",)}, "device is 'gpu'"),
        ({"threads": (0,)}, "threads is 0"),
        ({"batches": (4, 0)}, "batch is 0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"latency_bound_s": -1.0}, "latency bound is -1"),
        ({"scenarios": ("server",)}, "--latency-bound MS"),
    ],
)
def test_what_is_not_there_at_all_is_rejected_at_once(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError if "backends" not in changes else BackendError, match="(?s)" + message):
        Plan(**changes)

"""The quantizer's own GPU kernels: PTX that `coda export` compiled, loaded by cuda-core.

The GPU's driver compiles the PTX when it is loaded. No Triton and no CUDA toolkit is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import ArtifactError, CodaError, DeviceError, EngineMismatchError, InputError, MissingDependencyError
from ...format.bundle import Bundle
from ...format.engine_key import Capability
from ...format.manifest import Artifact
from ...io.counts import count
from ...requirements import onnx_on_the_cpu
from ..base import Backend, LoadOptions
from ..cuda.failures import failures
from ..cuda.opening import compute_capability, driver_version, missing, open_device
from . import Kernel, KernelSet, Launch, SearchTables, device_tables
from .kernel_set import SHARED_LIMIT, WARP
from .session import PtxSession

EXTRA = "cuda"
BLOCKS_PER_MULTIPROCESSOR = 4
_CUDA_OF_ISA = {"8.0": (12, 0), "8.6": (12, 7), "8.7": (12, 8)}
"""The first CUDA version whose driver knows a version of the PTX language: PTX ISA, release history."""


class PtxBackend(Backend):
    """Loads the quantizer's kernels."""

    name = "cuda"
    formats: tuple[str, ...] = ("ptx",)
    precisions: tuple[str, ...] | None = None

    def missing(self) -> MissingDependencyError | None:
        """Return None if cuda-core is installed."""
        return missing(EXTRA)

    def check(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> CodaError | None:
        """Return why the kernels may not load here, None where they may: cuda-core, the GPU, its driver."""
        found = self.missing()
        if found is not None:
            return found
        if options.providers is not None:
            return InputError(f"providers are onnxruntime's, and {artifact.file} is PTX; leave them out")
        if options.device == "cpu":
            return DeviceError(
                f'{artifact.file} runs on an NVIDIA GPU only, and device is "cpu"; on the CPU the ONNX files run'
                f"{onnx_on_the_cpu()}"
            )
        try:
            kernels = KernelSet.from_json(artifact.engine)
            index = options.cuda_index() or 0
            return mismatch(artifact.file, kernels, compute_capability(index), driver_version(index))
        except CodaError as error:
            return error

    def load(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> PtxSession:
        """Load the kernels, with the bundle's tables.

        Raises what `check` returns, ArtifactError, BackendError, DeviceMemoryError.
        """
        problem = self.check(bundle, artifact, options)
        if problem is not None:
            raise problem
        kernels = KernelSet.from_json(artifact.engine)
        tables, arrays = read_tables(bundle, artifact, kernels)
        modules = kernels.modules(bundle.read(artifact))
        layer = open_device(options.cuda_index() or 0)
        with layer.active():
            launcher = CudaLauncher(modules, layer.index)
        return PtxSession(kernels, bundle.spec, arrays, layer, launcher, eps=tables.eps)


def read_tables(bundle: Bundle, artifact: Artifact, kernels: KernelSet) -> tuple[SearchTables, dict[str, Any]]:
    """Return the bundle's search table, and all tables as the kernels read them.

    Raises ArtifactError for files that are missing from the manifest or do not fit, ChecksumError for missing files.
    """
    found = bundle.manifest.find("search", format="npz")
    if not found:
        raise ArtifactError(f"the bundle has no search table, which {artifact.file} needs; export the bundle again")
    tables = SearchTables.load(bundle.path(found[0]), bundle.spec, bundle.read(found[0]))
    return tables, device_tables(kernels, bundle.spec, tables, bundle.load_codebook())


def mismatch(file: str, kernels: KernelSet, capability: str, driver: tuple[int, ...]) -> EngineMismatchError | None:
    """Return why kernels do not run on a GPU of `capability`, such as "sm89", with a driver for CUDA `driver`."""
    have, hopper = Capability.parse(capability), Capability(9, 0)
    targets = [target for target in map(Capability.parse, kernels.targets) if target is not None]
    # Triton writes PTX from sm90 on with features of that one generation, which no other runs.
    if have is None or not any(target == have or (target < hopper and target <= have) for target in targets):
        return EngineMismatchError(
            f"{file} is for {', '.join(kernels.targets)}, and this GPU is {capability}; use the ONNX quantizer, "
            "or export the kernels for sm80, which run on all later GPUs"
        )
    needed = _CUDA_OF_ISA.get(kernels.ptx_isa)
    if needed is None or driver[:2] < needed:
        return EngineMismatchError(
            f"{file} is PTX {kernels.ptx_isa}, and the driver is for CUDA {'.'.join(map(str, driver))}; expected "
            f"{'another PTX version' if needed is None else f'CUDA {needed[0]}.{needed[1]} or newer'}: update the "
            "driver, or use the ONNX quantizer"
        )
    for kernel in kernels.kernels:
        if kernel.shared > SHARED_LIMIT:
            return EngineMismatchError(f"{file} wants {count(kernel.shared, 'byte')} of shared memory; export it again")
    return None


class CudaLauncher:
    """Kernels loaded into the current context."""

    def __init__(self, modules: Mapping[str, bytes], index: int) -> None:
        self._core: Any = importlib.import_module("cuda.core")
        with failures("loading the quantizer's kernels"):
            codes = {entry: self._core.ObjectCode.from_ptx(ptx, name=entry) for entry, ptx in modules.items()}
            self._kernels = {entry: code.get_kernel(entry) for entry, code in codes.items()}
            self._processors = int(self._core.Device(index).properties.multiprocessor_count)
            self.programs = BLOCKS_PER_MULTIPROCESSOR * self._processors

    def places(self, kernel: Kernel) -> int:
        """See ptx_session.Launcher."""
        with failures(f"asking how many blocks of {kernel.entry} run at once"):
            found = self._kernels[kernel.entry].occupancy
            return self._processors * int(
                found.max_active_blocks_per_multiprocessor(kernel.warps * WARP, kernel.shared)
            )

    def launch(self, launch: Launch, values: Sequence[int | float], stream: int) -> None:
        """See ptx_session.Launcher."""
        config = self._core.LaunchConfig(grid=launch.grid, block=launch.block, shmem_size=launch.kernel.shared)
        with failures(f"launching {launch.kernel.entry}"):
            queue = self._core.Stream.from_handle(stream)
            self._core.launch(queue, config, self._kernels[launch.kernel.entry], *typed(launch, values))


def typed(launch: Launch, values: Sequence[int | float]) -> list[Any]:
    """Return a kernel's parameters as cuda.core takes them: a plain int is a pointer, NumPy's scalars are numbers."""
    casts: dict[str, Any] = {"i32": np.int32, "fp32": np.float32}
    kinds = [kind for _, kind in launch.kernel.arguments]
    return [casts.get(kind, int)(value) for kind, value in zip(kinds, values, strict=True)] + [0] * launch.kernel.hidden

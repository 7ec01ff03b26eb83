"""The quantizer for GPUs: its tables, its compiled kernels, and the list of launches that a batch is.

The kernels are written in `coda_export.kernels`; nothing here imports a GPU library.
"""

from ...codes.search_tables import SearchTables
from .device_tables import device_tables
from .kernel_set import Kernel, KernelSet
from .plan import Buffer, Launch, Plan, make_plan

__all__ = ["Buffer", "Kernel", "KernelSet", "Launch", "Plan", "SearchTables", "device_tables", "make_plan"]

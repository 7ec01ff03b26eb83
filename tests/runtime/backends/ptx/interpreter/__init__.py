"""PTX in NumPy: the kernels that ship, run without a GPU, with every access to memory looked at.

`run_plan` runs a launch plan; `program` reads one kernel and launches it. `faults` has what they raise.
"""

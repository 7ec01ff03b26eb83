"""Python runs this at its start when the folder is on PYTHONPATH: tests/torchvision_schemas.py for child processes."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

spec = spec_from_file_location("torchvision_schemas", Path(__file__).parents[1] / "torchvision_schemas.py")
assert spec is not None
assert spec.loader is not None
module = module_from_spec(spec)
spec.loader.exec_module(module)
module.install()

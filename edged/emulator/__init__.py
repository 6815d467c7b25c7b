"""The loopback device: a process that behaves, over a UNIX socket, as the gateware does.

``python -m edged.emulator --socket PATH`` speaks vfio-user. `in_process` runs a program without
that process; the executor beneath both is here for tests and benchmarks, which compare it.
"""

from edged.emulator._encoding import WeightEncoding, WeightEncodings
from edged.emulator._executor import Executor
from edged.emulator._in_process import in_process
from edged.emulator._selftest import exact_weight_encodings

__all__ = ["Executor", "WeightEncoding", "WeightEncodings", "exact_weight_encodings", "in_process"]

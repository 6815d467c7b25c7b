"""The loopback device: a process that behaves, over a UNIX socket, as the gateware does.

``python -m edged.emulator --socket PATH`` speaks vfio-user; nothing else of it is for other rooms
but the executor, which tests and benchmarks compare with others.
"""

from edged.emulator._executor import Executor, WeightEncoding, WeightEncodings
from edged.emulator._selftest import exact_weight_encodings

__all__ = ["Executor", "WeightEncoding", "WeightEncodings", "exact_weight_encodings"]

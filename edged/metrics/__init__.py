"""What edged counts and times, for Prometheus, and whether it lives and serves, for whoever asks.

Names, labels and buckets are in one place, :class:`Metrics`; every set of label values is bounded.
"""

from edged.metrics._http import MetricsServer
from edged.metrics._metrics import Metrics

__all__ = ["Metrics", "MetricsServer"]

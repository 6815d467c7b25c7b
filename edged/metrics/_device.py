"""The device's health as metrics, taken from the last report when someone asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from edged.management import DeviceReport

__all__ = ["DeviceCollector"]

_LEVELS: Final = ("ok", "warn", "throttle", "stop")


class DeviceCollector(Collector):
    """Reads *report* at each collection."""

    def __init__(self, report: Callable[[], DeviceReport]) -> None:
        self._report = report

    def collect(self) -> Iterable[Metric]:
        report = self._report()
        present = GaugeMetricFamily("edged_device_present", "1 while the device is in use.")
        present.add_metric((), report.present)
        yield present
        resets = CounterMetricFamily(
            "edged_device_resets", "Steps of the reset ladder that were taken.", labels=("step",)
        )
        for step, count in report.resets.items():
            resets.add_metric((step,), count)
        yield resets
        readings = GaugeMetricFamily(
            "edged_device_reading", "What the device says of itself.", labels=("reading", "unit")
        )
        levels = GaugeMetricFamily(
            "edged_device_level",
            "What that means: 0 is well, 1 a warning, 2 slowed down, 3 stopped.",
            labels=("reading",),
        )
        # What was read last of a device that is gone is no longer true.
        for each in report.readings if report.present else ():
            readings.add_metric((each.name, each.unit), each.value)
            levels.add_metric((each.name,), _LEVELS.index(each.level))
        yield readings
        yield levels

"""The same appliance in a machine that has no IOMMU, after what :mod:`test_vm` left on its disk.

By itself it begins with a disk on which no model is yet, and takes some minutes more.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import pytest
from vm import image
from vm.bundles import LABELS
from vm.client import KWS, MOBILENET, Client, load
from vm.image import Debian
from vm.machine import Machine

pytestmark = pytest.mark.vm

ADDRESS = "0000:01:00.0"
SHOWN = f"/sys/bus/pci/devices/{ADDRESS}"
DROP = "/var/lib/edged/drop"
BUNDLE = f"{MOBILENET}-1.0.0.edgemodel"
PAGES = "/sys/kernel/mm/hugepages/hugepages-2048kB"


@pytest.fixture
def bare(appliance) -> Iterator:
    """It, switched on."""
    appliance.machine.shut_down()
    appliance.card.power_off()
    folder, kernel = appliance.machine.folder, image.debian()
    disk = Debian(folder / "edged.disk", kernel.kernel, kernel.initrd)
    shares = {"share": appliance.share}
    machine = Machine(folder, image.qemu(), disk, appliance.card.socket, shares=shares, iommu=False)
    client = Client(machine.port)
    made = dataclasses.replace(appliance, machine=machine, client=client)
    try:
        made.power_on()
        yield made
    finally:
        client.close()
        machine.cut_power()
        appliance.card.power_off()


def test_a_card_without_an_iommu(bare, report) -> None:
    machine = bare.machine

    def said(unit: str) -> str:
        return str(machine.ask("systemctl", "show", "--value", "-p", "StatusText", unit))

    def driver() -> str:
        return str(machine.ask("readlink", f"{SHOWN}/driver").rpartition("/")[2])

    began = time.monotonic()
    wanted = 'set device.iommu to "optional"'
    machine.eventually(lambda: wanted in said("edged-card"), "the card to be left alone", 600)
    assert driver() == ""
    report("no IOMMU", "device.iommu is required", said("edged-card"), time.monotonic() - began)

    began = time.monotonic()
    machine.write("/etc/edged/edged.toml.d/60-bare.toml", '[device]\niommu = "optional"\n')
    machine.run("sysctl", "-w", "vm.nr_hugepages=64")
    machine.run("systemctl", "restart", "edged-card")
    assert driver() == "uio_pci_generic"
    machine.eventually(
        lambda: machine.ask("systemctl", "is-active", "edged") == "active", "edged to be ready", 600
    )
    stored = machine.ask("edgectl", "models", "--json")
    if KWS not in stored and MOBILENET not in stored:
        machine.mount("share", "/mnt/share")
        machine.run("cp", f"/mnt/share/{BUNDLE}", DROP)
    model, _ = bare.serves(KWS, MOBILENET, patience=900)
    seen = f"{model} serves on {driver()}"
    if model == MOBILENET:
        best = int(bare.client.score().argmax())
        label = LABELS.read_text().splitlines()[best].partition(",")[0]
        assert label == "snow leopard"
        seen += f", {label}"
    assert "BusMaster+" in machine.ask("lspci", "-vvs", ADDRESS)
    report("no IOMMU", "device.iommu = optional", seen, time.monotonic() - began)

    began = time.monotonic()
    with load(machine.port, model) as calls:
        machine.eventually(lambda: calls.count("OK") > 5, "calls to be answered")
        machine.unplug()
        machine.eventually(lambda: calls.count("UNAVAILABLE") > 5, "calls to be refused")
        before = calls.count("OK")
        machine.plug()
        machine.eventually(lambda: calls.count("OK") > before + 5, "it to serve again", 300)
        before = calls.count("OK")
        machine.run("sh", "-c", f"echo 1 >{SHOWN}/reset")
        machine.eventually(lambda: calls.count("OK") > before + 10, "it to serve on", 300)
    bare.serves(model)
    assert not calls.unexpected
    report("no IOMMU", "unplug, replug, FLR under load", f"{calls}", time.monotonic() - began)

    began = time.monotonic()
    machine.run("systemctl", "stop", "edged", "edged-card")
    assert driver() == ""
    assert "BusMaster-" in machine.ask("lspci", "-vvs", ADDRESS)
    assert machine.ask("cat", f"{PAGES}/free_hugepages") == "64"
    report("no IOMMU", "stop", "unbound, its DMA off, all memory back", time.monotonic() - began)

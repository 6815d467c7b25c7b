"""What Prometheus and load balancers see of the whole appliance."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
from integration.appliance import DATA, Appliance, eventually
from prometheus_client.parser import text_string_to_metric_families

PHOTO = (DATA / "images" / "schoolbus.jpg").read_bytes()
ROOT = Path(__file__).parents[2]


def get(appliance: Appliance, path: str) -> tuple[int, str]:
    (port,) = re.findall(r"metrics at http://127\.0\.0\.1:(\d+)", appliance.log.read_text())[-1:]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def numbers(appliance: Appliance) -> dict[str, float]:
    """By name and labels, as Prometheus would have them."""
    code, text = get(appliance, "/metrics")
    assert code == 200
    return {
        sample.name + "".join(f" {k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_is_counted_is_what_happened(appliance: Appliance, kws: Path, mobilenet: Path) -> None:
    eventually(lambda: "metrics at" in appliance.log.read_text(), "the metrics' address")
    eventually(lambda: get(appliance, "/healthz") == (200, "ok\n"), "health")
    eventually(lambda: "copy a bundle" in get(appliance, "/readyz")[1], "the device to be found")
    assert get(appliance, "/readyz")[0] == 503

    appliance.put(kws)
    appliance.put(mobilenet)
    assert get(appliance, "/readyz") == (200, "ok\n")
    for _ in range(3):
        appliance.score_images(PHOTO)
    with pytest.raises(grpc.RpcError):
        appliance.score_images(b"no photograph")

    found = numbers(appliance)
    calls = "edged_calls_total code={} method=Predict model=mobilenet-v2"
    assert found[calls.format("OK")] == 3
    assert found[calls.format("INVALID_ARGUMENT")] == 1
    assert found["edged_call_seconds_count method=Predict"] == 4
    assert found["edged_call_stage_seconds_count stage=container"] == 4
    spent = found["edged_call_stage_seconds_sum stage=container"]
    assert 0 < spent <= found["edged_call_seconds_sum method=Predict"]
    assert found["edged_call_bytes_total direction=request"] > 3 * len(PHOTO)
    assert found["edged_slot_events_total event=swapped"] == 1
    assert found["edged_slot_events_total event=loaded"] == 1
    assert found["edged_gate_closed_seconds_count"] == 1
    assert found["edged_slot_state state=serving"] == 1
    assert found["edged_slot_state state=swapping"] == 0
    assert found["edged_calls_running"] == found["edged_calls_queued"] == 0
    assert found["edged_device_present"] == 1
    assert 20 < found["edged_device_reading reading=temperature unit=°C"] < 90
    assert found["edged_device_level reading=temperature"] == 0
    assert found["edged_device_resets_total step=soft reset"] == 0
    (loaded,) = (name for name in found if name.startswith("edged_model_loaded"))
    assert "model=mobilenet-v2 version=1.0.0" in loaded

    appliance.kill(appliance.emulator)
    eventually(lambda: get(appliance, "/readyz")[0] == 503, "the loss")
    assert "the device is gone" in get(appliance, "/readyz")[1]
    found = numbers(appliance)
    assert found["edged_slot_events_total event=device lost"] == 1
    assert found["edged_device_present"] == 0
    assert not [name for name in found if name.startswith("edged_model_loaded")]


promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)


@promtool
def test_promtool_finds_nothing_to_complain_of(appliance: Appliance, kws: Path) -> None:
    appliance.put(kws)
    _, text = get(appliance, "/metrics")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@promtool
def test_the_alert_rules_do_what_they_say() -> None:
    folder = ROOT / "packaging" / "prometheus"
    for words in (("check", "rules", "edged.rules.yml"), ("test", "rules", "edged.test.yml")):
        done = subprocess.run(
            ["promtool", *words], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_dashboard_ask_only_for_what_there_is(appliance: Appliance) -> None:
    eventually(lambda: "metrics at" in appliance.log.read_text(), "the metrics' address")
    there = {
        line.split()[2] for line in get(appliance, "/metrics")[1].splitlines() if "# TYPE" in line
    }
    page = (ROOT / "docs" / "monitoring.md").read_text()
    ours = {name for name in there if name.startswith("edged_") and not name.endswith("_created")}
    assert {name for name in ours if f"`{name}" not in page} == set()
    for file in (ROOT / "packaging" / "prometheus").iterdir():
        if file.name == "edged.test.yml":
            continue
        asked = set(re.findall(r"\b(edged_\w+)", file.read_text()))
        assert asked, file
        for name in asked:
            base = re.sub(r"_(total|bucket|sum|count|info)$", "", name)
            assert {name, base} & there, f"{file.name} asks for {name}"

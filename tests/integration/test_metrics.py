"""What Prometheus and load balancers see of the whole appliance."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from integration.appliance import DATA, Appliance, eventually
from patience import PATIENCE
from prometheus_client.parser import text_string_to_metric_families

from edged import wire

PHOTO = (DATA / "images" / "schoolbus.jpg").read_bytes()
ROOT = Path(__file__).parents[2]
PACKAGED = ROOT / "packaging" / "prometheus"

Ask = Callable[..., Any]


def port_of(appliance: Appliance) -> str:
    found = re.findall(r"metrics at http://127\.0\.0\.1:(\d+)", appliance.log.read_text())
    return found[-1] if found else ""


def get(appliance: Appliance, path: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{port_of(appliance)}{path}"
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
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
    stages = "edged_call_stage_seconds_{} stage={}"
    assert found[stages.format("count", "queue")] == 4
    # What a call took that failed in the container is not known by stage.
    assert found[stages.format("count", "container")] == 1
    inside = ("channel", "decode", "device", "epilogue", "encode")
    for stage in inside:
        assert found[stages.format("count", stage)] == 3
        assert found[stages.format("sum", stage)] > 0
    spent = sum(found[stages.format("sum", stage)] for stage in ("queue", "container", *inside))
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


def test_a_call_is_known_by_its_id(appliance: Appliance, kws: Path) -> None:
    appliance.put(kws)
    call = appliance.channel.unary_unary(f"/{wire.PREDICT}")
    ours = (("x-request-id", "order-66"), ("traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01"))
    with pytest.raises(grpc.RpcError) as refused:
        call(b"", metadata=ours)
    assert ("x-request-id", "order-66") in refused.value.trailing_metadata()
    with pytest.raises(grpc.RpcError) as refused:
        call(b"", metadata=(("x-request-id", "blanks, which no log wants"),))
    made = dict(refused.value.trailing_metadata())["x-request-id"]
    assert len(made) == 16

    def lines() -> list[str]:
        return [line for line in appliance.log.read_text().splitlines() if "request_id=" in line]

    # The log is written after the caller has its answer.
    eventually(lambda: len(lines()) >= 2, "two calls in the log")
    first, second = lines()
    assert "client=unix " in first
    assert 'model="kws 1.0.0" code=INVALID_ARGUMENT request_bytes=0' in first
    assert f"request_id=order-66 trace_id={'ab' * 16}" in first
    assert f"request_id={made}" in second

    with pytest.raises(grpc.RpcError) as refused:
        call(b"", metadata=(("edged-timing", "1"),))
    assert "server-timing" not in dict(refused.value.trailing_metadata())
    answer, called = appliance.channel.unary_unary(f"/{wire.GET_MODEL_METADATA}").with_call(
        wire.GetModelMetadataRequest(metadata_field=["signature_def"]).SerializeToString(),
        metadata=(("edged-timing", "1"),),
    )
    assert answer
    timing = dict(called.trailing_metadata())["server-timing"]
    stages = dict(re.findall(r"(\w+);dur=([0-9.]+)(?:, |$)", timing))
    assert list(stages) == ["receive", "queue", "decode", "device", "epilogue", "encode", "channel"]
    assert 0 < float(stages["channel"]) < 30_000


@contextlib.contextmanager
def calling(appliance: Appliance) -> Iterator[None]:
    """While this is entered, calls are answered and refused by turns: none of them is long ago."""
    over = threading.Event()
    refused = appliance.channel.unary_unary(f"/{wire.PREDICT}")
    answered = appliance.channel.unary_unary(f"/{wire.GET_MODEL_METADATA}")
    question = wire.GetModelMetadataRequest(metadata_field=["signature_def"]).SerializeToString()

    def work() -> None:
        while not over.wait(0.02):
            answered(question)
            with pytest.raises(grpc.RpcError):
                refused(b"")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_top_shows_who_calls_now(appliance: Appliance, kws: Path) -> None:
    appliance.put(kws)
    with calling(appliance):
        load = json.loads(appliance.edgectl("top", "--json").stdout)
        shown = appliance.edgectl("top", "--once")
    (client,) = load["clients"]
    assert client["name"] == "unix"
    assert client["per_second"] == load["calls"]["per_second"] > client["failed_per_second"] > 0
    assert {"running", "queued"} <= load.keys()
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"^serving +kws 1\.0\.0$", shown.stdout, re.MULTILINE)
    assert re.search(r"^ unix +\d+\.\d", shown.stdout, re.MULTILINE)


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
    for words in (("check", "rules", "edged.rules.yml"), ("test", "rules", "edged.test.yml")):
        done = subprocess.run(
            ["promtool", *words], cwd=PACKAGED, capture_output=True, text=True, check=False
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
    for file in PACKAGED.iterdir():
        if file.name == "edged.test.yml":
            continue
        asked = set(re.findall(r"\b(edged_\w+)", file.read_text()))
        assert asked, file
        for name in asked:
            base = re.sub(r"_(total|bucket|sum|count|info)$", "", name)
            assert {name, base} & there, f"{file.name} asks for {name}"


@pytest.fixture
def prometheus(appliance: Appliance, tmp_path: Path) -> Iterator[Ask]:
    """Scrapes it each second; asked by its API."""
    eventually(lambda: bool(port_of(appliance)), "the metrics' address")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: [{PACKAGED / 'edged.rules.yml'}]\n"
        "scrape_configs:\n  - job_name: edged\n    static_configs:\n"
        f"      - targets: ['127.0.0.1:{port_of(appliance)}']\n"
    )
    server = subprocess.Popen(
        [
            *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/tsdb"),
            *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def ask(path: str, **words: str) -> Any:
        query = urllib.parse.urlencode(words)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}?{query}") as answer:
            return json.load(answer)["data"]

    def is_up() -> bool:
        try:
            return bool(ask("query", query='up{job="edged"} == 1')["result"])
        except OSError:
            return False

    try:
        eventually(is_up, "Prometheus to have scraped")
        yield ask
    finally:
        server.kill()
        server.wait()


@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed (Debian: prometheus)"
)
def test_it_scrapes_alerts_and_draws(appliance: Appliance, prometheus: Ask) -> None:
    def rules() -> list[dict[str, Any]]:
        return [rule for group in prometheus("rules")["groups"] for rule in group["rules"]]

    eventually(lambda: all(rule["health"] == "ok" for rule in rules()), f"the rules: {rules()}")
    # Nothing is loaded: what an operator is to hear of is on its way.
    eventually(
        lambda: (
            "EdgedNotServing" in {a["labels"]["alertname"] for a in prometheus("alerts")["alerts"]}
        ),
        "the alert that nothing serves",
    )
    appliance.kill(appliance.emulator)
    eventually(
        lambda: (
            "EdgedDeviceLost" in {a["labels"]["alertname"] for a in prometheus("alerts")["alerts"]}
        ),
        "the alert that the device is gone",
    )

    (target,) = prometheus("targets")["activeTargets"]
    board = json.loads((PACKAGED / "edged.dashboard.json").read_text())
    for panel in board["panels"]:
        for wanted in panel["targets"]:
            query = wanted["expr"].replace("$instance", target["labels"]["instance"])
            query = query.replace("$__rate_interval", "1m")
            assert "$" not in query
            # Refused with status 400 if it cannot be understood.
            assert prometheus("query", query=query)["resultType"] == "vector", panel["title"]

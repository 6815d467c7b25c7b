"""The pages of docs/: their links lead somewhere, nothing is left out, examples can be typed."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli import command_lines
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from edged.cli import _app
from edged.preprocess import ImageInput, Preprocess

PROJECT = Path(__file__).parent.parent
DOCS = PROJECT / "docs"
PAGES = sorted([PROJECT / "README.md", *DOCS.rglob("*.md")])
RULES = PROJECT / "packaging" / "prometheus" / "edged.rules.yml"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page: Path) -> None:
    # Without what is code.
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    local = {t.partition("#")[0] for t in targets if not re.match(r"[a-z]+:|#", t)}
    assert {target for target in local if not (page.parent / target).exists()} == set()


def test_each_page_is_found_by_who_follows_links() -> None:
    todo, seen = [DOCS / "README.md", PROJECT / "README.md"], set[Path]()
    while todo:
        page = todo.pop()
        if page not in seen and page.exists():
            seen.add(page)
            links = re.findall(r"\]\(([^)\s#:]+\.md)", page.read_text())
            todo += [(page.parent / link).resolve() for link in links]
    assert sorted(page.name for page in set(DOCS.glob("*.md")) - seen) == []


def test_each_alert_says_what_to_do_and_is_explained() -> None:
    rules = re.split(r"- alert: ", RULES.read_text())[1:]
    page = (DOCS / "monitoring.md").read_text()
    assert rules
    for rule in rules:
        assert "action:" in rule, rule
        assert f"`{rule.split()[0]}`" in page, f"docs/monitoring.md is silent on {rule.split()[0]}"


@dataclass(frozen=True)
class Line:
    """A command line on a page, and whether it could be typed so."""

    page: str
    text: str
    whole: bool

    def __str__(self) -> str:
        return f"{self.page}: {self.text[:60]}"


def shown(text: str) -> Iterator[str]:
    """The lines of code blocks that somebody types: behind a prompt where there are prompts."""
    for kind, block in re.findall(r"```(\w*)\n(.*?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            typed = re.fullmatch(r"[$#] (.*)", line) if kind == "console" else None
            if typed or kind in ("", "sh"):
                yield typed[1] if typed else line


def lines(program: str) -> list[Line]:
    """Every command line of *program* on a page, and in what the program says itself."""
    found = []
    for page in [*PAGES, *(PROJECT / "edged").rglob("*.py"), *(PROJECT / "systemd").iterdir()]:
        text, name = page.read_text(), str(page.relative_to(PROJECT))
        if page.suffix == ".md":
            for line in shown(text):
                # Remarks stand in a column of their own, or behind a "#".
                typed = re.split(r"(?<=\S)\s{3,}(?=[a-z])|\s+#\s", line.strip())[0]
                if re.match(rf"{program} ", typed):
                    found.append(Line(name, " ".join(typed.split()), "…" not in typed))
            text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        quoted = re.findall(rf"`({program} [^`\n{{}}\"]*)`", text)
        found += [Line(name, line, False) for line in quoted]
    return sorted(set(found), key=str)


@pytest.mark.parametrize("line", lines("edgectl"), ids=str)
def test_edgectl_takes_each_command_line(line: Line) -> None:
    command_lines.parse(line.text, whole=line.whole)


@pytest.mark.parametrize(
    ("program", "module"),
    [
        ("edged", "edged.__main__"),
        ("edged-emulator", "edged.emulator.__main__"),
        ("edged-card", "edged.card_app"),
    ],
)
def test_the_daemons_have_each_option(
    program: str, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module(module).main(["--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    for line in lines(program):
        assert set(re.findall(r"(?<!\S)--[a-z-]+", line.text)) <= known, line


FLOAT = ImageInput("x", "float32", (1, None, None, 3))


def transforms() -> list[str]:
    """Each value of --preprocess on a page, without those that stand for others."""
    found: set[str] = set()
    for page in PAGES:
        found |= set(re.findall(r"--preprocess ([^\s`'\")]+)", page.read_text()))
    return sorted(text for text in found if not re.search(r"[\[…A-Z]", text))


@pytest.mark.parametrize("text", transforms())
def test_each_transform_is_understood(text: str) -> None:
    size = "" if "=" in text.split(",")[0] or text.startswith(("imagenet", "ssd")) else "=224x224"
    name, comma, options = text.partition(",")
    assert Preprocess.parse(f"{name}{size}{comma}{options}", [FLOAT])


def test_nothing_is_said_to_be_had_from_an_index_that_has_no_edged() -> None:
    for page in [*PAGES, *(PROJECT / "edged").rglob("*.py")]:
        assert not re.search(r"pip install '?edged", page.read_text()), page


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the examples name: a model, its labels, and photographs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.1, (5, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["images:0", "weights"], ["maps"], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["maps"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Softmax", ["flat"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images:0", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for name in ("model.onnx", "mobilenet.onnx"):
        onnx.save(model, tmp_path / name)
    (tmp_path / "labels.txt").write_text("".join(f"class {index}\n" for index in range(5)))
    photographs = PROJECT / "tests" / "data" / "images"
    (tmp_path / "photographs").symlink_to(photographs)
    (tmp_path / "photo.jpg").symlink_to(photographs / "dog.jpg")
    return tmp_path


def run(line: str) -> str:
    done = CliRunner().invoke(_app.app, shlex.split(line)[1:])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise AssertionError(f"{line}: {done.exception}") from done.exception
    assert done.exit_code == 0, f"{line}: {done.output}"
    return str(done.output)


def test_a_bundle_is_packed_and_read_as_readme_and_manual_say(desk: Path) -> None:
    readme = [
        text
        for text in shown((PROJECT / "README.md").read_text())
        if text.startswith("edgectl pack ")
    ]
    manual = list(shown((DOCS / "README.md").read_text()))
    for line in readme:
        run(line)
        assert (desk / line.split()[-1]).exists()
    done = []
    for line in manual:
        # Where the manual goes on to what runs.
        if re.match(r"edgectl (pack|inspect|verify) ", line):
            run(line)
            done.append(line.split()[1])
    assert readme and {"pack", "inspect", "verify"} <= set(done)


def test_the_networks_are_listed(desk: Path) -> None:
    assert "resnet-50" in run("edgectl zoo")


def test_a_configuration_is_checked_by_its_name_or_as_an_option(desk: Path) -> None:
    (desk / "edged.toml").write_text("[serving]\nqueue_limit = 'many'\n")
    for line in ("edgectl config check edged.toml", "edgectl config check --config edged.toml"):
        done = CliRunner().invoke(_app.app, shlex.split(line)[1:])
        assert "edged.toml" in str(done.exception), done.output
    (desk / "edged.toml").write_text("")
    for line in ("edgectl config check edged.toml", "edgectl config check --config edged.toml"):
        assert "edged.toml changes nothing" in run(line)


def test_the_python_of_the_preprocessing_page_runs(desk: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "preprocessing.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        values: dict[str, object] = {}
        exec(block, values)
        assert getattr(values["tensor"], "shape", None) == (1, 224, 224, 3)

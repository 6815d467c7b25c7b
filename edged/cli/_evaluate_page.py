"""The page that ``edgectl evaluate --html`` writes: one file, which loads nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from edged.cli import _evaluate_words as words
from edged.cli._draw import draw_box
from edged.errors import EdgedError, InputError
from edged.evaluation import Boxes, Comparison, Examples, Mask, Result

__all__ = ["write_page"]

_SIDE: Final = 240
_SMALLEST_SIDE: Final = 96
_QUALITY: Final = 80
_MOST_SHOWN: Final = 200
_FEWEST_SHOWN: Final = 12
_BEST_SHOWN: Final = 3
_MOST_CLASSES: Final = 24
_BOTH: Final = (150, 220, 150)
_FLOAT: Final = (120, 180, 255)
_DEVICE: Final = (255, 170, 60)

_STYLE: Final = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
td.hit { background: color-mix(in srgb, #4a4 25%, transparent); }
td.miss { background: color-mix(in srgb, #d60 25%, transparent); }
dt { font-weight: bold; } dd { margin: 0 0 .3rem 1rem; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }
figure { margin: .5rem; } figure img { display: block; max-width: 100%; }
figure img { margin-bottom: .3rem; }
.legend span { color: black; padding: 0 .5rem; }
figcaption { font-size: .9rem; overflow-wrap: anywhere; }
"""


def write_page(
    target: Path,
    title: str,
    about: Mapping[str, str],
    result: Result,
    examples: Examples,
    labels: Sequence[str],
) -> None:
    """Write the page; a file that exists is replaced.

    Raises:
        InputError: it cannot be written.
    """
    sections = [
        _definitions(about),
        _table(("", "float", "device"), words.accuracies(result)),
        _definitions(words.agreements(result)),
        _table(words.OUTPUT_TITLES, words.output_rows(result)),
        *_confusion(result, labels),
        *_examples(result, examples, labels),
    ]
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        # Nothing in the page loads or runs anything, whatever a file or a label is called.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}: float and device</title>\n<style>{_STYLE}</style></head>\n"
        f"<body>\n<h1>{escape(title)}: float and device</h1>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )
    try:
        target.write_text(page, "utf-8")
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror}") from error


def _definitions(found: Mapping[str, str]) -> str:
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(text)}</dd>" for key, text in found.items())
    return f"<dl>{rows}</dl>"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    body = "".join(
        "<tr>"
        + f'<th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _confusion(result: Result, labels: Sequence[str]) -> list[str]:
    """The device's matrix where it is small, and else the pairs that changed most."""
    if not (result.classifies and result.labelled):
        return []
    counts = result.accuracy()[1].confusion
    classes = sorted({index for pair in counts for index in pair})
    if len(classes) > _MOST_CLASSES:
        pairs = words.confusions(result, labels)
        titles = ("label", "taken for", "float", "device")
        return ["<h2>Confusions</h2>", _table(titles, pairs)]
    names = [words.class_name(index, labels) for index in classes]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(_cell(counts[label, answer], label == answer) for answer in classes)
        + "</tr>"
        for label, name in zip(classes, names, strict=True)
    )
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return ["<h2>Confusion of the device</h2>", "<p>A row a label, a column an answer.</p>", table]


def _cell(count: int, right: bool) -> str:
    kind = "" if not count else " hit" if right else " miss"
    return f'<td class="n{kind}">{count or ""}</td>'


def _examples(result: Result, examples: Examples, labels: Sequence[str]) -> list[str]:
    """Those that differ, and where these are few, others that are far apart."""
    differing = result.differing
    chosen = list(differing[:_MOST_SHOWN])
    rest = [each for each in result.farthest() if not each.differs]
    others = rest[: max(0, _FEWEST_SHOWN - len(chosen))]
    places = {entry.name: index for index, entry in enumerate(examples.entries)}
    found = []
    if result.detects or any(each.masks for each in others):
        found.append(_legend())
    for heading, group in (
        (f"Answered differently: {len(differing)}", chosen),
        ("Answered alike, the farthest apart first" if chosen else "The farthest apart", others),
    ):
        if group:
            figures = [_figure(each, examples, places[each.name], labels) for each in group]
            found += [f"<h2>{heading}</h2>", f'<div class="examples">{"".join(figures)}</div>']
    if len(differing) > len(chosen):
        found.append(f"<p>{len(differing) - len(chosen)} more differ; --json has all of them.</p>")
    return found


def _legend() -> str:
    names = ((_BOTH, "both"), (_FLOAT, "float alone"), (_DEVICE, "the device alone"))
    shown = (f'<span style="background: rgb{colour}">{name}</span>' for colour, name in names)
    return f'<p class="legend">{" ".join(shown)}</p>'


def _figure(each: Comparison, examples: Examples, index: int, labels: Sequence[str]) -> str:
    lines = [f"<b>{escape(each.name)}</b>"]
    if each.label is not None:
        lines.append(f"label: {escape(words.class_name(each.label, labels))}")
    if each.classes is not None:
        for whose, answer in zip(("float", "device"), each.classes, strict=True):
            best = zip(answer.best[:_BEST_SHOWN], answer.values, strict=False)
            named = (f"{words.class_name(number, labels)} {value:.3f}" for number, value in best)
            lines.append(f"{whose}: {escape(', '.join(named))}")
    elif each.boxes is not None:
        for whose, boxes in zip(("float", "device"), words.answers(each, labels), strict=True):
            lines.append(f"{whose} alone: {escape(boxes)}")
    lines.append(f"error: {words.number(each.distance)}")
    pictures = [_picture(examples, index, each.boxes, labels), *map(_drawn, each.masks.values())]
    return f"<figure>{''.join(pictures)}<figcaption>{'<br>'.join(lines)}</figcaption></figure>"


def _picture(examples: Examples, index: int, boxes: Boxes | None, labels: Sequence[str]) -> str:
    try:
        picture = examples.picture(index)
    except EdgedError:  # It was there a moment ago; the page can do without.
        return ""
    if picture is None:
        return ""
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    if boxes is not None:
        groups = (
            ([pair.device for pair in boxes.pairs], _BOTH),
            (boxes.only_floats, _FLOAT),
            (boxes.only_device, _DEVICE),
        )
        for group, colour in groups:
            for box in group:
                name = words.class_name(box.index, labels)
                draw_box(picture, box, f"{name} {box.score:.2f}", colour)
    return _embedded(picture)


def _drawn(mask: Mask) -> str:
    colours = np.array([(0, 0, 0), _FLOAT, _DEVICE, _BOTH], np.uint8)
    return _embedded(Image.fromarray(colours[mask.places]))


def _embedded(picture: Image.Image) -> str:
    times = max(1, _SMALLEST_SIDE // max(picture.size))
    picture = picture.resize([times * side for side in picture.size], Image.Resampling.NEAREST)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    data = base64.b64encode(file.getvalue()).decode()
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<img alt="" {size} loading="lazy" src="data:image/jpeg;base64,{data}">'

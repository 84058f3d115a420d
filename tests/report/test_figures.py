"""Pictures open, have a sensible size and do not warn, from two classes to a hundred and fifty."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.report import figures, glyphs
from finetune.report.plane import plane


def opened(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    return image


@pytest.mark.parametrize("k", [2, 10, 43, 150])
def test_confusion(k: int) -> None:
    matrix = np.random.default_rng(0).integers(0, 9, (k, k)) + 50 * np.eye(k, dtype=int)
    image = opened(figures.confusion(matrix, [f"class {i}" for i in range(k)]))
    assert 300 < image.width <= 2000
    assert len(image.convert("L").getcolors(256) or []) > 20


def test_confusion_with_a_class_nobody_has() -> None:
    opened(figures.confusion(np.array([[3, 1], [0, 0]]), ["a", "b"]))


def test_stages() -> None:
    opened(figures.stages(["stem", "1", "2"], [-0.02, 0.4, 0.6], [0.01, 0.02, 0.02], {"all together": 0.65}))


def test_long_class_names_stand_upright() -> None:
    """Side by side two names of twenty letters would run into each other."""
    matrix = np.array([[3, 1], [0, 4]])
    short = opened(figures.confusion(matrix, ["ant", "bee"]))
    long = opened(figures.confusion(matrix, ["Hemlock of the mountains", "Japanese flowering cherry"]))
    assert long.height > short.height + 50, "the names have squeezed the matrix"


@pytest.fixture
def dogs(tmp_path: Path) -> Iterator[str]:
    """A family that is installed for the test: a filled square for each letter of a name in Chinese."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen
    from matplotlib import font_manager

    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    square = pen.glyph()
    letters = "柴犬"
    builder = FontBuilder(1000)
    names = [".notdef", *(f"u{ord(c):x}" for c in letters)]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): f"u{ord(c):x}" for c in letters})
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Two Dogs", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "dogs.ttf")
    before = list(font_manager.fontManager.ttflist)
    font_manager.fontManager.addfont(tmp_path / "dogs.ttf")
    glyphs._found.cache_clear()
    yield "Two Dogs"
    font_manager.fontManager.ttflist[:] = before
    glyphs._found.cache_clear()


UNKNOWN = "\U00016fe5"  # a letter that no font is likely to have


def test_names_are_written_by_another_font_that_has_their_letters(dogs: str) -> None:
    matrix = np.array([[3, 1], [0, 4]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = figures.confusion(matrix, ["cat", "柴犬"])
    assert glyphs.written(["cat", "柴犬"]) == ["cat", "柴犬"]
    assert glyphs.note(["cat", "柴犬"]) is None
    assert written != figures.confusion(matrix, ["cat", "2"])


def test_a_name_that_no_font_can_write_is_a_number() -> None:
    names = ["cat", UNKNOWN, "naïve\u200d"]
    matrix = np.eye(3, dtype=int)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png = figures.confusion(matrix, names)
        plane(UNKNOWN, 30, 0.4, 3)
    assert glyphs.written(names) == ["cat", "2", "naïve"]
    assert "order of result.json" in (glyphs.note(names) or "")
    assert opened(png).height > opened(figures.confusion(matrix, ["cat", "2", "naïve"])).height - 5


def test_lines_at_the_same_height_are_both_named() -> None:
    one = opened(figures.stages(["stem", "1"], [1.0, 1.0], None, {"neighbours": 1.0}))
    two = opened(figures.stages(["stem", "1"], [1.0, 1.0], None, {"neighbours": 1.0, "joined": 1.0}))
    strip = (0, int(two.height * 0.9), two.width, two.height)  # the legend's line
    ink = [int((np.asarray(i.convert("L").crop(strip)) < 128).sum()) for i in (one, two)]
    assert ink[1] > 1.3 * ink[0]


def test_a_damaged_decision_costs_one_picture_only(tmp_path: Path) -> None:
    from finetune.evaluation.metrics import score
    from finetune.report.run_figures import draw_figures

    scores = score(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]), ("a", "b"))
    (tmp_path / "decision.json").write_text("{")
    assert draw_figures(tmp_path, scores, ("stem", "body")) == ["confusion.png"]


def test_the_axis_of_a_range_test_ends_with_its_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the divergence a loss of 168.8 would make all else a flat line."""
    from matplotlib.figure import Figure

    from finetune.report import rates
    from finetune.training.lr_find import Found

    drawn: list[Figure] = []
    monkeypatch.setattr(rates, "as_png", lambda figure: drawn.append(figure) or b"")
    curve = tuple(
        {"lr": 10.0**-k, "head_lr": 1.0, "loss": 0.2, "smoothed": 0.2 - k / 99} for k in range(7, 1, -1)
    )
    curve += ({"lr": 0.1, "head_lr": 1.0, "loss": 168.8, "smoothed": 0.3},)
    rates.range_test(Found(1e-3, 1e-3, "falls", (0.1, 0.1), None, curve))
    (axes,) = drawn[0].axes
    assert axes.get_ylim()[1] < 0.4
    points = [tuple(map(len, line.get_data())) for line in axes.lines[:3]]
    assert points == [(6, 6), (1, 1), (7, 7)]  # steps, those higher up, the curve


def colours(image: Image.Image) -> np.ndarray:
    """(H, W) whether a pixel is the orange of this data set's mark."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    return np.abs(pixels - [0xC0, 0x56, 0x21]).sum(axis=2) < 12


def test_plane_marks_the_data_set_where_it_falls() -> None:
    places = {}
    for similarity, amount in ((0.1, 5), (0.9, 5), (0.1, 3000), (0.9, 3000)):
        image = opened(plane("mine", amount, similarity, 10))
        rows, columns = np.nonzero(colours(image))
        places[similarity, amount] = (columns.mean() / image.width, rows.mean() / image.height)
    for amount in (5, 3000):
        assert places[0.1, amount][0] < 0.35 < 0.65 < places[0.9, amount][0]
    for similarity in (0.1, 0.9):
        assert places[similarity, 3000][1] < 0.4 < 0.6 < places[similarity, 5][1]


@pytest.mark.parametrize(("amount", "similarity", "k"), [(1, 0.0, 2), (100_000, 1.0, 1000), (7.5, 0.575, 3)])
def test_plane_at_its_ends_and_among_known_data_sets(amount: float, similarity: float, k: int) -> None:
    known = [("a known one", 0.9, 0.02), ("another", 5000.0, 0.97)]
    alone = opened(plane("a name that is far too long for any figure to show", amount, similarity, k))
    among = opened(plane("mine", amount, similarity, k, known))
    assert colours(alone).sum() > 50
    assert alone.size == among.size


def test_the_plane_is_drawn_where_similarity_was_measured(tmp_path: Path) -> None:
    from finetune.evaluation.metrics import score
    from finetune.report.run_figures import draw_figures

    scores = score(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]), ("a", "b"))
    (tmp_path / "decision.json").write_text('{"similarity": 0.4, "evidence": {"median": 30.0}}')
    assert draw_figures(tmp_path, scores, ("stem", "body")) == ["confusion.png", "plane.png"]
    alone = (tmp_path / "plane.png").read_bytes()
    draw_figures(tmp_path, scores, ("stem", "body"), backbone="embedded")
    assert (tmp_path / "plane.png").read_bytes() != alone  # among the data sets of the benchmark
    small = '{"similarity": 0.4, "evidence": {"median": 30.0, "scale": 0.75}}'
    (tmp_path / "decision.json").write_text(small)
    draw_figures(tmp_path, scores, ("stem", "body"), backbone="embedded")
    assert (tmp_path / "plane.png").read_bytes() == alone, "known at the network's own size only"
    (tmp_path / "decision.json").write_text('{"similarity": null, "evidence": {}}')
    assert draw_figures(tmp_path, scores, ("stem", "body")) == ["confusion.png"]


@pytest.mark.parametrize("k", [2, 10, 43])
def test_no_line_and_no_other_name_crosses_a_name_on_the_plane(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """traffic signs lie on the border between little and enough data of ten classes."""
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation, Text

    from finetune.report import plane as module

    kept: list[list[Annotation]] = []
    place = module.place
    monkeypatch.setattr(module, "place", lambda *a, **k: kept.append(place(*a, **k)))
    plane("ants", 104, 0.64, k, module.BENCHMARK["embedded"])
    boxes = [Text.get_window_extent(text) for text in kept[0]]
    assert len(boxes) == 8
    axes = kept[0][0].axes
    assert isinstance(axes, Axes)
    lines = [line.get_window_extent() for line in axes.lines if len(line.get_xdata()) == 2]
    assert len(lines) == 2
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(line) for line in lines)
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert box.x0 >= axes.get_window_extent().x0
        assert box.x1 <= axes.get_window_extent().x1

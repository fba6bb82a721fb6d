"""The report is one file, says the right things first, survives what is missing and trusts no name."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image
from visualize_fakes import ListSource, metric_rows, write_rows

from openjepa.errors import RunError
from openjepa.visualize import ReportOptions, curves, write_report

SMALL = ReportOptions(maps=3, masks=2, queries=2, neighbours=3, searched=20, attention=1)
LOOKS = 3  # attention pictures of one image: itself, the only block, the rollout
SECTIONS = ("headline", "scores", "curves", "maps", "attention", "neighbours", "masks", "run", "bad", "next")
HOSTILE = "<script>alert('x')</script>&\".jpg"


class _Page(HTMLParser):
    """Tags, ids, resource addresses and visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.resources: list[str] = []
        self.words: list[str] = []
        self._silent = False
        self.feed(text)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._silent = tag == "style"
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "srcset", "href", "xlink:href", "data", "action", "poster"):
                self.resources.append(value or "")
            assert not name.startswith("on"), "no event handlers"

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.append(data)


@pytest.fixture
def plain_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are tested in test_curves; drawing eleven of them takes longer than the rest of a page."""
    monkeypatch.setattr(curves, "panel_svg", lambda panel, **size: f'<svg><text x="0">{panel.key}</text></svg>')


def _page(run: Path, **options: object) -> _Page:
    return _Page(write_report(run, options=SMALL, **options).read_text(encoding="utf-8"))


def test_a_whole_run(run: Path) -> None:
    path = write_report(run, options=SMALL)
    assert path == run / "report.html"
    text = path.read_text(encoding="utf-8")
    page = _Page(text)
    assert set(SECTIONS) <= set(page.ids)
    assert 'class="missing"' not in text
    assert "Healthy" in page.text
    assert "It learned" in page.text
    assert page.text.index("It learned") < page.text.index("Curves"), "the answer stands first"
    for words in (
        "45.0 %", "39.0 %", "28.0 %", "Position alone explains", "Changed from the recipe ijepa-tiny", "model.dim",
        "cpu: no GPU was found", "None: the run lists no file", "openjepa.load", "--resume", "by chance it would be",
    ):  # fmt: skip
        assert words in page.text, words
    assert page.tags.count("img") == 2 * 3 + 3 * 4 + 2 * 4 + LOOKS
    assert page.tags.count("svg") >= 10


def test_nothing_is_loaded_from_outside(run: Path) -> None:
    text = write_report(run, options=SMALL).read_text(encoding="utf-8")
    page = _Page(text)
    assert page.resources
    assert all(r.startswith(("data:image/", "#")) for r in page.resources)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    without_pictures = re.sub(r"data:image/[^\"]+", "", text)
    assert not re.search(r"https?:|//[a-z]+\.|@import|src=[\"']?(?!\")[^d#]", without_pictures)
    for link in (r for r in page.resources if r.startswith("#")):
        assert link[1:] in page.ids, link


@pytest.mark.usefixtures("plain_charts")
def test_hostile_names_are_text(run: Path) -> None:
    (run / "bad_files.json").write_text(json.dumps({HOSTILE: "not <b>an</b> image"}))
    (run / "train.log").write_text("<img src=x onerror=alert(1)>\n")
    (run / "environment.json").write_text(json.dumps({"plan": {"<i>": "</pre><script>"}, "sessions": []}))
    images = [torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8) for _ in range(12)]
    source = ListSource(images, [k % 2 for k in range(12)], ["<script>", 'a"b'])
    source.item_id = lambda index: f"{index}{HOSTILE}"  # type: ignore[method-assign]
    renamed = run.with_name("<script>run")
    run.rename(renamed)
    text = write_report(renamed, options=SMALL, train=source, held_out=source).read_text(encoding="utf-8")
    page = _Page(text)
    assert "script" not in page.tags
    assert "onerror" not in "".join(re.findall(r"<[^>]*>", re.sub(r'"[^"]*"', "", text)))
    assert HOSTILE in page.text
    assert page.tags.count("img") == 2 * 3 + 3 * 4 + 2 * 4 + LOOKS


@pytest.mark.usefixtures("plain_charts")
@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ("metrics.jsonl", "no metrics here"),
        ("scores.json", "No scores were written"),
        ("model", "The run has saved no weights yet"),
        ("environment.json", "How to continue"),
        ("train.log", "How to continue"),
        ("bad_files.json", "None: the run lists no file"),
        ("config.yaml", "config could not be read"),
    ],
)
def test_each_part_may_be_missing_and_is_said(run: Path, gone: str, sentence: str) -> None:
    path = run / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = _page(run)
    assert set(SECTIONS) <= set(page.ids)
    assert sentence in page.text


@pytest.mark.usefixtures("plain_charts")
@pytest.mark.parametrize("name", ["metrics.jsonl", "scores.json", "environment.json", "bad_files.json", "config.yaml"])
def test_each_part_may_be_damaged(run: Path, name: str) -> None:
    (run / name).write_bytes(b'\xff{"half')
    assert set(SECTIONS) <= set(_page(run).ids)


@pytest.mark.usefixtures("plain_charts")
def test_a_damaged_model_costs_only_its_pictures(run: Path) -> None:
    weights = run / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    page = _page(run)
    assert "Healthy" in page.text
    assert page.tags.count("img") == 6  # the masks


@pytest.mark.usefixtures("plain_charts")
def test_data_that_moved_is_named_and_can_be_given(run: Path, tmp_path: Path) -> None:
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("source: scenes", "source: /nowhere/photos"))
    assert "/nowhere" in _page(run).text
    folder = tmp_path / "my photos ü"
    for k in range(12):
        (folder / f"class {k % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + k, 33), (20 * k, 90, 30)).save(folder / f"class {k % 2}" / f"<{k}>.png")
    page = _page(run, data=str(folder))
    assert (
        page.tags.count("img") == 2 * 3 + 2 * 4 + 2 * 4 + LOOKS
    )  # a tenth of 12, at least one of each class: two held out
    assert "class 1" in page.text


@pytest.mark.usefixtures("plain_charts")
def test_images_without_labels_are_left_to_the_eye(run: Path) -> None:
    images = [torch.randint(0, 256, (3, 40, 30), dtype=torch.uint8) for _ in range(9)]
    (run / "scores.json").unlink()
    page = _page(run, train=ListSource(images), held_out=ListSource(images, broken=(0, 4)))
    assert "There are no labels, so judge by eye" in page.text
    assert "It predicts" in page.text


@pytest.mark.usefixtures("plain_charts")
def test_a_sick_unfinished_run_says_so_first(run: Path) -> None:
    write_rows(
        run / "metrics.jsonl", metric_rows(last=200, verdict="collapse: effective rank 1.1 of 32; try a larger batch")
    )
    page = _page(run)
    assert "Collapse" in page.text
    assert "Try a larger batch." in page.text
    assert "200 steps of 400" in page.text
    assert "This run is not finished" in page.text
    assert "Healthy" not in page.text


@pytest.mark.usefixtures("plain_charts")
def test_decisions_of_the_log_are_shown_without_its_steps(run: Path) -> None:
    lines = [
        "2026-11-20 22:33:16 run x: recipe y",
        "2026-11-20 22:33:16 precision: bf16 (AMX)",
        "2026-11-20 22:33:17 step 0/9 · loss: 3",
    ]
    (run / "train.log").write_text("\n".join(lines))
    text = write_report(run, options=SMALL).read_text(encoding="utf-8")
    decided = text[
        text.index("Decided when it started") : text.index("</table>", text.index("Decided when it started"))
    ]
    assert '<td class="key-cell">precision</td><td>bf16 (AMX)</td>' in decided
    assert "loss" not in decided


@pytest.mark.usefixtures("plain_charts")
def test_a_slow_encoder_draws_fewer_pictures(run: Path) -> None:
    options = ReportOptions(maps=20, masks=1, queries=1, neighbours=2, searched=50, seconds=0, attention=0)
    page = _Page(write_report(run, options=options).read_text(encoding="utf-8"))
    assert page.tags.count("img") == 3 + 6 * 4 + 3
    assert "out of 32;" in page.text, "one batch is always searched"
    assert "no images were asked for" in page.text


@pytest.mark.usefixtures("plain_charts")
def test_where_held_out_images_come_from_is_said(run: Path) -> None:
    images = [torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8) for _ in range(6)]
    source = ListSource(images)
    assert "set apart from list" in _page(run, train=source, held_out=source).text
    assert "a tenth, as agreed" in _page(run, train=source, held_out=source, origin="a tenth, as agreed").text
    assert "scenes drawn with other seeds" in _page(run).text


@pytest.mark.usefixtures("plain_charts")
def test_an_empty_run_and_no_run_at_all(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "model")
    for name in ("scores.json", "environment.json", "train.log", "bad_files.json"):
        (run / name).unlink()
    (run / "metrics.jsonl").write_text("")
    page = _page(run)
    assert "No step has been recorded yet" in page.text
    assert page.text.count("Not measured") >= 2
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(RunError):
            write_report(path)


@pytest.mark.usefixtures("plain_charts")
def test_pages_are_repeatable_and_replaced_whole(run: Path) -> None:
    def body(path: Path) -> str:
        return re.sub(r"<footer>.*</footer>", "", path.read_text(encoding="utf-8"))

    first = body(write_report(run, options=SMALL))
    assert body(write_report(run, options=SMALL, out=run / "deep" / "page.html")) == first
    assert [p.name for p in (run / "deep").iterdir()] == ["page.html"]


@pytest.mark.usefixtures("plain_charts")
def test_a_video_run_moves(video_run: Path) -> None:
    text = write_report(video_run, options=SMALL).read_text(encoding="utf-8")
    page = _Page(text)
    assert {*SECTIONS, "surprise"} <= set(page.ids)
    assert set(re.findall(r'class="missing">([^<]*)', text)) <= {
        "No scores were written. They need labels: a folder with one subfolder per class, or openjepa evaluate on a labelled folder."
    }
    moving = [r for r in page.resources if r.startswith("data:image/gif")]
    looks = 1 + 2 + 1 + 2  # one clip: itself, two blocks, the rollout, what is visible, the predictor
    assert len(moving) == 2 * 3 + 3 * 4 + 2 + looks  # masks of two pairs, maps, surprise, attention
    assert page.tags.count("img") == len(moving) + 2 + 1 + 2 * 4, "filmstrips, a scale, neighbours by middle frames"
    assert len(text) < 5e6
    for words in (
        "What surprises it",
        "held-out clips",
        "short range: 8 × 0.15",
        "openjepa visualize surprise",
        "clip.mp4",
    ):
        assert words in page.text, words


@pytest.mark.usefixtures("plain_charts")
def test_a_video_run_without_its_predictor_keeps_the_rest(video_run: Path) -> None:
    for name in ("predictor.safetensors", "MANIFEST.json", "manifest.json"):
        (video_run / "model" / name).unlink(missing_ok=True)
    page = _page(video_run)
    assert "has no predictor network" in page.text
    assert "What it sees" in page.text

import dataclasses
import html.parser
import importlib.util
import json
import pathlib
import sys

import pytest
from markupsafe import Markup

from bert_tfx.components.report import page
from bert_tfx.components.report.content import RunFacts, read_content
from bert_tfx.components.report.page import comparison_page, report_documents, report_page

_PATH = pathlib.Path(__file__).with_name("made_up_run.py")
_SPEC = importlib.util.spec_from_file_location("made_up_run", _PATH)
made_up_run = importlib.util.module_from_spec(_SPEC)
sys.modules["made_up_run"] = made_up_run
_SPEC.loader.exec_module(made_up_run)
CONFIG, MadeUpRun = made_up_run.CONFIG, made_up_run.MadeUpRun

MAX_BYTES = 6_000_000
VOID = frozenset(("meta", "br", "path", "circle", "link", "img", "input"))
# Their texts stand apart.
CELLS = frozenset(("td", "th", "dt", "dd", "small", "a", "span"))
# What a page loads by itself, and where it may lead to.
ADDRESSES = frozenset(("src", "href", "action", "data", "poster", "srcset", "xlink:href"))
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "a' onmouseover='alert(3)' \"b\" & &lt;",
)


class Parsed(html.parser.HTMLParser):
    """A page's elements, held against each other."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.shown = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()
        if tag in CELLS:
            self.shown += " "

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.shown += data

    def ids(self) -> set[str]:
        return {attrs["id"] for _, attrs in self.elements if "id" in attrs}

    def links(self) -> list[str]:
        return [attrs["href"] for tag, attrs in self.elements if tag == "a"]

    def words(self) -> str:
        return " ".join(self.shown.split())


def check_safe(parsed: Parsed) -> None:
    """Checks that a page asks nothing of the network and runs nothing that is not ours."""
    for tag, attrs in parsed.elements:
        assert tag not in ("img", "link", "iframe", "object", "embed", "form", "base"), tag
        for name, value in attrs.items():
            assert not name.startswith("on"), f"{tag} {name}"
            if name in ADDRESSES:
                assert name == "href" and tag == "a", f"{tag} {name}={value}"
                assert "//" not in value and ":" not in value, value
    policy = next(
        attrs["content"]
        for tag, attrs in parsed.elements
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    # Figures, plotly and ours; no others.
    assert len(parsed.scripts) in (1, 3)


@pytest.fixture
def stub_plotly(monkeypatch):
    """A small stand-in for plotly's 5 MB."""
    monkeypatch.setattr(page, "_plotly", lambda: Markup("const stub = 1;"))


@pytest.fixture
def run(tmp_path, stub_plotly):
    """Makes up a run; returns its content and its page."""

    def run(*, report_text: bool = False, facts=None, keep=None, **options):
        sources = MadeUpRun(tmp_path / f"run-{len(list(tmp_path.iterdir()))}", **options).write()
        sources = {key: found for key, found in sources.items() if not keep or key in keep}
        content = read_content(sources, config=CONFIG, report_text=report_text, facts=facts)
        return content, Parsed(report_page(content, str(tmp_path / "report")))

    return run


def node(name: str, state: str = "complete", seconds: float = 1.0) -> dict:
    return {"name": name, "state": state, "cached": state == "cached", "seconds": seconds} | {
        "execution_id": 1,
        "fingerprint": f"{name}-code",
    }


def facts(**options) -> RunFacts:
    nodes = [node("TsvExampleGen", "cached", 0.0), node("Trainer", seconds=90.0)]
    return RunFacts(
        **{"id": "2026-01-01", "pipeline": "p", "begun": "2026-01-01T10:00:00+00:00"}
        | {"seconds": 100.0, "nodes": nodes}
        | options
    )


def test_first_screen_of_a_pushed_model(run):
    _, parsed = run(baseline_wrong=range(4), facts=facts(), rejected=7)
    words = parsed.words()
    for text in (
        "Pushed as version 17",
        "bert-tfx rollback --serving /out/serving",
        "Accuracy on 200 eval rows 0.9850 95% interval 0.9650 to 1.0000",
        "needed 0.8000 baseline 0.9800",
        "Rows 1,200 train 1,000, eval 200; 7 left out",
        "Duration 1 min 40 s 2 components, 1 from the cache",
        "7 of 1,007 train rows did not fit and were left out.",
    ):
        assert text in words
    check_safe(parsed)


def test_figures_on_the_page_are_those_of_the_decision(run):
    content, parsed = run(wrong=range(0, 40, 2), baseline_wrong=range(0, 60, 2))
    words = parsed.words()
    for found in content["decision"]["candidate"]["overall"].values():
        assert f"{found['value']:.4f}" in words
        assert f"{found['low']:.4f} to {found['high']:.4f}" in words
    for found in content["decision"]["slices"]:
        assert f"{found['candidate']['value']:.4f}" in words
    confusion = content["decision"]["candidate"]["confusion"]
    assert confusion == [[80, 20], [0, 100]]
    assert "label 0 80 80.0% 20 20.0% label 1 0 0.0% 100 100.0%" in words
    counts = content["decision"]["comparison"]["counts"]
    assert f"Only this model is right {counts['only_candidate']} rows" in words


def test_contents_lead_to_sections_that_are_there(run):
    for options in ({}, {"keep": ("examples", "data_report")}):
        _, parsed = run(**options)
        anchors = [link[1:] for link in parsed.links() if link.startswith("#")]
        assert anchors[0] == "verdict"
        assert set(anchors) <= parsed.ids()


def test_every_figure_that_is_shown_has_its_data(run):
    _, parsed = run()
    shown = {attrs["data-figure"] for _, attrs in parsed.elements if "data-figure" in attrs}
    assert shown == set(json.loads(parsed.scripts[0]))
    assert len(shown) == 7


def test_no_figures_no_plotly(run):
    _, parsed = run(keep=("examples", "data_report"))
    assert len(parsed.scripts) == 1
    check_safe(parsed)


def test_what_users_wrote_is_text(run):
    text = "<img src=x onerror=alert(4)></script><script>alert(5)</script> {i}"
    _, parsed = run(
        labels=HOSTILE,
        text=text,
        report_text=True,
        leaked=0.1,
        baseline_wrong=(1,),
        facts=facts(error="<b>bold</b> mistake"),
    )
    check_safe(parsed)
    assert "<b>bold</b> mistake" in parsed.shown
    assert text.format(i=120) in parsed.shown
    for label in HOSTILE:
        assert label in parsed.shown
    # In a script element nothing is escaped: no end of one may stand there.
    figures = json.loads(parsed.scripts[0])
    names = [trace.get("name") for trace in figures["roc"]["data"]]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in names


def test_what_users_named_is_no_link_to_elsewhere(tmp_path, run):
    content, _ = run()
    content["files"] = [
        {"name": "a", "about": "b", "path": "gs://bucket/file"},
        {"name": "a", "about": "b", "path": "javascript:alert(1)"},
        {"name": "a", "about": "b", "path": f"{tmp_path}/report/javascript:alert(2)"},
    ]
    parsed = Parsed(report_page(content, str(tmp_path / "report")))
    check_safe(parsed)
    assert "gs://bucket/file" in parsed.shown
    assert "javascript%3Aalert%282%29" in parsed.links()


def test_texts_of_rows_are_shown_only_where_they_may(run):
    _, parsed = run(leaked=0.1)
    assert "secret text" not in parsed.shown + "".join(parsed.scripts)
    assert "--report-text shows it" in parsed.words()
    assert "dev.tsv:122" in parsed.words()
    _, parsed = run(leaked=0.1, report_text=True)
    assert "secret text of row 120" in parsed.words()
    assert "dev.tsv:122 · label 0, answered 1 with 0.8500" in parsed.words()


def test_a_model_that_is_not_good_enough(run):
    _, parsed = run(wrong=range(90), facts=facts())
    words = parsed.words()
    assert "Not pushed: the model is not good enough" in words
    assert "does not reach the 0.8000 needed" in words
    assert "Where the limit asks too much of this task, move it: --min-accuracy." in words
    assert "Pushed version none served as before" in words


def test_a_model_that_fails_in_the_server(run):
    _, parsed = run(passed=False)
    words = parsed.words()
    assert "Not pushed: the server does not answer as it should" in words
    assert "serve_text, a blank: it did not answer" in words


def test_a_run_that_was_stopped(run):
    stopped = facts(
        error="DataGate stopped the run before training:\n  - 120 rows leak",
        stopped_at="DataGate",
        nodes=[node("TsvExampleGen"), node("DataGate", "failed")],
    )
    content, parsed = run(keep=("examples", "anomalies"), facts=stopped)
    words = parsed.words()
    assert content["verdict"]["kind"] == "stopped"
    assert "Stopped at DataGate DataGate stopped the run before training: - 120 rows leak" in words
    assert "DataGate failed 1.0 s" in words
    assert "Nothing was pushed" in words
    check_safe(parsed)


def test_a_run_without_a_baseline(run):
    _, parsed = run()
    assert "no baseline yet" in parsed.words()
    assert "Against the baseline" not in parsed.words()


def test_times_are_shown_once_they_are_known(run):
    _, parsed = run(facts=facts())
    assert "Trainer done 90.0 s" in parsed.words()
    assert "TsvExampleGen cached 0.0 s" in parsed.words()
    assert "Trainer-code" in parsed.words()
    _, parsed = run()
    assert "components" not in parsed.ids()


def test_lineage_names_the_checkpoint_and_its_files(run):
    checkpoint = {"path": "/checkpoints/a", "fingerprint": "12ab"}
    files = [{"name": "model.safetensors", "sha256": "cd" * 32, "bytes": 440_000_000}]
    _, parsed = run(facts=facts(checkpoint=checkpoint | {"files": files}))
    assert f"model.safetensors 440.0 MB, SHA-256 {'cd' * 32}" in parsed.words()
    _, parsed = run(facts=facts(checkpoint=checkpoint | {"files": []}))
    assert "12ab (the files are no longer there, or no longer the same)" in parsed.words()


def test_padding(run):
    _, parsed = run(padding=0.125)
    assert "Wasted on padding 12.5% of the token places that were computed; it would be 75.0%" in (
        parsed.words()
    )


def test_a_training_that_has_diverged(tmp_path, stub_plotly):
    sources = MadeUpRun(tmp_path / "run").write()
    path = tmp_path / "run/Trainer/model_run/history.json"
    history = json.loads(path.read_text())
    progress = history["seeds"]["1"]
    progress["step_losses"][300:] = [float("nan")] * 300
    progress["history"][1] |= {"loss": float("nan"), "eval_loss": float("inf")}
    progress["best_value"] = history["mean"] = float("nan")
    path.write_text(json.dumps(history))
    content = read_content(sources, config=CONFIG, report_text=False)
    documents = report_documents(content, str(tmp_path))
    parsed = Parsed(documents["index.html"])
    loss = json.loads(parsed.scripts[0])["loss"]["data"]
    assert loss[0]["y"][-1] is None
    assert loss[1]["y"] == [0.5, None]
    assert "2 kept – 0.9000 – 0.9500" in parsed.words()


def test_many_labels_have_no_matrix(run):
    labels = [f"label-{i:03}" for i in range(100)]
    content, parsed = run(labels=labels, rows=400, wrong=(5, 105, 205, 7), baseline_wrong=(1,))
    assert "Confusion matrix" not in parsed.words()
    assert "Most frequent mistakes" in parsed.words()
    assert "label-005 label-006 3 75.0% label-007 label-008 1 25.0%" in parsed.words()
    assert len(report_page(content, "/out").encode()) < 500_000
    _, parsed = run(labels=labels, rows=400, wrong=())
    assert "Most frequent mistakes" not in parsed.words()


def test_page_is_whole_and_not_too_large(tmp_path):
    sources = MadeUpRun(tmp_path / "run", baseline_wrong=(1,)).write()
    content = read_content(sources, config=CONFIG, report_text=True)
    text = report_page(content, str(tmp_path / "report"))
    assert len(text.encode()) < MAX_BYTES
    parsed = Parsed(text)
    check_safe(parsed)
    assert "Plotly" in parsed.scripts[1]


STEPS = (made_up_run.STUDENT, made_up_run.COMPRESSED, made_up_run.TOO_MUCH, made_up_run.BROKEN)


def test_smaller_models_are_shown_with_what_they_cost(run):
    checkpoint = {"path": "/checkpoints/teacher", "fingerprint": "12ab", "files": []}
    _, parsed = run(steps=STEPS, facts=facts(teacher_checkpoint=checkpoint))
    check_safe(parsed)
    words = parsed.words()
    for text in (
        "bert from 3 layers of its teacher, made smaller after training",
        "Made smaller 31.2 MB instead of 94.1, 1.96 times as fast with 1 row a request",
        "The run's model is “prune vocab”: 31.2 MB instead of 94.1",
        "shows what the teacher brought: +0.0100 of accuracy",
        "teacher 0.99000.9750 to 1.0000 94.1 MB22,713,986 15.9 ms1.00 times63 rows/s",
        "student, not taughtfor comparison 0.9700",
        "studentaccepted 0.98000.9600 to 0.9950 −0.0100−0.0250 to +0.00000 won, 2 lost",
        "heads 0.5, ffn 0.5refused",
        "store float16refused –– 24.1 MB",
        "student Accepted: student has accuracy 0.9800 against teacher's 0.9900",
        "asked for: student layers 3, temperature 2, alpha 0.5",
        "allowed: 0.02 less accuracy at most",
        "store float16 Refused: Store float16 cannot be used: the server did not load it.",
        "language: zh heads 0.5, ffn 0.5refused 100",
        "The step store float16 was left out. Store float16 cannot be used: the server did not",
        "Of the student. Its training loss holds the distance from its teacher, too.",
        "Checkpoint 3 layers of its teacher Taught by",
        ": bert from /checkpoints/teacher Its fingerprint 12ab",
        "Made smaller by prune vocab (prune vocab, min count 1, characters ascii)",
    ):
        assert text in words
    assert "#variants" in parsed.links()


def test_a_student_that_was_refused_is_the_run_s_model_all_the_same(run):
    student = made_up_run.Step("student", wrong=range(90))
    _, parsed = run(steps=(student,))
    words = parsed.words()
    assert "The student was refused, so the run's model cannot be promoted." in words
    assert "The run's model is “student”" in words
    assert "The step student was left out" not in words


def test_where_every_step_was_refused_the_model_is_as_it_was_trained(run):
    _, parsed = run(steps=(made_up_run.TOO_MUCH,))
    words = parsed.words()
    assert "No step was accepted: the run's model is what was trained." in words
    assert "Made smaller" not in words
    assert "new weights, size tiny" in words


def test_names_of_steps_are_text(run):
    step = dataclasses.replace(made_up_run.COMPRESSED, name=HOSTILE[1])
    content, parsed = run(steps=(step,))
    check_safe(parsed)
    assert HOSTILE[1] in parsed.shown
    check_safe(Parsed(comparison_page(content, content, "/out", names=("a", "b"))))


def test_comparison_shows_the_smaller_models_of_both(tmp_path, run):
    first, _ = run(steps=STEPS)
    second, _ = run()
    parsed = Parsed(comparison_page(first, second, str(tmp_path), names=("a", "b")))
    check_safe(parsed)
    assert "#variants" in parsed.links()
    assert "prune vocab accepted 0.97500.9500 to 0.9950 31.2 MB" in parsed.words()
    parsed = Parsed(comparison_page(second, second, str(tmp_path), names=("a", "b")))
    assert "variants" not in parsed.ids()


def test_comparison_sets_figures_side_by_side(tmp_path, run):
    first, _ = run(wrong=range(4), labels=("0", "1"))
    second, _ = run(wrong=range(10), rejected=3)
    second["config"] = {**CONFIG, "recipe": {**CONFIG["recipe"], "epochs": 3}}
    text = comparison_page(first, second, str(tmp_path), names=("one", "<two>"))
    parsed = Parsed(text)
    check_safe(parsed)
    words = parsed.words()
    for expected in (
        "A: Pushed as version 17",
        "B: Pushed as version 17",
        "Accuracy 0.9800",
        "0.9500",
        "−0.0300",
        "recipe.epochs 2 3",
        "<two>",
        "Both were measured on the very same eval rows.",
        "train 1,000 1,000 0 3 the very same",
    ):
        assert expected in words


def test_comparison_with_a_run_that_was_stopped(tmp_path, run):
    first, _ = run()
    stopped = facts(error="no rows", stopped_at="TsvExampleGen", nodes=[])
    second = read_content({}, config={}, report_text=False, facts=stopped)
    parsed = Parsed(comparison_page(first, second, str(tmp_path), names=("a", "b")))
    check_safe(parsed)
    assert "B: Stopped at TsvExampleGen" in parsed.words()
    parsed = Parsed(comparison_page(second, second, str(tmp_path), names=("a", "b")))
    check_safe(parsed)

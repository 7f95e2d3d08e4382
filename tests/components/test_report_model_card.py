import importlib.util
import pathlib
import sys

import pytest

from bert_tfx.components.report.content import read_content
from bert_tfx.components.report.model_card import card_markdown

_PATH = pathlib.Path(__file__).with_name("made_up_run.py")
_SPEC = importlib.util.spec_from_file_location("made_up_run", _PATH)
made_up_run = importlib.util.module_from_spec(_SPEC)
sys.modules["made_up_run"] = made_up_run
_SPEC.loader.exec_module(made_up_run)
CONFIG, MadeUpRun = made_up_run.CONFIG, made_up_run.MadeUpRun


@pytest.fixture
def card(tmp_path):
    def card(**options) -> str:
        sources = MadeUpRun(tmp_path / "run", **options).write()
        return card_markdown(read_content(sources, config=CONFIG, report_text=True))

    return card


def test_card_has_its_parts_in_order(card):
    heads = [line for line in card().splitlines() if line.startswith("#")]
    assert heads == [
        "# Model card: sst2",
        "## Model",
        "## Intended use",
        "## Data",
        "## Metrics",
        "## Limits",
    ]


def test_card_has_the_figures_of_the_run(card):
    text = card(wrong=range(20), baseline_wrong=range(20, 30), leaked=0.1, rejected=2)
    assert "| train | 1,000 | 500 (50.0%) | 500 (50.0%) | 2 |" in text
    assert "| Accuracy | 0.9000 |" in text
    assert "| 0.9500 |" in text
    assert "language = zh: accuracy 0.8000" in text
    assert "20 of 200 eval rows stand in train" in text
    assert "Weakest slice: language = zh, accuracy 0.8000 on 100 rows." in text
    assert "with new weights of size tiny" in text


def test_card_names_what_was_pushed(card):
    assert f"Version: 17, SHA-256 {'ab' * 32}." in card()


def test_card_says_whom_a_model_learned_from_and_what_made_it_smaller(card):
    steps = (made_up_run.STUDENT, made_up_run.COMPRESSED, made_up_run.TOO_MUCH)
    text = card(steps=steps)
    assert "Architecture: bert, a student of 3 layers of its teacher." in text
    assert (
        "it learned from a teacher, a bert from /checkpoints/teacher, trained in the same run "
        "(temperature 2, alpha 0.5)."
    ) in text
    assert "Against its teacher: accuracy 0.9800 instead of 0.9900 (-0.0100, 95% interval" in text
    assert (
        "Made smaller after training (prune vocab): accuracy 0.9750 instead of 0.9800 (-0.0050, "
    ) in text
    assert "Tried and left out: heads 0.5, ffn 0.5." in text
    assert "All in all, against “teacher”: 31.2 MB instead of 94.1" in text


def test_card_says_what_one_step_cost_once(card):
    text = card(steps=(made_up_run.COMPRESSED,))
    assert "with new weights of size tiny" in text
    assert text.count("31.2 MB instead of 94.1") == 1


def test_card_names_the_teacher_where_nothing_else_is_known_of_it(tmp_path):
    sources = MadeUpRun(tmp_path / "run", steps=(made_up_run.STUDENT,)).write()
    del sources["variant_findings_0"], sources["teacher_run"]
    text = card_markdown(read_content(sources, config=CONFIG, report_text=True))
    assert "it learned from a teacher, /" in text
    assert "/run/Teacher/model/Format-Serving (temperature 2, alpha 0.5)." in text
    assert "Against its teacher" not in text


def test_card_of_many_labels_has_no_column_for_each(card):
    text = card(labels=[f"label-{i}" for i in range(20)])
    assert "| Split | Rows | Left out |" in text
    assert "| train | 1,000 | 0 |" in text


def test_what_users_wrote_is_no_markup(card):
    text = card(labels=("<b>a</b>", "b | [c](http://d) `e` *f*"))
    assert "<b>" not in text
    assert "&lt;b&gt;a&lt;/b&gt;" in text
    assert r"b \| \[c\](http://d) \`e\` \*f\*" in text
    # Each row of the table has the columns of its head.
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {row.replace(r"\|", "").count("|") for row in rows[:4]} == {6}


def test_card_holds_no_text_of_rows(card):
    assert "secret text" not in card(leaked=0.1)


def test_card_of_a_run_that_made_no_model():
    text = card_markdown(read_content({}, config={}, report_text=False))
    assert "No model was trained." in text
    assert "Nothing was measured." in text

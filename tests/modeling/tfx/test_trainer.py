"""After an edit of the export alone the Trainer exports anew, and does not train."""

import dataclasses
import pathlib
import shutil
import types

import pytest
import tensorflow as tf

from bert_tfx.modeling.tfx import trainer
from bert_tfx.modeling.training.recipes import Recipe
from bert_tfx.schema.tasks import TASKS

RECIPE = Recipe(max_length=8, batch_size=2, epochs=1, learning_rate=1e-3)


@pytest.fixture
def trained(monkeypatch):
    """The trainings that there were, by their folders."""
    trained = []
    train = trainer.TrainingRun.train

    def noting(self, *rows, **folders):
        trained.append(pathlib.Path(folders["model_dir"]).name)
        return train(self, *rows, **folders)

    monkeypatch.setattr(trainer.TrainingRun, "train", noting)
    return trained


@pytest.fixture
def run(single, tmp_path):
    """Runs the node; returns the probabilities that the exported model has for some texts."""
    transform_output, pattern = single

    def run(number, **changes):
        config = {
            "task": TASKS["sst2"].to_json(),
            "recipe": dataclasses.asdict(RECIPE),
            **{"model": "bert", "size": "tiny", "pretrained": None, "distillation": None},
            **{"is_taught": False, "lowercase": True, "eval_fraction": 0.0},
            "state_dir": str(tmp_path / "state"),
            **{"training_fingerprint": "1", "fingerprint": "1"},
        }
        folder = tmp_path / "model" / number
        trainer.run_fn(
            types.SimpleNamespace(
                custom_config=config | changes,
                base_model=None,
                transform_output=str(
                    pathlib.Path(transform_output.transform_savedmodel_dir).parent
                ),
                train_files=[pattern],
                eval_files=[pattern],
                model_run_dir=str(tmp_path / "model_run" / number),
                serving_model_dir=str(folder),
            )
        )
        texts = tf.constant(["good", "the room was bad"])
        model = tf.saved_model.load(str(folder))
        return model.signatures["serve_text"](text_a=texts)["probabilities"].numpy().tolist()

    return run


def test_an_edit_of_the_export_does_not_train(run, trained, tmp_path):
    first = run("1")
    again = run("2", fingerprint="2")
    assert trained == ["1"]
    assert again == first
    ours, theirs = (sorted(p.name for p in (tmp_path / "model_run" / n).iterdir()) for n in "12")
    assert ours == theirs
    # Of the copy, once the first one is gone.
    shutil.rmtree(tmp_path / "model_run" / "1")
    assert run("3", fingerprint="3") == first
    assert trained == ["1"]


@pytest.mark.parametrize(
    "changes",
    [
        {"training_fingerprint": "2"},
        pytest.param(
            {"recipe": dataclasses.asdict(dataclasses.replace(RECIPE, seed=2))},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_edit_of_what_trains_does(run, trained, changes):
    run("1")
    run("2", **changes)
    assert trained == ["1", "2"]


@pytest.mark.slow
def test_a_training_that_lies_there_in_part_is_not_taken(run, trained, tmp_path):
    first = run("1")
    (tmp_path / "model_run" / "1" / "classifier.keras").unlink()
    assert run("2", fingerprint="2") == first
    assert trained == ["1", "2"]


def test_an_export_that_fails_leaves_the_training_to_the_next_run(
    run, trained, tmp_path, monkeypatch
):
    with monkeypatch.context() as broken:
        broken.setattr(trainer.saved_model, "save_for_serving", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("1")
    # As TFX does with the folders of a node that failed.
    shutil.rmtree(tmp_path / "model_run" / "1")
    assert list((tmp_path / "state").iterdir())
    run("2")
    assert not list((tmp_path / "state").iterdir())
    # Called, and found all done.
    assert trained == ["1", "2"]

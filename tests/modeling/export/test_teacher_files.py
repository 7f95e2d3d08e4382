import json
import shutil

import keras
import pytest

from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.export import saved_model
from bert_tfx.modeling.export.teacher_files import find_teacher
from bert_tfx.modeling.export.trained_model import TrainedModel
from bert_tfx.modeling.text.vocab_file import read_vocabulary
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import TASKS, own_task

SST2 = TASKS["sst2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, vocab_file):
    """The same model trained and exported."""
    keras.utils.set_random_seed(0)
    encoder = BertEncoder(
        vocab_size=15, hidden_dim=8, num_layers=1, num_heads=2, intermediate_dim=8, max_length=8
    )
    model = TrainedModel(TextClassifier(encoder, 2), SST2, vocab_file, True, 8, 0.1, {})
    folder = tmp_path_factory.mktemp("teacher")
    model.save(str(folder / "trained"))
    saved_model.save_for_serving(model, str(folder / "exported"))
    return folder


@pytest.mark.parametrize("name", ["trained", "exported"])
def test_what_a_teacher_says_of_itself(folders, vocab_file, name):
    files = find_teacher(str(folders / name))
    assert files.path == str(folders / name)
    assert files.is_exported == (name == "exported")
    assert (files.labels, files.text_features, files.lowercase) == (("0", "1"), ("text_a",), True)
    names = {"model.json", "vocab.txt", "classifier.keras", "assets.extra/bert_tfx.json"}
    assert {file.removeprefix(f"{files.path}/") for file in files.files} <= names
    assert read_vocabulary(files.vocab_file) == read_vocabulary(vocab_file)
    files.check(SST2, vocab_file, lowercase=True)


@pytest.mark.parametrize("name", ["trained", "exported"])
def test_a_teacher_that_does_not_fit_is_refused(folders, vocab_file, tmp_path, name):
    files = find_teacher(str(folders / name))
    other = {
        "name": "own",
        "train": "t.tsv",
        "columns": ["text_a", "label"],
        "labels": ["no", "yes"],
    }
    with pytest.raises(InputError, match=r"answers '0', '1', and own has the labels 'no', 'yes'"):
        files.check(own_task(other, where="test"), vocab_file, lowercase=True)
    columns = ["text_a", "text_b", "label"]
    pairs = own_task({**other, "labels": ["0", "1"], "columns": columns}, where="test")
    with pytest.raises(InputError, match="reads single texts, and own has pairs of texts"):
        files.check(pairs, vocab_file, lowercase=True)
    with pytest.raises(InputError, match="is uncased and the student cased"):
        files.check(SST2, vocab_file, lowercase=False)
    vocabulary = tmp_path / "vocab.txt"
    shutil.copyfile(vocab_file, vocabulary)
    with vocabulary.open("a", encoding="utf-8") as file:
        file.write("more\n")
    with pytest.raises(InputError, match=r"another vocabulary than .*vocab.txt"):
        files.check(SST2, str(vocabulary), lowercase=True)


def test_the_vocabulary_of_an_export_is_found_by_its_content(folders, vocab_file, tmp_path):
    shutil.copytree(folders / "exported", tmp_path / "model")
    assets = tmp_path / "model" / "assets"
    (assets / "vocab.txt").rename(assets / "words")
    assert find_teacher(str(tmp_path / "model")).vocab_file == str(assets / "words")
    (assets / "words").write_text("others")
    with pytest.raises(InputError, match=r"the vocabulary that .* tells of is not there"):
        find_teacher(str(tmp_path / "model"))


def test_what_is_no_teacher_is_told(folders, tmp_path):
    with pytest.raises(InputError, match=r"/nowhere: no such folder; --teacher names"):
        find_teacher(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"there is no classifier.keras; a teacher is a folder"):
        find_teacher(str(tmp_path))
    for name, file in (("trained", "model.json"), ("exported", "assets.extra/bert_tfx.json")):
        shutil.copytree(folders / name, tmp_path / name)
        about = tmp_path / name / file
        content = json.loads(about.read_text())
        for bad in ("{", "[]", json.dumps({k: v for k, v in content.items() if k != "lowercase"})):
            about.write_text(bad)
            with pytest.raises(InputError, match=f"{file}: does not describe a model"):
                find_teacher(str(tmp_path / name))

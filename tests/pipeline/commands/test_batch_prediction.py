"""Batch prediction: the answers of the model, whole parts only, and on from where it was."""

import gzip

import numpy as np
import pytest

from bert_tfx.components.exported_model import read_exported_model
from bert_tfx.pipeline.commands import batch_prediction
from bert_tfx.pipeline.configuration.beam_engine import BeamEngine
from bert_tfx.schema.errors import InputError
from bert_tfx.serving.server.loading import load_model
from bert_tfx.serving.server.saved_model import SavedModel, register_text_ops


@pytest.fixture(scope="module")
def model(tmp_path_factory, export_model):
    return read_exported_model(str(export_model(tmp_path_factory.mktemp("model") / "3")))


@pytest.fixture(scope="module")
def texts(reviews):
    return [text for _, text in reviews(25, seed=9)]


@pytest.fixture
def source(tmp_path, texts):
    path = tmp_path / "rows.tsv"
    lines = [f"{number}\t{text}\n" for number, text in enumerate(texts)]
    path.write_text("id\ttext_a\n" + "".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def predict(model, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_prediction, "_PART_ROWS", 10)

    def predict(source, of=model, **options):
        target = tmp_path / "answers.tsv"
        written = batch_prediction.predict_file(
            of, 3, str(source), str(target), beam_args=BeamEngine().arguments(), **options
        )
        return written, target

    return predict


def answers(model, **texts):
    register_text_ops()
    loaded = SavedModel(model.path)
    columns = {
        name: np.array([t.encode() for t in column], object) for name, column in texts.items()
    }
    return loaded.run("serve_text", columns)


def test_the_output_has_the_models_answers(source, predict, model, texts):
    seen = []
    written, target = predict(source, progress=lambda *done: seen.append(done))
    assert (written.rows, written.resumed, written.rejects) == (25, 0, 0)
    assert seen[0] == (0, 25)
    assert seen[-1] == (25, 25)
    header, *lines = target.read_text(encoding="utf-8").splitlines()
    assert header == "id\ttext_a\tprediction\tprobability\tmodel_version"
    expected = answers(model, text_a=texts)
    for number, line in enumerate(lines):
        label, probability = expected["label"][number].decode(), expected["probabilities"][number]
        assert line.startswith(f"{number}\t{texts[number]}\t{label}\t")
        assert float(line.split("\t")[3]) == pytest.approx(probability.max(), abs=1e-5)
        assert line.endswith("\t3")
    assert [path.name for path in target.parent.iterdir() if "partial" in path.name] == []


def test_onnx_runtime_answers_where_it_is_asked(source, predict, tmp_path, export_model, texts):
    path = str(export_model(tmp_path / "int8" / "3", storage="int8"))
    narrow = read_exported_model(path)
    target = predict(source, of=narrow, backend="onnx")[1]
    found = [float(line.split("\t")[3]) for line in target.read_text().splitlines()[1:]]
    loaded = load_model(path, "onnx")
    columns = {"text_a": np.array([text.encode() for text in texts], object)}
    expected = loaded.run("serve_text", columns)["probabilities"].max(axis=1)
    assert found == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_model_without_an_onnx_file_is_refused(source, predict):
    with pytest.raises(InputError, match=r"holds no assets.extra/int8.onnx"):
        predict(source, backend="onnx")


def test_a_stopped_start_is_gone_on_with(source, predict, tmp_path, monkeypatch):
    whole = predict(source)[1]
    expected = whole.read_bytes()
    whole.unlink()
    process = batch_prediction._AnswerPart.process
    answered: list[str] = []

    def stop_at_the_last(self, element):
        if element == "000002":
            raise KeyboardInterrupt
        answered.append(element)
        return process(self, element)

    with monkeypatch.context() as patched:
        patched.setattr(batch_prediction._AnswerPart, "process", stop_at_the_last)
        with pytest.raises(BaseException):  # noqa: B017, Beam wraps what stops it
            predict(source)
    assert answered == ["000000", "000001"]
    assert not whole.exists()
    written, target = predict(source)
    assert written.resumed == 20
    assert target.read_bytes() == expected


def test_an_output_begun_for_another_input_is_left_alone(source, predict, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(batch_prediction, "_answer", lambda *_: (_ for _ in ()).throw(OSError("x")))
        with pytest.raises(InputError):
            predict(source)
    source.write_text(source.read_text(encoding="utf-8") + "26\tanother\n", encoding="utf-8")
    with pytest.raises(InputError, match="was begun for another input"):
        predict(source)


def test_rows_that_do_not_fit_are_told_before_anything_is_written(source, predict, tmp_path):
    source.write_text("text_a\nfine\n \na\tb\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"2 rows do not fit .*\n  .*rows.tsv, line 3, text_a"):
        predict(source)
    assert not (tmp_path / "answers.tsv.partial").exists()
    written, _ = predict(source, max_rejects=2)
    assert (written.rows, written.rejects) == (1, 2)


def test_pairs_without_a_header_from_a_gzipped_file(tmp_path, export_model, predict):
    pairs = read_exported_model(str(export_model(tmp_path / "pairs", "lcqmc")))
    source = tmp_path / "rows.tsv.gz"
    source.write_bytes(gzip.compress(b"a film\tx\tthe film\n"))
    _, target = predict(source, of=pairs, has_header=False, text_a="3", text_b="1")
    expected = answers(pairs, text_a=["the film"], text_b=["a film"])["label"][0].decode()
    assert target.read_text(encoding="utf-8").startswith(f"a film\tx\tthe film\t{expected}\t")


def test_a_folder_of_something_else_is_no_model(tmp_path):
    with pytest.raises(InputError, match="is no model that this package has exported"):
        read_exported_model(str(tmp_path))

import dataclasses
import functools
import hashlib
import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.export import saved_model
from bert_tfx.modeling.export.storages import BFLOAT16_COMPUTE, FLOAT32, INT8, STORAGES
from bert_tfx.modeling.export.trained_model import TrainedModel
from bert_tfx.modeling.export.weight_storage import rounded
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import TASKS

LABELS = ("no", "yes")
# A machine may be busy with other things.
unhurried = settings(
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def make_classifier():
    keras.utils.set_random_seed(1)
    encoder = BertEncoder(
        vocab_size=15,
        hidden_dim=8,
        num_layers=2,
        num_heads=2,
        intermediate_dim=16,
        max_length=8,
        initializer_range=0.5,
    )
    return TextClassifier(encoder, num_labels=2)


def served(transform_output, directory, *, is_pair=False):
    """Saves a classifier with its transform graph; returns it and what is loaded again."""
    classifier = make_classifier()
    module = saved_model.ServedClassifier(
        classifier, transform_output.transform_features_layer(), labels=LABELS, is_pair=is_pair
    )
    module.save(str(directory))
    return classifier, tf.saved_model.load(str(directory))


@pytest.fixture(scope="module")
def single_served(single, tmp_path_factory):
    return served(single[0], tmp_path_factory.mktemp("export") / "single")


@pytest.fixture(scope="module")
def pair_served(pair, tmp_path_factory):
    return served(pair[0], tmp_path_factory.mktemp("export") / "pair", is_pair=True)


def examples(**columns):
    """Serializes rows of bytes features."""
    return tf.constant(
        [
            tf.train.Example(
                features=tf.train.Features(
                    feature={
                        name: tf.train.Feature(
                            bytes_list=tf.train.BytesList(value=[value.encode()])
                        )
                        for name, value in zip(columns, row, strict=True)
                    }
                )
            ).SerializeToString()
            for row in zip(*columns.values(), strict=True)
        ]
    )


TEXTS = ["a", "a b c d e f g h", "好", "", "x y z", "a b c"]


def direct(classifier, ids, segments=None):
    """Runs the classifier over one row without padding."""
    ids = np.array([ids], np.int32)
    batch = {
        "token_ids": ids,
        "segment_ids": np.zeros_like(ids) if segments is None else np.array([segments], np.int32),
        "padding_mask": np.ones_like(ids),
    }
    return tf.nn.softmax(classifier(batch)).numpy()[0]


def test_answers_are_those_of_the_classifier(single_served):
    classifier, loaded = single_served
    answer = loaded.signatures["serve_text"](text_a=tf.constant(TEXTS))
    ids = [
        [2, 5, 3],
        [2, 5, 6, 7, 8, 9, 10, 3],
        [2, 13, 3],
        [2, 3],
        [2, 1, 1, 1, 3],
        [2, 5, 6, 7, 3],
    ]
    expected = np.stack([direct(classifier, row) for row in ids])
    assert np.abs(answer["probabilities"].numpy() - expected).max() < 1e-6
    assert answer["probabilities"].dtype == tf.float32
    assert answer["classes"].numpy().tolist() == [[b"no", b"yes"]] * len(TEXTS)
    names = [LABELS[i].encode() for i in expected.argmax(axis=1)]
    assert answer["label"].numpy().tolist() == names


def test_both_signatures_agree(single_served):
    _, loaded = single_served
    by_text = loaded.signatures["serve_text"](text_a=tf.constant(TEXTS))
    by_example = loaded.signatures["serving_default"](examples=examples(text_a=TEXTS))
    for name in ("probabilities", "label", "classes"):
        assert np.array_equal(by_text[name], by_example[name])


def test_pairs(pair_served):
    classifier, loaded = pair_served
    texts_a, texts_b = ["a b", "a"], ["c", "b c d"]
    by_text = loaded.signatures["serve_text"](
        text_a=tf.constant(texts_a), text_b=tf.constant(texts_b)
    )
    expected = [
        direct(classifier, [2, 5, 6, 3, 7, 3], [0, 0, 0, 0, 1, 1]),
        direct(classifier, [2, 5, 3, 6, 7, 8, 3], [0, 0, 0, 1, 1, 1, 1]),
    ]
    assert np.abs(by_text["probabilities"].numpy() - np.stack(expected)).max() < 1e-6
    by_example = loaded.signatures["serving_default"](
        examples=examples(text_a=texts_a, text_b=texts_b)
    )
    assert np.array_equal(by_text["probabilities"], by_example["probabilities"])


def test_micro_batches_change_nothing(single, tmp_path, monkeypatch, single_served):
    _, whole = single_served
    monkeypatch.setattr(saved_model, "_TOKENS_PER_MICRO_BATCH", 9)
    _, split = served(single[0], tmp_path / "split")
    texts = tf.constant(TEXTS * 5)
    first = whole.signatures["serve_text"](text_a=texts)["probabilities"].numpy()
    second = split.signatures["serve_text"](text_a=texts)["probabilities"].numpy()
    assert np.abs(first - second).max() < 1e-6


def test_no_rows_are_answered_by_no_rows(single_served):
    _, loaded = single_served
    answer = loaded.signatures["serve_text"](text_a=tf.constant([], tf.string))
    assert answer["probabilities"].shape == (0, 2)
    assert answer["classes"].shape == (0, 2)
    assert answer["label"].shape == (0,)


def test_slice_features(single_served):
    _, loaded = single_served
    slices = loaded.signatures["slice_features"](examples=examples(text_a=TEXTS))
    assert slices["truncated"].numpy().tolist() == [b"no", b"yes", *[b"no"] * 4]
    assert set(slices["length_bucket"].numpy()) == {b"000-015"}


def test_vocabulary_labels_and_configuration_travel_inside(single_served, single, tmp_path):
    classifier, _ = served(single[0], tmp_path / "model")
    assets = tmp_path / "model" / "assets"
    assert sorted(path.name for path in assets.iterdir()) == [
        "config.json",
        "labels.txt",
        "vocab.txt",
    ]
    assert (assets / "labels.txt").read_text().split() == list(LABELS)
    config = json.loads((assets / "config.json").read_text())
    again = TextClassifier.from_config(config)
    assert [v.path for v in again.weights] == [v.path for v in classifier.weights]


def test_what_was_cut_is_flagged(single_served, pair_served):
    _, loaded = single_served
    answer = loaded.signatures["serve_text"](text_a=tf.constant(TEXTS))
    assert answer["truncated"].numpy().tolist() == [False, True, False, False, False, False]
    _, loaded = pair_served
    answer = loaded.signatures["serve_text"](
        text_a=tf.constant(["a b c d", "a"]), text_b=tf.constant(["a b", "b"])
    )
    assert answer["truncated"].numpy().tolist() == [True, False]


@pytest.mark.parametrize("wrong", [b"\xff", b"a\xed\xa0\x80", b"\xe5\xa5", b"\xf8\x88\x80\x80\x80"])
def test_text_that_is_no_utf8_is_refused(single_served, pair_served, wrong):
    refused = tf.errors.InvalidArgumentError
    _, loaded = single_served
    texts = [b"a", b"", wrong, "\ufeff好\0".encode(), wrong]
    with pytest.raises(refused, match=r"text_a is not UTF-8 in rows\] \[2 4"):
        loaded.signatures["serve_text"](text_a=tf.constant(texts))
    _, loaded = pair_served
    with pytest.raises(refused, match=r"text_b is not UTF-8 in rows\] \[0"):
        loaded.signatures["serve_text"](text_a=tf.constant(["a"]), text_b=tf.constant([wrong]))


@unhurried
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_any_text_is_answered(single_served, texts):
    _, loaded = single_served
    answer = loaded.signatures["serve_text"](text_a=tf.constant(texts))
    assert answer["probabilities"].shape == (len(texts), 2)


# What TF Serving needs besides.


@pytest.fixture(scope="module")
def model(vocab_file):
    """A model of pairs."""
    return TrainedModel(
        classifier=make_classifier(),
        task=TASKS["lcqmc"],
        vocab_file=vocab_file,
        lowercase=True,
        max_length=8,
        eval_fraction=0.1,
        training={"epoch": 3},
    )


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """The same, as it is exported."""
    folder = tmp_path_factory.mktemp("exported") / "1"
    saved_model.save_for_serving(model, str(folder))
    return folder


def test_warm_up_asks_both_signatures_in_several_sizes(exported):
    loaded = tf.saved_model.load(str(exported))
    asked = []
    path = exported / "assets.extra" / "tf_serving_warmup_requests"
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        signature = loaded.signatures[request.model_spec.signature_name]
        answer = signature(**{name: tf.constant(value) for name, value in inputs.items()})
        size = len(next(iter(inputs.values())))
        assert answer["probabilities"].shape == (size, 2)
        asked.append((request.model_spec.signature_name, size))
    assert sorted(asked) == [
        (name, size) for name in ("serve_text", "serving_default") for size in (1, 8, 32)
    ]


def test_model_tells_what_it_is(exported, vocab_file):
    about = json.loads((exported / "assets.extra" / "bert_tfx.json").read_text())
    assert about["task"] == "lcqmc"
    assert about["labels"] == ["0", "1"]
    assert about["text_features"] == ["text_a", "text_b"]
    assert (about["max_length"], about["lowercase"]) == (8, True)
    assert about["training"] == {"epoch": 3}
    assert about["versions"]["tensorflow"] == tf.__version__
    with open(vocab_file, "rb") as file:
        assert about["sha256"]["vocabulary"] == hashlib.sha256(file.read()).hexdigest()
    assert len({*about["sha256"].values()}) == 3


def test_an_exported_classifier_is_read_back(single_served, single, tmp_path):
    classifier, _ = single_served
    served(single[0], tmp_path / "model")
    keras.utils.set_random_seed(2)
    again = saved_model.load_exported_classifier(str(tmp_path / "model"))
    for ours, theirs in zip(again.weights, classifier.weights, strict=True):
        assert ours.path == theirs.path
        np.testing.assert_array_equal(ours, theirs)
    ids = [2, 5, 6, 3]
    np.testing.assert_array_equal(direct(again, ids), direct(classifier, ids))


# Weights by name, not by order.


def held_by(directory):
    """Returns the checkpoint of a SavedModel by the parts of its keys."""
    reader = tf.train.load_checkpoint(str(directory / "variables" / "variables"))
    held = {}
    for key in reader.get_variable_to_shape_map():
        if key.endswith("/.ATTRIBUTES/VARIABLE_VALUE"):
            group, name = key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE").split("/")
            held.setdefault(group, {})[name.replace(".S", "/")] = reader.get_tensor(key)
    return held


def write_held(directory, held):
    """Writes a checkpoint in place of a SavedModel's."""
    groups = {
        group: [tf.Variable(value) for value in values]
        if isinstance(values, list)
        else {name: tf.Variable(value) for name, value in values.items()}
        for group, values in held.items()
    }
    tf.train.Checkpoint(**groups).write(str(directory / "variables" / "variables"))


@pytest.fixture(scope="module")
def stored(single, tmp_path_factory):
    """Returns a function that writes an export in a storage, and returns what it is to hold."""
    transform = single[0].transform_features_layer()

    @functools.cache
    def write(storage):
        classifier = rounded(make_classifier(), storage)
        folder = tmp_path_factory.mktemp("stored") / storage
        saved_model.ServedClassifier(
            classifier, transform, labels=LABELS, is_pair=False, storage=storage
        ).save(str(folder))
        return classifier, folder

    def write_copy(directory, storage):
        classifier, folder = write(storage)
        shutil.copytree(folder, directory, dirs_exist_ok=True)
        return classifier

    return write_copy


def assert_same_weights(model, other):
    ours, theirs = ({w.path: np.array(w) for w in each.weights} for each in (model, other))
    assert {*ours} == {*theirs}
    for path, value in ours.items():
        np.testing.assert_allclose(value, theirs[path], rtol=1e-6, err_msg=path)


@pytest.mark.parametrize("storage", STORAGES)
def test_each_weight_finds_its_place_in_another_order(stored, tmp_path, monkeypatch, storage):
    classifier = stored(tmp_path, storage)
    held = held_by(tmp_path)
    assert {*held["_variables"]} == {*saved_model.shapes_of(classifier)}
    tables = ["token_embedding", "position_embedding", "segment_embedding"]
    kernels = [
        f"block_{i}/{name}/kernel"
        for i in range(2)
        for name in (
            *(f"attention/{name}" for name in ("query", "key", "value", "output")),
            *("intermediate", "output"),
        )
    ]
    narrow = {f"bert/{name}" for name in [*(f"{t}/embeddings" for t in tables), *kernels]}
    assert {*held.get("_scales", ())} == (narrow if storage == "int8" else set())
    assert {*held.get("_sums", ())} == (
        {f"bert/{name}" for name in kernels} if storage == "int8" else set()
    )
    first = classifier.weights[0].path
    for name in ("weights", "variables"):
        there = getattr(keras.Model, name)
        monkeypatch.setattr(
            TextClassifier, name, property(lambda self, there=there: there.fget(self)[::-1])
        )
    again = saved_model.load_exported_classifier(str(tmp_path))
    assert again.weights[-1].path == first
    assert_same_weights(again, classifier)


QUERY = "bert/block_0/attention/query/kernel"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda held: held.pop(QUERY), f"missing: {QUERY}. "),
        (lambda held: held.update(other=held[QUERY]), "unexpected: other. "),
        (
            lambda held: held.update({f"{QUERY}s": held.pop(QUERY)}),
            f"missing: {QUERY}; unexpected: {QUERY}s. ",
        ),
        (
            lambda held: held.update({QUERY: held[QUERY][:, :4]}),
            f"of another shape or type: {QUERY} (float32 [8, 4] there, float32 [8, 8] here). ",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(stored, tmp_path, changed, message):
    stored(tmp_path, "float32")
    held = held_by(tmp_path)
    changed(held["_variables"])
    write_held(tmp_path, held)
    with pytest.raises(InputError) as refused:
        saved_model.load_exported_classifier(str(tmp_path))
    assert str(refused.value) == (
        f"{tmp_path}: holds other variables than this model has. {message}"
        "Read it with the release that exported it, or export the model anew"
    )


def test_numbers_in_8_bits_without_their_scales_are_refused(stored, tmp_path):
    stored(tmp_path, "int8")
    held = held_by(tmp_path)
    del held["_scales"][QUERY]
    write_held(tmp_path, held)
    with pytest.raises(InputError, match=r"cannot be read as an exported classifier: .*query"):
        saved_model.load_exported_classifier(str(tmp_path))


def write_by_position(directory, classifier):
    """Rewrites an export's checkpoint as 0.1 had it; to be deleted with 0.3."""
    held = held_by(directory)
    paths = [variable.path for variable in classifier.variables]
    scales = {str(paths.index(name)): value for name, value in held.get("_scales", {}).items()}
    variables = [
        held["_variables"].get(variable.path, np.array(variable))
        for variable in classifier.variables
    ]
    write_held(directory, {"_variables": variables, "_scales": scales})
    return variables, scales


@pytest.mark.parametrize("storage", STORAGES)
def test_an_export_of_the_release_before_is_read(stored, tmp_path, storage):
    classifier = stored(tmp_path, storage)
    variables, scales = write_by_position(tmp_path, classifier)
    assert_same_weights(saved_model.load_exported_classifier(str(tmp_path)), classifier)
    write_held(tmp_path, {"_variables": variables[:-1], "_scales": scales})
    with pytest.raises(InputError, match=r"missing: text_classifier/logits/bias\. "):
        saved_model.load_exported_classifier(str(tmp_path))
    write_held(tmp_path, {"_variables": [*variables, variables[-1]], "_scales": scales})
    with pytest.raises(InputError, match=f"unexpected: {len(variables)}. "):
        saved_model.load_exported_classifier(str(tmp_path))
    write_held(tmp_path, {"_variables": variables[::-1], "_scales": {}})
    with pytest.raises(InputError):
        saved_model.load_exported_classifier(str(tmp_path))


def test_what_is_no_export_of_ours_is_an_input_error(exported, tmp_path):
    with pytest.raises(InputError, match="cannot be read as an exported classifier"):
        saved_model.load_exported_classifier(str(tmp_path))
    with pytest.raises(InputError, match=r"bert_tfx\.json: cannot be read"):
        saved_model.about_exported(str(tmp_path))
    (tmp_path / "assets.extra").mkdir()
    about = saved_model.about_exported(str(exported))
    del about["weights"]
    (tmp_path / "assets.extra" / "bert_tfx.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="does not say weights: export the model anew"):
        saved_model.about_exported(str(tmp_path))


def test_an_exported_model_is_read_back(model, exported):
    again = saved_model.load_exported_model(str(exported), model.task, 0.25)
    assert (again.task, again.eval_fraction) == (model.task, 0.25)
    for name in ("lowercase", "max_length", "storage"):
        assert getattr(again, name) == getattr(model, name)
    assert again.training == dict(model.training)
    with open(again.vocab_file, "rb") as ours, open(model.vocab_file, "rb") as theirs:
        assert ours.read() == theirs.read()
    for ours, theirs in zip(again.classifier.weights, model.classifier.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(InputError, match=r"its text_features are .*, those of sst2 "):
        saved_model.load_exported_model(str(exported), TASKS["sst2"], 0.1)


def test_batching_parameters_are_those_of_tf_serving(exported):
    lines = (exported / "batching_params.pbtxt").read_text().splitlines()
    names = [line.split()[0] for line in lines]
    assert names == ["max_batch_size", "batch_timeout_micros", "max_enqueued_batches"]


def test_ops_are_those_that_tf_serving_links(exported, tmp_path):
    ops = saved_model.served_ops(str(exported))
    assert ops["text"] == {"FastWordpieceTokenizeWithOffsets", "NormalizeUTF8"}
    assert "MatMul" in ops["core"]
    assert not ops["other"]

    module = tf.Module()
    module.call = tf.function(
        lambda x: tf.numpy_function(lambda y: y, [x], tf.float32), [tf.TensorSpec([], tf.float32)]
    )
    tf.saved_model.save(module, str(tmp_path / "python"))
    assert saved_model.served_ops(str(tmp_path / "python"))["other"] == {"PyFunc"}


@pytest.mark.parametrize("storage", [FLOAT32, INT8, BFLOAT16_COMPUTE])
def test_servers_since_2_16_know_the_graph(storage, model, exported, tmp_path):
    # A release of TF Serving is built with the TensorFlow of its own number.
    table = pathlib.Path(__file__).parents[2] / "testdata" / "tensorflow_2_16_ops.json"
    known = json.loads(table.read_text(encoding="utf-8"))
    folder = exported
    if storage != FLOAT32:
        folder = tmp_path / "1"
        saved_model.save_for_serving(dataclasses.replace(model, storage=storage), str(folder))
    message = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    (meta_graph,) = message.meta_graphs
    graph = meta_graph.graph_def
    assert graph.versions.min_consumer <= known["graph_def_version"]
    assert not graph.versions.bad_consumers

    functions = {function.signature.name for function in graph.library.function}
    in_functions = (node for function in graph.library.function for node in function.node_def)
    unknown = set()
    for node in (*graph.node, *in_functions):
        if node.op in functions:
            continue
        attributes = {name for name in node.attr if not name.startswith("_")}
        if node.op not in known["ops"]:
            unknown.add(node.op)
        elif odd := attributes - set(known["ops"][node.op]):
            unknown.add(f"{node.op}: {', '.join(sorted(odd))}")
    # An op that TensorFlow 2.16 has after all: testdata/make_tensorflow_ops.py adds it.
    assert not unknown

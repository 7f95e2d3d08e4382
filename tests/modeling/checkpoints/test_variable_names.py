import keras
import numpy as np
import pytest

from bert_tfx.modeling.checkpoints.variable_names import assign_by_name, by_name
from bert_tfx.modeling.distillation.learner import Distilled, Teaching
from bert_tfx.modeling.distillation.settings import Distillation
from bert_tfx.modeling.encoders.albert import AlbertEncoder
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.distil_bert import DistilBertEncoder
from bert_tfx.modeling.training import fine_tuning
from bert_tfx.modeling.training.recipes import Recipe
from bert_tfx.schema.errors import InputError


def make_classifier(encoder=BertEncoder, hidden_dim=8, **options):
    return TextClassifier(
        encoder(
            vocab_size=15,
            hidden_dim=hidden_dim,
            num_layers=2,
            num_heads=2,
            intermediate_dim=16,
            max_length=8,
            hidden_dropout=0.1,
            attention_dropout=0.1,
            **options,
        ),
        num_labels=2,
    )


def make_learner():
    settings = Distillation(hidden_weight=1.0, embedding_weight=1.0)
    teaching = Teaching(settings, (make_classifier(),))
    return Distilled(make_classifier(hidden_dim=4), teaching, layers=True, answers=True)


MODELS = {
    "bert": make_classifier,
    "distilbert": lambda: make_classifier(DistilBertEncoder),
    "albert": lambda: make_classifier(AlbertEncoder, embedding_dim=4),
    "learner": make_learner,
}


@pytest.mark.parametrize("name", MODELS)
def test_names_are_those_of_the_next_model(name):
    """Keras numbers what has no name by all that the process has made."""
    names = []
    for precision in ("float32", "mixed_float16"):
        keras.layers.Dropout(0.1)
        for _ in range(2):
            model = MODELS[name]()
            optimizer = fine_tuning._optimizer(model, Recipe(precision=precision), 10)
            everything = [*model.variables, *optimizer.variables]
            named = by_name(everything, model)
            assert [*named.values()] == everything
            names.append([*named])
    assert names[0] == names[1]
    assert names[2] == names[3]
    assert {*names[0]} < {*names[2]}


def test_names_are_paths_but_of_random_states():
    model = make_classifier()
    assert [*by_name(model.weights, model)] == [weight.path for weight in model.weights]
    seeds = {v.path for v in model.variables} - {v.path for v in model.weights}
    named = by_name(model.variables, model)
    assert sorted(name for name, v in named.items() if v.path in seeds) == [
        "text_classifier/bert/block_0/attention/dropout/seed_generator_state",
        "text_classifier/bert/block_0/dropout/seed_generator_state",
        "text_classifier/bert/block_1/attention/dropout/seed_generator_state",
        "text_classifier/bert/block_1/dropout/seed_generator_state",
        "text_classifier/bert/embeddings_dropout/seed_generator_state",
        "text_classifier/dropout/seed_generator_state",
    ]
    block = model.encoder.blocks[1]
    name = "text_classifier/bert/block_1/attention/dropout/seed_generator_state"
    assert named[name] is block.attention.probabilities_dropout.seed_generator.state


def test_three_of_the_names_that_do_not_fit_are_told():
    model = make_classifier()
    weights = by_name(model.weights, model)
    before = [np.array(weight) for weight in model.weights]
    found = {name: np.zeros(weight.shape, "float32") for name, weight in weights.items()}
    found = {name.replace("block_1", "block_9"): value for name, value in found.items()}
    with pytest.raises(InputError) as refused:
        assign_by_name(weights, found, source="file", remedy="Do this")
    path = "bert/block_{}/attention/"
    assert str(refused.value) == (
        "file: holds other variables than this model has. "
        "missing: {0}query/kernel, {0}query/bias, {0}key/kernel and 13 more; "
        "unexpected: {1}query/kernel, {1}query/bias, {1}key/kernel and 13 more. Do this"
    ).format(path.format(1), path.format(9))
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)

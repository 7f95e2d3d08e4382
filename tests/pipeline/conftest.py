"""A toy model to ask."""

import pytest


@pytest.fixture(scope="session")
def toy_dir(tmp_path_factory, vocab_file) -> str:
    """A model of sst2, untrained and small, as `bert-tfx train` writes it."""
    # Here, as the DAG's tests run where there is no Keras.
    import keras

    from bert_tfx.modeling.encoders.bert import BertEncoder
    from bert_tfx.modeling.encoders.classifier import TextClassifier
    from bert_tfx.modeling.export.trained_model import TrainedModel
    from bert_tfx.schema.tasks import TASKS

    keras.utils.set_random_seed(1)
    encoder = BertEncoder(
        vocab_size=len(vocab_file.read_text(encoding="utf-8").splitlines()),
        num_layers=2,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        initializer_range=0.5,
        max_length=16,
    )
    folder = tmp_path_factory.mktemp("toy") / "model"
    TrainedModel(
        classifier=TextClassifier(encoder, 2),
        task=TASKS["sst2"],
        vocab_file=str(vocab_file),
        lowercase=True,
        max_length=16,
        eval_fraction=0.1,
        training={},
    ).save(str(folder))
    return str(folder)

"""An encoder with a classification head.

Shapes: B batch, T tokens.
"""

from collections.abc import Mapping
from typing import Any

import keras

from bert_tfx.modeling.encoders.encoder import Encoder
from bert_tfx.modeling.encoders.transformer import Tensor, kernel_initializer


@keras.saving.register_keras_serializable(package="bert_tfx")
class TextClassifier(keras.Model):
    """Classifies texts by what the encoder makes of their first token, [CLS].

    The head is the one that goes with the encoder:

    - BERT (Devlin et al. 2018, arXiv:1810.04805, section 4.1), ALBERT: dropout and a dense layer
      on `pooled_output`.
    - DistilBERT, which has no pooler (`DistilBertForSequenceClassification` in
      huggingface/transformers): a dense layer with ReLU, dropout and a dense layer on the first
      token of `sequence_output`.

    Args:
        encoder: BertEncoder, AlbertEncoder or DistilBertEncoder.
        num_labels: int. Number of classes.
        dropout: float or None. Dropout rate of the head. None is the usual one: 0.2 for
            DistilBERT, 0.1 for the others.
        **kwargs: `name`, `dtype` (the encoder's, if not given) and `trainable` of `keras.Model`.

    Call arguments:
        inputs: dict of int32 [B, T], as the encoder is called with.

    Returns:
        Logits, float32 [B, num_labels], also under mixed precision: the loss is computed in
        float32.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_labels: int,
        dropout: float | None = None,
        *,
        name: str = "text_classifier",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", encoder.dtype_policy)
        super().__init__(name=name, **kwargs)
        if dropout is None:
            dropout = 0.2 if encoder.pooler is None else 0.1
        self.num_labels = num_labels
        self.dropout_rate = dropout

        self.encoder = encoder
        self.pre_classifier = None
        if encoder.pooler is None:
            self.pre_classifier = keras.layers.Dense(
                encoder.config.hidden_dim,
                activation="relu",
                kernel_initializer=kernel_initializer(encoder.config.initializer_range),
                dtype=self.dtype_policy,
                name="pre_classifier",
            )
        self.dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="dropout")
        self.logits = keras.layers.Dense(
            num_labels,
            kernel_initializer=kernel_initializer(encoder.config.initializer_range),
            dtype="float32",
            name="logits",
        )
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the head's variables; the constructor has called it."""
        if self.pre_classifier is not None:
            self.pre_classifier.build((None, self.encoder.config.hidden_dim))
        self.logits.build((None, self.encoder.config.hidden_dim))

    def call(self, inputs: Mapping[str, Tensor], training: bool = False) -> Tensor:
        """Computes the logits; see the class."""
        return self.head(self.encoder(inputs, training=training), training=training)

    def head(self, encoded: Mapping[str, Tensor], training: bool = False) -> Tensor:
        """Computes the logits from what the encoder returned."""
        if self.pre_classifier is None:
            features = encoded["pooled_output"]
        else:
            features = self.pre_classifier(encoded["sequence_output"][:, 0])
        return self.logits(self.dropout(features, training=training))  # [B, num_labels]

    def head_layers(self) -> list[keras.layers.Layer]:
        """Returns the layers above the blocks that have weights, the encoder's pooler included."""
        layers = (self.encoder.pooler, self.pre_classifier, self.logits)
        return [layer for layer in layers if layer is not None]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, the encoder serialized."""
        return {
            **super().get_config(),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "num_labels": self.num_labels,
            "dropout": self.dropout_rate,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "TextClassifier":
        """Makes a new classifier, with a new encoder, from `get_config()`."""
        encoder = keras.saving.deserialize_keras_object(config["encoder"], custom_objects)
        return cls(**{**config, "encoder": encoder})

"""Makes `hf_albert_classifier`: a tiny ALBERT of Hugging Face's, with what it computes.

Run by `.venv-reference/bin/python` (see `make reference`). All weights are random, biases and
LayerNorms too, so that one that is dropped or swapped shows.
"""

import json
import pathlib

import numpy as np
import torch
import transformers

FOLDER = pathlib.Path(__file__).parent / "hf_albert_classifier"


def main() -> None:
    torch.manual_seed(0)
    config = transformers.AlbertConfig(
        vocab_size=120,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=24,
        classifier_dropout_prob=0.1,
        num_labels=3,
    )
    model = transformers.AlbertForSequenceClassification(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            weight.normal_(centre, 0.2)
    model.save_pretrained(FOLDER)
    written = FOLDER / "config.json"
    config = json.loads(written.read_text())
    written.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    random = np.random.default_rng(0)
    lengths = np.array([24, 17, 9, 3])
    mask = (np.arange(24) < lengths[:, None]).astype(np.int64)
    segments = (np.arange(24) >= lengths[:, None] // 2).astype(np.int64) * mask
    token_ids = random.integers(1, 120, mask.shape) * mask
    with torch.no_grad():
        inputs = {
            "input_ids": torch.tensor(token_ids),
            "attention_mask": torch.tensor(mask),
            "token_type_ids": torch.tensor(segments),
        }
        encoded = model.albert(**inputs, output_hidden_states=True)
        logits = model(**inputs).logits
    np.savez_compressed(
        FOLDER / "expected.npz",
        input_ids=token_ids.astype(np.int32),
        attention_mask=mask.astype(np.int32),
        token_type_ids=segments.astype(np.int32),
        pooled=encoded.pooler_output.numpy(),
        logits=logits.numpy(),
        **{f"hidden_{i}": state.numpy() for i, state in enumerate(encoded.hidden_states)},
    )


if __name__ == "__main__":
    main()

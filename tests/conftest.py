"""What tests of several rooms share: the command as users start it, and rows to start it on."""

import importlib.util
import os
import pathlib
import random
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

# TensorFlow switches oneDNN on by itself on some processors and not on others, and products in 8
# bits need it. So the tests compute in one way on all of them, in the commands they start, too.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

ROOMS = ("schema", "modeling", "components", "serving", "pipeline", "sample")

GOOD = ("good", "great", "lovely", "superb", "fine")
BAD = ("bad", "awful", "dull", "poor", "dreadful")
OTHER = ("the", "a", "film", "room", "meal", "was", "very", "with", "and", "story")


@pytest.fixture(scope="session")
def start() -> Callable[..., subprocess.Popen]:
    """Starts `bert-tfx ARGUMENTS`, from a copy of the package where one is given."""

    def start(
        *arguments: object, package: pathlib.Path | None = None, **options
    ) -> subprocess.Popen:
        # Folders on PYTHONPATH come before the editable install.
        path = {"PYTHONPATH": str(package.parent)} if package else {}
        return subprocess.Popen(
            [sys.executable, "-m", "bert_tfx.pipeline.commands.cli", *map(str, arguments)],
            env=os.environ | path,
            text=True,
            **options,
        )

    return start


@pytest.fixture(scope="session")
def command(start) -> Callable[..., subprocess.CompletedProcess]:
    """Runs `bert-tfx ARGUMENTS` to its end."""

    def command(*arguments: object, **options) -> subprocess.CompletedProcess:
        with start(
            *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
        ) as process:
            stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    return command


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, pathlib.Path]:
    """A certificate of its own authority for `localhost`, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@pytest.fixture(scope="session")
def copy_package() -> Callable[[pathlib.Path], pathlib.Path]:
    """Copies the rooms to `FOLDER/bert_tfx`, where a test may change the sources."""

    def copy_package(folder: pathlib.Path) -> pathlib.Path:
        package = folder / "bert_tfx"
        for room in ROOMS:
            (source,) = importlib.util.find_spec(f"bert_tfx.{room}").submodule_search_locations
            shutil.copytree(source, package / room, ignore=shutil.ignore_patterns("__pycache__"))
        return package

    return copy_package


@pytest.fixture(scope="session")
def reviews() -> Callable[..., list[tuple[int, str]]]:
    """Makes up `count` short reviews; one word of each gives its label away, 0 and 1 in turn."""

    def reviews(count: int, *, seed: int) -> list[tuple[int, str]]:
        rng = random.Random(seed)
        rows = []
        for label in (i % 2 for i in range(count)):
            words = [rng.choice(OTHER) for _ in range(rng.randint(2, 5))]
            words.insert(rng.randint(0, len(words)), rng.choice((BAD, GOOD)[label]))
            rows.append((label, " ".join(words)))
        return rows

    return reviews


@pytest.fixture(scope="session")
def glue_dir(tmp_path_factory, reviews) -> pathlib.Path:
    """Reviews as the files of SST-2 in GLUE's layout, whose test rows have no label."""
    folder = tmp_path_factory.mktemp("glue")
    for name, count, seed in (("train", 300, 1), ("dev", 80, 2)):
        rows = "".join(f"{text}\t{label}\n" for label, text in reviews(count, seed=seed))
        (folder / f"{name}.tsv").write_text(f"sentence\tlabel\n{rows}", encoding="utf-8")
    rows = "".join(f"{i}\t{text}\n" for i, (_, text) in enumerate(reviews(40, seed=3)))
    (folder / "test.tsv").write_text(f"index\tsentence\n{rows}", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def vocab_file(tmp_path_factory) -> pathlib.Path:
    """A vocabulary of the words in `reviews`."""
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    tokens = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *OTHER)
    path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def export_model(vocab_file) -> Callable[..., pathlib.Path]:
    """Exports an untrained small model into a folder; another seed has other weights."""

    def export_model(
        folder: pathlib.Path,
        task: str = "sst2",
        *,
        seed: int = 1,
        num_layers: int = 1,
        max_length: int = 16,
        storage: str = "float32",
    ) -> pathlib.Path:
        # Here, so that tests that do without need not wait for the frameworks.
        import keras

        from bert_tfx.modeling.encoders.bert import BertEncoder
        from bert_tfx.modeling.encoders.classifier import TextClassifier
        from bert_tfx.modeling.export import saved_model
        from bert_tfx.modeling.export.trained_model import TrainedModel
        from bert_tfx.schema.tasks import TASKS

        keras.utils.set_random_seed(seed)
        encoder = BertEncoder(
            vocab_size=len(vocab_file.read_text(encoding="utf-8").splitlines()),
            hidden_dim=16,
            num_layers=num_layers,
            num_heads=2,
            intermediate_dim=32,
            max_length=max_length,
            initializer_range=0.5,
        )
        model = TrainedModel(
            classifier=TextClassifier(encoder, num_labels=2),
            task=TASKS[task],
            vocab_file=str(vocab_file),
            lowercase=True,
            max_length=max_length,
            eval_fraction=0.0,
            training={},
            storage=storage,
        )
        saved_model.save_for_serving(model, str(folder))
        return folder

    return export_model

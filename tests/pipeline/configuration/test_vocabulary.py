import gzip
import pathlib

import pytest

from bert_tfx.modeling.text.vocab_file import read_vocabulary
from bert_tfx.pipeline.configuration.config import make_config
from bert_tfx.pipeline.configuration.vocabulary import learned_vocabulary
from bert_tfx.schema.errors import InputError


@pytest.fixture
def config(tmp_path):
    """Makes the configuration of a run on the bytes given as the only file."""

    def config(content: bytes, name: str = "train.tsv", **options):
        (tmp_path / name).write_bytes(content)
        task = {
            "name": "own",
            "labels": ["bad", "good"],
            "columns": ["label", "text_a"],
            "train": name,
        }
        output = str(tmp_path / "output")
        return make_config({"task": task, "data": str(tmp_path), "output": output, **options})

    return config


def rows(count: int) -> bytes:
    lines = [f"{('bad', 'good')[i % 2]}\tRoom {i} was Très fine\n" for i in range(count)]
    return "".join(["label\ttext_a\n", *lines]).encode()


def test_vocabulary_is_learned_from_the_rows_and_can_be_read(config):
    made = config(rows(100))
    path = learned_vocabulary(made)
    assert pathlib.Path(path).is_relative_to(made.output_dir)
    tokens = read_vocabulary(path)
    assert tokens[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert {"room", "was", "tres"} <= {*tokens}


def test_same_rows_are_not_learned_from_again(config):
    made = config(rows(100))
    path = pathlib.Path(learned_vocabulary(made))
    path.write_text("kept", encoding="utf-8")
    assert learned_vocabulary(made) == str(path)
    assert path.read_text(encoding="utf-8") == "kept"


def test_the_first_vocabulary_stays_with_a_warm_start(config):
    first = learned_vocabulary(config(rows(100), warm_start=True))
    assert learned_vocabulary(config(rows(200), warm_start=True)) == first
    assert learned_vocabulary(config(rows(200))) != first


def test_other_rows_or_casing_have_another_vocabulary(config):
    first = learned_vocabulary(config(rows(100)))
    cased = learned_vocabulary(config(rows(100), lowercase=False))
    assert "Room" in read_vocabulary(cased)
    assert len({first, cased, learned_vocabulary(config(rows(101)))}) == 3


def test_rows_held_out_are_not_learned_from(config):
    lines = [f"{('bad', 'good')[i % 2]}\t{chr(0x4E00 + i)}\n" for i in range(400)]
    content = "".join(["label\ttext_a\n", *lines]).encode()
    tokens = read_vocabulary(learned_vocabulary(config(content, eval_fraction=0.5)))
    learned = {token for token in tokens if "\u4e00" <= token <= "\u9fff"}
    assert 120 < len(learned) < 280


def test_rows_that_all_do_not_fit_are_told_by_the_first(config, tmp_path):
    content = b"label\ttext_a\nfine\ta room\nfine\ta meal\n"
    with pytest.raises(InputError) as caught:
        learned_vocabulary(config(content))
    assert str(caught.value) == (
        "no row to learn from fits task own. The first:\n"
        f"  {tmp_path}/train.tsv, line 2, label: unknown label 'fine', known are 'bad', 'good'\n"
        "Mend the rows, or the task's labels and columns"
    )
    assert not list((tmp_path / "output").rglob("vocab*"))


def test_file_without_rows_is_named(config, tmp_path):
    with pytest.raises(InputError, match=rf"^{tmp_path}/train\.tsv: there is no row"):
        learned_vocabulary(config(b"label\ttext_a\n"))


def test_truncated_gzip_is_named(config, tmp_path):
    content = gzip.compress(rows(5000))
    with pytest.raises(InputError, match=rf"^{tmp_path}/train\.tsv\.gz: cannot be read: "):
        learned_vocabulary(config(content[:-2000], name="train.tsv.gz"))

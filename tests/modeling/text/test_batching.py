import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_tfx.modeling.text import batching


def make_rows(lengths, pair=False):
    lengths = np.asarray(lengths)
    tokens = np.arange(1, lengths.sum() + 1, dtype=np.int32)
    segments = (tokens % 2).astype(np.int32) if pair else None
    return batching.Rows(tokens, segments, lengths, np.zeros(len(lengths), np.int32))


def test_batch_pads_behind_the_tokens():
    rows = make_rows([2, 3, 1, 4], pair=True)
    batch = rows.batch(np.array([1, 2]))
    assert batch["token_ids"].tolist() == [[3, 4, 5, 0], [6, 0, 0, 0]]
    assert batch["padding_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert batch["segment_ids"].tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}


def test_batch_is_as_wide_as_its_longest_row_needs():
    rows = make_rows([5, 9, 100, 110])
    assert rows.batch(np.array([0]))["token_ids"].shape == (1, 8)
    assert rows.batch(np.array([0, 1]))["token_ids"].shape == (2, 16)
    assert rows.batch(np.array([2]))["token_ids"].shape == (1, 110)


def test_rows_without_segments_are_all_segment_0():
    assert not make_rows([2, 3]).batch(np.array([0, 1]))["segment_ids"].any()


@pytest.mark.parametrize(("longest", "width"), [(1, 8), (8, 8), (9, 16), (100, 112), (700, 700)])
def test_padded_width(longest, width):
    assert batching.padded_width(longest) == width


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 9))
def test_padding_is_the_share_of_places_without_a_token(lengths, batch_size):
    rows = make_rows(lengths)
    batches = batching.training_batches(rows.lengths, batch_size, seed=1, epoch=0)
    masks = [rows.batch(indices)["padding_mask"] for indices in batches]
    places = sum(mask.size for mask in masks)
    tokens = sum(int(mask.sum()) for mask in masks)
    assert rows.padding(batches) == pytest.approx(1 - tokens / places)


@given(
    st.lists(st.integers(2, 128), min_size=1, max_size=300), st.integers(1, 40), st.integers(0, 9)
)
def test_every_row_is_in_one_training_batch(lengths, batch_size, seed):
    batches = batching.training_batches(np.array(lengths), batch_size, seed=seed, epoch=0)
    assert len(batches) == -(-len(lengths) // batch_size)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert max(map(len, batches)) <= batch_size


def test_order_depends_on_seed_and_epoch_alone():
    lengths = np.random.default_rng(0).integers(2, 128, 500)

    def order(seed, epoch):
        batches = batching.training_batches(lengths, 16, seed=seed, epoch=epoch)
        return np.concatenate(batches).tolist()

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_batches_of_like_length_need_little_padding():
    lengths = np.random.default_rng(0).geometric(1 / 15, 5000).clip(2, 128)
    tokens = lengths.sum()
    grouped = sum(
        len(b) * batching.padded_width(lengths[b].max())
        for b in batching.training_batches(lengths, 32, seed=1, epoch=0)
    )
    assert tokens / grouped > 0.7
    assert tokens / (128 * len(lengths)) < 0.15


def test_evaluation_batches_hold_every_row_once():
    lengths = np.array([5, 3, 9, 4, 8])
    batches = batching.evaluation_batches(lengths, 2)
    assert [lengths[b].tolist() for b in batches] == [[3, 4], [5, 8], [9]]

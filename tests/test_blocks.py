"""Rows of a file: each once, beside its class, in blocks and in mixed buffers."""

import itertools
import math
import threading

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rezsl_sk import _blocks
from rezsl_sk._blocks import Rows, Sample, blocks, open_rows, read_ahead
from rezsl_sk._sampling import StreamSampler
from rezsl_sk.feature_cache import CacheError, FeatureCache

NUMBERS = itertools.count()


def readers():
    return [t for t in threading.enumerate() if t.name == "rezsl_sk-reader"]


def numbered(n, d=3):
    """Row i holds i: a row tells who it is."""
    return np.repeat(np.arange(n, dtype=np.float32)[:, None], d, axis=1)


def in_hdf5(X, chunk=None):
    """A data set in a file that lives in memory."""
    name = f"file {next(NUMBERS)}"
    file = h5py.File(name, "w", driver="core", backing_store=False)
    return file.create_dataset(
        "X", data=X, chunks=None if chunk is None else (min(chunk, len(X)), X.shape[1])
    )


@pytest.fixture
def streamed(monkeypatch):
    """No file is small enough for the memory."""
    monkeypatch.setattr(_blocks, "IN_MEMORY_BYTES", 0)


@st.composite
def files(draw):
    """Rows of some or all of a file, in whatever chunks, and which rows."""
    n = draw(st.integers(1, 60))
    X = Rows(in_hdf5(numbered(n), draw(st.none() | st.integers(1, 9))))
    if draw(st.booleans()):
        wanted = draw(st.sets(st.integers(0, n - 1), min_size=1))
        mask = np.isin(np.arange(n), list(wanted))
        return X[mask], np.flatnonzero(mask)
    return X, np.arange(n)


@settings(max_examples=60, deadline=None)
@given(files(), st.integers(1, 9), st.integers(1, 40), st.integers(1, 17), st.data())
def test_an_epoch_has_each_row_once_beside_its_class(file, run, buffer, size, data):
    X, expected = file
    group = torch.from_numpy(
        100 + expected
    )  # the class of row i: what stands beside it must fit
    sampler = StreamSampler(
        X,
        group,
        kind="shuffle",
        batch_size=size,
        ways=1,
        shots=1,
        generator=torch.Generator().manual_seed(data.draw(st.integers(0, 9))),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_blocks, "RUN_BYTES", run * 12)
        patch.setattr(_blocks, "BUFFER_BYTES", buffer * 12)
        batches = list(sampler.epoch("cpu"))
    x = torch.cat([x for x, _ in batches]).numpy()
    of_row = torch.cat([g for _, g in batches]).numpy()
    np.testing.assert_array_equal(np.sort(x[:, 0]), expected)
    np.testing.assert_array_equal(of_row, 100 + x[:, 2])
    assert len(batches) == sampler.n_batches == math.ceil(len(expected) / size)
    assert {len(g) for _, g in batches[:-1]} <= {size}
    assert not readers()


@settings(max_examples=60, deadline=None)
@given(files(), st.integers(1, 50), st.integers(1, 50))
def test_blocks_are_the_rows_in_order(file, n_rows, block):
    X, expected = file
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_blocks, "BLOCK_BYTES", block * 12)
        found = [(rows, x[:, 0]) for rows, x in blocks(X, n_rows)]
    assert [rows.start for rows, _ in found] == [
        0,
        *(rows.stop for rows, _ in found[:-1]),
    ]
    np.testing.assert_array_equal(np.concatenate([x for _, x in found]), expected)


def test_equal_seeds_give_equal_epochs():
    def epoch(seed):
        sampler = StreamSampler(
            Rows(in_hdf5(numbered(50), 4)),
            torch.arange(50),
            kind="shuffle",
            batch_size=7,
            ways=1,
            shots=1,
            generator=torch.Generator().manual_seed(seed),
        )
        return [torch.cat([g for _, g in sampler.epoch("cpu")]) for _ in range(2)]

    first, second = epoch(0)
    assert torch.equal(first, epoch(0)[0])
    assert torch.equal(second, epoch(0)[1])
    assert not torch.equal(first, second)
    assert not torch.equal(first, epoch(1)[0])


def test_batches_of_a_file_sorted_by_class_are_mixed(monkeypatch):
    """Nearly as many classes in a batch as if rows had been drawn one by one."""
    monkeypatch.setattr(_blocks, "RUN_BYTES", 8 * 12)
    monkeypatch.setattr(_blocks, "BUFFER_BYTES", 8192 * 12)
    group = torch.arange(32768) // 512  # 64 classes, one after the other
    sampler = StreamSampler(
        Rows(in_hdf5(numbered(32768), 8)),
        group,
        kind="shuffle",
        batch_size=64,
        ways=1,
        shots=1,
        generator=torch.Generator().manual_seed(0),
    )
    found = np.mean([len(g.unique()) for _, g in sampler.epoch("cpu")])
    drawn = np.random.default_rng(0).permutation(group.numpy()).reshape(-1, 64)
    assert found > 0.95 * np.mean([len(np.unique(g)) for g in drawn])


def test_large_chunks_are_split_so_that_buffers_are_mixtures(monkeypatch):
    """One chunk holds the whole file; each buffer still comes from all over it."""
    monkeypatch.setattr(_blocks, "RUN_BYTES", 12)
    monkeypatch.setattr(_blocks, "BUFFER_BYTES", 640 * 12)
    order = np.random.default_rng(0).permutation
    buffers = list(Rows(in_hdf5(numbered(6400), 6400)).shuffled(order))
    assert len(buffers) == 10
    for numbers, _ in buffers:
        assert len(np.unique(numbers // 640)) == 10


def test_episodes_have_shots_of_each_way(monkeypatch):
    monkeypatch.setattr(_blocks, "RUN_BYTES", 5 * 12)
    monkeypatch.setattr(_blocks, "BUFFER_BYTES", 100 * 12)
    group = torch.arange(200) // 10
    sampler = StreamSampler(
        Rows(in_hdf5(numbered(200), 5)),
        group,
        kind="episodes",
        batch_size=None,
        ways=4,
        shots=3,
        generator=torch.Generator().manual_seed(0),
    )
    batches = list(sampler.epoch("cpu"))
    assert len(batches) == sampler.n_batches == 17
    for x, of_row in batches:
        assert of_row.unique(return_counts=True)[1].tolist() == [3, 3, 3, 3]
        np.testing.assert_array_equal(x[:, 0].numpy() // 10, of_row)


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [
        (np.float16, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.int16, np.float32),
    ],
)
def test_working_precision(streamed, stored, dtype):
    X = numbered(9).astype(stored)
    rows = open_rows(in_hdf5(X, 2))
    ((_, block),) = blocks(rows, 100)
    assert rows.dtype == block.dtype == dtype
    np.testing.assert_array_equal(block, X)


@pytest.mark.parametrize("what", ["cache", "lazy", "dataset", "memmap"])
def test_files_above_the_limit_stay_on_the_disk(tmp_path, monkeypatch, what):
    X = numbered(20)
    cache = FeatureCache.from_arrays(tmp_path / "toy.h5", X)
    mapped = np.memmap(tmp_path / "toy.dat", np.float32, "w+", shape=X.shape)
    mapped[:] = X
    file = {
        "cache": cache,
        "lazy": cache.X,
        "dataset": cache._dataset("features"),
        "memmap": mapped,
    }[what]
    monkeypatch.setattr(_blocks, "IN_MEMORY_BYTES", X.nbytes)
    assert isinstance(open_rows(file), np.ndarray)
    np.testing.assert_array_equal(open_rows(file), X)
    monkeypatch.setattr(_blocks, "IN_MEMORY_BYTES", X.nbytes - 1)
    rows = open_rows(file)
    assert isinstance(rows, Rows)
    np.testing.assert_array_equal(np.concatenate([b for _, b in blocks(rows, 7)]), X)
    assert isinstance(open_rows(file, stream=False), np.ndarray)
    cache.close()


def test_arrays_and_lists_come_back_as_they_are():
    for X in [[[1.0]], numbered(3)]:
        assert open_rows(X) is X


@pytest.mark.parametrize("subset", [False, True])
def test_missing_values_are_named_by_their_row_in_the_file(subset):
    X = numbered(50)
    X[17, 1], X[41, 0] = np.nan, np.inf
    rows = Rows(in_hdf5(X, 4))
    if subset:
        rows = rows[np.arange(50) % 2 == 1]
    with pytest.raises(ValueError, match=r"missing or infinite values in rows \[17\]"):
        list(blocks(rows, 10))
    with pytest.raises(ValueError, match=r"rows \[(17|41)"):
        list(rows.shuffled(np.arange))
    assert not readers()


def test_what_cannot_be_read_is_said(streamed, tmp_path):
    data = in_hdf5(numbered(9), 2)
    rows = open_rows(data)
    data.file.close()
    with pytest.raises(CacheError, match=r"rows 0 to 8 of X cannot be read: .* closed"):
        list(blocks(rows, 100))
    with pytest.raises(ValueError, match="the HDF5 file of X is closed; open it again"):
        open_rows(data)
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4\)"):
        open_rows(in_hdf5(np.zeros((2, 3, 4))))
    with pytest.raises(ValueError, match="the type complex64"):
        open_rows(in_hdf5(np.zeros((2, 3), np.complex64)))
    path = tmp_path / "cut.dat"
    X = np.memmap(path, np.float32, "w+", shape=(100, 100))
    with open(path, "r+b") as file:
        file.truncate(20_000)
    with pytest.raises(ValueError, match="maps 40000 bytes of .* which has 20000"):
        open_rows(X)


def test_rows_must_be_asked_for_in_order():
    with pytest.raises(ValueError, match="increasing order"):
        Rows(in_hdf5(numbered(9)))[[3, 1]]


def test_transforms_are_applied_to_what_is_read():
    rows = Rows(in_hdf5(numbered(9), 2))[[1, 4, 5]].mapped(lambda x: x * 2)
    (_, found) = next(iter(rows.shuffled(np.arange)))
    np.testing.assert_array_equal(found[:, 0], [2, 8, 10])
    wide = rows.mapped(lambda x: np.hstack([x, x]), width=6)
    assert wide.shape == (3, 6)
    ((_, found),) = blocks(wide, 100)
    np.testing.assert_array_equal(found[:, 5], [2, 8, 10])


def test_a_sample_keeps_rows_as_they_pass():
    rows = Rows(in_hdf5(numbered(30), 4))
    sample = Sample(np.array([0, 7, 8, 29]), rows)
    for part, block in blocks(rows, 8):
        sample.take(part, block)
    np.testing.assert_array_equal(sample.rows[:, 1], [0, 7, 8, 29])


def test_tasks_are_done_in_order_one_ahead_and_one_at_a_time():
    log, busy = [], []

    def task(number):
        def work():
            busy.append(number)
            log.append(("start", number))
            assert len(busy) == 1
            busy.remove(number)
            return number

        return work

    ahead = read_ahead(task(i) for i in range(4))
    assert next(ahead) == 0
    while readers():  # the next one is worked on, though nobody asked yet
        readers()[0].join()
    assert log == [("start", 0), ("start", 1)]
    assert list(ahead) == [1, 2, 3]


def test_an_error_in_the_thread_is_raised_where_the_result_is_asked_for():
    def broken():
        raise OSError("gone")

    ahead = read_ahead([lambda: 1, broken, lambda: 3])
    assert next(ahead) == 1
    with pytest.raises(OSError, match="gone"):
        next(ahead)
    assert not readers()


@pytest.mark.parametrize("how", ["close", "error"])
def test_who_stops_asking_leaves_no_thread_behind(how):
    release = threading.Event()
    ahead = read_ahead([lambda: 1, release.wait, lambda: 3])
    next(ahead)
    assert len(readers()) == 1
    release.set()
    if how == "close":
        ahead.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            ahead.throw(KeyboardInterrupt)
    assert not readers()

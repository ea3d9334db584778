"""The feature cache: what goes in comes out, and nothing broken is ever read."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rezsl_sk.feature_cache import (
    SOURCE_DTYPE,
    CacheError,
    FeatureCache,
    WriterLock,
    inspect_cache,
    write_cache,
)

common = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
finite = st.floats(-60000, 60000, width=16)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "toy.h5"


@pytest.fixture
def toy(path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, 7)).astype(np.float32)
    y = rng.choice(["ant", "bee", "cat"], 1000)
    with FeatureCache.from_arrays(path, X, y) as cache:
        yield cache, X, y


@common
@given(data=st.data())
def test_round_trip(tmp_path, data):
    dtype = data.draw(st.sampled_from([np.float16, np.float32]))
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=3, max_side=5))
    X = data.draw(hnp.arrays(dtype, shape, elements=finite))
    n = len(X)
    classes = data.draw(st.lists(names, min_size=1, max_size=6, unique=True))
    y = data.draw(st.lists(st.sampled_from(classes), min_size=n, max_size=n))
    table = data.draw(
        hnp.arrays(np.float64, (len(classes), 3), elements=st.floats(-1e9, 1e9))
    )
    attribute_names = data.draw(
        st.lists(names.filter(str.strip), min_size=3, max_size=3, unique=True)
    )
    paths = data.draw(st.lists(names, min_size=n, max_size=n))
    rows = st.lists(st.integers(0, n - 1), max_size=4)
    splits = data.draw(
        st.dictionaries(st.sampled_from(["trainval", "test", "é è"]), rows)
    )
    metadata = data.draw(
        st.dictionaries(
            st.sampled_from(["backbone", "transform", "n", "ü"]),
            st.text() | st.integers() | st.none() | st.lists(st.text()),
        )
    )
    cache = FeatureCache.from_arrays(
        tmp_path / "toy.h5",
        X,
        y,
        class_attributes=(classes, table),
        attribute_names=attribute_names,
        paths=paths,
        splits=splits,
        metadata=metadata,
        overwrite=True,
    )
    with cache:
        cache.verify()
        assert cache.X.dtype == dtype and cache.X.shape == shape
        assert np.asarray(cache.X).tobytes() == X.tobytes()
        assert cache.y.tolist() == y
        assert cache.classes.tolist() == classes
        assert np.array_equal(cache.class_attributes, table)
        assert cache.attribute_names.tolist() == attribute_names
        assert cache.paths.tolist() == paths
        assert {k: v.tolist() for k, v in cache.splits.items()} == splits
        assert cache.metadata == metadata
        assert cache.failed == []


rows_of_1000 = st.one_of(
    st.slices(1000),
    st.integers(-1000, 999),
    st.lists(st.integers(-1000, 999), max_size=20),
    hnp.arrays(bool, 1000),
    st.just(Ellipsis),
)


@common
@given(rows=rows_of_1000, columns=st.none() | st.slices(7) | st.integers(-7, 6))
def test_indexing_is_numpys(toy, rows, columns):
    cache, X, _ = toy
    if isinstance(rows, list):
        rows = np.array(rows, dtype=int)
    key = rows if columns is None else (rows, columns)
    assert np.array_equal(cache.X[key], X[key])


def test_indexing_refuses_what_is_not_there(toy):
    cache, _, _ = toy
    for rows in (1000, -1001, [0, 1000]):
        with pytest.raises(IndexError, match="1000 rows"):
            cache.X[rows]
    with pytest.raises(IndexError, match="mask"):
        cache.X[np.ones(3, dtype=bool)]
    with pytest.raises(IndexError, match="integer"):
        cache.X[[0.5]]


def test_slices_read_no_more_than_they_need(tmp_path):
    """A tenth of the rows costs about a tenth of the file, not all of it."""
    X = np.zeros((20000, 256), dtype=np.float32)
    cache = FeatureCache.from_arrays(tmp_path / "big.h5", X)
    cache.close()

    def bytes_read():
        with open("/proc/self/io") as file:
            return int(file.readline().split()[1])

    with cache:
        assert cache.X.shape == X.shape
        before = bytes_read()
        assert cache.X[4000:6000].shape == (2000, 256)
        assert cache.X[np.arange(100, 200)].shape == (100, 256)
        assert bytes_read() - before < 0.15 * X.nbytes


def test_paths_that_are_not_utf8(path):
    """File names are bytes; os.fsdecode gives text that no plain encoder takes."""
    name = os.fsdecode(b"caf\xe9.jpg")
    with FeatureCache.from_arrays(
        path, np.eye(1), paths=[name], metadata={"folder": name}
    ) as cache:
        assert cache.paths.tolist() == [name]
        assert cache.metadata == {"folder": name}
        cache.verify()


def test_big_metadata(path):
    """HDF5 keeps small attributes in a 64 KB header; ours may be larger."""
    metadata = {"text": "x" * 200_000, "list": list(range(50_000))}
    with FeatureCache.from_arrays(path, np.eye(1), metadata=metadata) as cache:
        assert cache.metadata == metadata


def test_without_labels(path):
    with FeatureCache.from_arrays(path, np.eye(2)) as cache:
        assert cache.y is None and cache.labels is None and cache.classes is None
        assert cache.class_attributes is None and cache.attribute_names is None
        assert cache.paths.tolist() == ["row 0", "row 1"]
        cache.verify()


def test_dataframe_and_integer_labels(path):
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame([[1, 0], [0, 1]], index=[10, 9], columns=["big", "wet"])
    with FeatureCache.from_arrays(
        path, np.eye(2), [9, 9], class_attributes=table
    ) as cache:
        assert cache.classes.tolist() == ["10", "9"]
        assert cache.labels.tolist() == [1, 1]
        assert cache.attribute_names.tolist() == ["big", "wet"]
        assert "2 classes, 2 attributes" in repr(cache)


def test_other_number_types_become_float32(path):
    for X in (np.eye(2), np.eye(2, dtype=np.uint8), np.eye(2, dtype=bool).tolist()):
        cache = FeatureCache.from_arrays(path, X, overwrite=True)
        assert cache.X.dtype == np.float32
        assert np.array_equal(cache.X, np.eye(2))
        cache.close()
    X = np.asfortranarray(np.arange(12.0).reshape(3, 4))[::-1]
    with FeatureCache.from_arrays(path, X, overwrite=True) as cache:
        assert np.array_equal(cache.X, X)
        cache.verify()


@pytest.mark.parametrize(
    ("X", "kwargs", "match"),
    [
        ([[np.nan]], {}, "Row 0 of X is not finite"),
        ([[0.0], [np.inf]], {}, "Row 1 of X is not finite"),
        ([[1e300]], {}, "beyond the range of float32"),
        ([["a"]], {}, "features are numbers"),
        ([1.0], {}, "has the shape"),
        (np.zeros((0, 2)), {}, "has the shape"),
        (np.eye(2), {"y": ["a"]}, "1 entries for 2 rows"),
        (np.eye(2), {"y": ["a", None]}, "None"),
        (np.eye(2), {"y": [0.5, 1.0]}, "text or integers"),
        (np.eye(2), {"y": ["a", "b\0c"]}, "NUL"),
        (np.eye(2), {"y": ["a", "b\ud800"]}, "no valid Unicode"),
        (np.eye(2), {"paths": ["a"]}, "alike were announced"),
        (np.eye(2), {"splits": {"test": [2]}}, "numbered from 0"),
        (np.eye(2), {"splits": {"a/b": [1]}}, "name of a split"),
        (np.eye(2), {"splits": {"a": [0.5]}}, "list of row numbers"),
        (np.eye(2), {"metadata": {"complete": 1}}, "key of metadata"),
        (np.eye(2), {"metadata": {"a": object()}}, "as JSON"),
        (np.eye(2), {"attribute_names": ["a"]}, "without class_attributes"),
    ],
)
def test_bad_input(path, X, kwargs, match):
    with pytest.raises(ValueError, match=match):
        FeatureCache.from_arrays(path, X, **kwargs)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ((["a"], [[1.0]]), "'b'"),
        ((["a", "b", "a"], np.eye(3)), "more than once: .'a'"),
        ((["a", "b"], np.eye(3)), "a name for each of its 3 classes, got 2"),
        ((["a", "b"], [[1.0], [np.nan]]), "'b' are not finite"),
        ((["a", "b"], [["x"], ["y"]]), "must hold real numbers"),
        ("table.csv", "must be a DataFrame indexed by class"),
    ],
)
def test_bad_tables(path, table, match):
    with pytest.raises(ValueError, match=match):
        FeatureCache.from_arrays(path, np.eye(2), ["a", "b"], class_attributes=table)
    assert list(path.parent.iterdir()) == []


def test_a_block_of_another_width_is_refused(path):
    blocks = [np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float32)]
    with pytest.raises(ValueError, match="announced"):
        write_cache(path, blocks, paths=["a", "b"])
    with pytest.raises(ValueError, match="2 rows were announced and 1 given"):
        write_cache(path, blocks[:1], paths=["a", "b"])
    assert list(path.parent.iterdir()) == []


def test_existing_files_are_not_overwritten(path):
    FeatureCache.from_arrays(path, np.eye(2)).close()
    with pytest.raises(FileExistsError, match="exists"):
        FeatureCache.from_arrays(path, np.eye(3))
    with FeatureCache(path) as cache:
        assert cache.X.shape == (2, 2)
        # A reader keeps what it has open while the file is replaced.
        FeatureCache.from_arrays(path, np.eye(3), overwrite=True).close()
        assert cache.X[:].shape == (2, 2)


def test_truncated_at_any_length(tmp_path, path):
    """Of its seal alone a file may lose something: then all hashes are compared."""
    with FeatureCache.from_arrays(path, np.eye(50), ["a"] * 50):
        whole = path.read_bytes()
    with h5py.File(path, "r+"):
        pass  # cuts the seal off
    end = path.stat().st_size
    assert end < len(whole)
    broken = tmp_path / "broken.h5"
    for length in range(0, end, 1499):
        broken.write_bytes(whole[:length])
        with pytest.raises(CacheError, match="broken.h5"):
            FeatureCache(broken)
    for length in range(end, len(whole), 50):
        broken.write_bytes(whole[:length])
        with FeatureCache(broken) as cache:
            assert np.array_equal(cache.X, np.eye(50))


def test_flipped_bits_are_found(tmp_path, path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 64)).astype(np.float32)
    FeatureCache.from_arrays(path, X, ["a"] * 400).close()
    whole = path.read_bytes()
    broken = tmp_path / "broken.h5"
    start = whole.index(X.tobytes())
    for at in rng.integers(start, start + X.nbytes, 10):
        damaged = bytearray(whole)
        damaged[at] ^= 4
        broken.write_bytes(damaged)
        with FeatureCache(broken) as cache:
            with pytest.raises(CacheError, match="`features`"):
                cache.verify()


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda f: f.attrs.__setitem__("schema_version", 99), "schema version 99"),
        (lambda f: f.attrs.__setitem__("format", "mine"), "no feature cache"),
        (lambda f: f.attrs.__setitem__("complete", False), "never completed"),
        (lambda f: f.attrs.__delitem__("complete"), "never completed"),
        (lambda f: f.__delitem__("path"), "`path` is missing"),
        (lambda f: f.__delitem__("features"), "`features` is missing"),
    ],
)
def test_other_hdf5_files(path, damage, match):
    FeatureCache.from_arrays(path, np.eye(2), ["a", "b"]).close()
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(CacheError, match=match) as caught:
        FeatureCache(path)
    assert str(path) in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no feature cache"):
        FeatureCache(tmp_path / "none.h5")
    with pytest.raises(CacheError, match="Create the folder"):
        FeatureCache.from_arrays(tmp_path / "none" / "toy.h5", np.eye(2))


def test_pickle_holds_the_path_alone(toy):
    cache, X, _ = toy
    for copied in (
        pickle.loads(pickle.dumps(cache)).X,
        pickle.loads(_pickled_X(cache)),
    ):
        assert np.array_equal(copied, X)
        copied._cache.close()
    assert len(_pickled_X(cache)) < 1000


def _pickled_X(cache):
    return pickle.dumps(cache.X)


def test_lazy_features_in_a_search(toy):
    """Over worker processes: each opens the file for itself."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV

    cache, X, _ = toy
    target = X @ np.arange(7.0)
    search = GridSearchCV(Ridge(), {"alpha": [1e-3, 1e3]}, cv=2, n_jobs=2)
    assert search.fit(cache.X, target).best_params_ == {"alpha": 1e-3}
    assert search.predict(cache.X) == pytest.approx(target, rel=1e-2, abs=1e-2)


def test_a_forked_child_reads_for_itself(toy):
    cache, X, _ = toy
    pid = os.fork()
    if pid == 0:
        os._exit(0 if np.array_equal(cache.X[5:9], X[5:9]) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert np.array_equal(cache.X, X)


def _child(code, path, **kwargs):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def test_lock_names_its_holder_and_dies_with_it(path):
    holder = _child(
        """
        import sys
        from rezsl_sk.feature_cache import WriterLock
        with WriterLock(sys.argv[1]):
            print("held", flush=True)
            sys.stdin.read()
        """,
        path,
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(CacheError, match=rf"pid {holder.pid} on .* since 20"):
        FeatureCache.from_arrays(path, np.eye(2))
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert path.with_name("toy.h5.lock").exists()
    FeatureCache.from_arrays(path, np.eye(2)).close()
    assert [p.name for p in path.parent.iterdir()] == ["toy.h5"]


def test_forked_children_do_not_hold_the_lock(path):
    """They outlive a killed parent, as the workers of a DataLoader do for seconds."""
    holder = _child(
        """
        import os, sys, time
        from rezsl_sk.feature_cache import WriterLock
        with WriterLock(sys.argv[1]):
            worker = os.fork()
            if worker == 0:
                sys.stdout.close()
                time.sleep(60)
            print(worker, flush=True)
            sys.stdin.read()
        """,
        path,
    )
    worker = int(holder.stdout.readline())
    try:
        with pytest.raises(CacheError, match=f"pid {holder.pid} "):
            WriterLock(path).__enter__()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        os.kill(worker, 0)  # still there
        FeatureCache.from_arrays(path, np.eye(2)).close()
    finally:
        os.kill(worker, signal.SIGKILL)
        holder.stdout.close()
        holder.stdin.close()
        holder.stderr.close()


def test_a_forked_child_does_not_release_the_lock(path):
    with WriterLock(path) as lock:
        child = os.fork()
        if child == 0:
            lock.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(CacheError, match=f"pid {os.getpid()} "):
            WriterLock(path).__enter__()
    assert not path.with_name("toy.h5.lock").exists()


def test_many_writers_exclude_each_other(path):
    """Taken and released in a hurry by several processes, never held by two."""
    code = """
        import os, sys
        from rezsl_sk.feature_cache import CacheError, WriterLock
        inside = sys.argv[1] + ".inside"
        done = 0
        while done < 200:
            try:
                with WriterLock(sys.argv[1]):
                    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                    os.unlink(inside)
                    done += 1
            except CacheError:
                pass
    """
    children = [_child(code, path) for _ in range(3)]
    for child in children:
        assert child.communicate(timeout=60)[1] == ""
        assert child.returncode == 0


def test_killed_while_writing(path):
    """SIGKILL in the middle of the rows: the old cache stands, a rerun succeeds."""
    FeatureCache.from_arrays(path, np.eye(2)).close()
    child = _child(
        """
        import os, signal, sys
        import numpy as np
        from rezsl_sk.feature_cache import WriterLock, write_cache
        def blocks():
            yield np.ones((10, 3), np.float32)
            os.kill(os.getpid(), signal.SIGKILL)
        with WriterLock(sys.argv[1]):
            write_cache(sys.argv[1], blocks(), paths=["a"] * 20, overwrite=True)
        """,
        path,
    )
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    with FeatureCache(path) as cache:
        assert cache.X.shape == (2, 2)
        cache.verify()
    with FeatureCache.from_arrays(path, np.eye(3), overwrite=True) as cache:
        assert cache.X.shape == (3, 3)
    assert [p.name for p in path.parent.iterdir()] == ["toy.h5"]


def test_disk_too_small(path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(CacheError, match="has 1.0 kB left"):
        FeatureCache.from_arrays(path, np.zeros((1000, 1000)))
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("limit", [0, 500, 3000, 1_000_000, 3_999_999, 4_010_000])
def test_write_that_fails_halfway(path, limit):
    """The kernel refuses to let the file grow, as a full disk or a quota does."""
    child = _child(
        f"""
        import resource, sys
        import numpy as np
        from rezsl_sk.feature_cache import CacheError, FeatureCache
        # After the imports: joblib complains if it cannot write while it is imported.
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try:
            FeatureCache.from_arrays(sys.argv[1], np.ones((1000, 1000)))
        except CacheError as error:
            print(error)
        """,
        path,
    )
    out, err = child.communicate()
    assert "could not be written: File too large. Make room" in out
    # HDF5 left to itself crashes at exit, and complains on the way there.
    assert (child.returncode, err) == (0, "")
    assert list(path.parent.iterdir()) == []


def test_from_xlsa17(xlsa17, path):
    with FeatureCache.from_xlsa17(path, xlsa17, "SNU", features="vggish") as cache:
        assert cache.X.shape == (8450, 128)
        splits = cache.splits
        assert not set(splits["test_unseen"]) & set(splits["trainval"])
        unseen = set(cache.y[splits["test_unseen"]])
        assert len(unseen) == 34 and not unseen & set(cache.y[splits["trainval"]])
        cache.verify()


def test_from_xlsa17_without_features(xlsa17, path):
    with pytest.raises(ValueError, match="no features"):
        FeatureCache.from_xlsa17(path, xlsa17, "CUB")


def test_lock_is_a_context_of_its_own(path):
    with WriterLock(path), pytest.raises(CacheError, match=f"pid {os.getpid()} "):
        FeatureCache.from_arrays(path, np.eye(2))
    FeatureCache.from_arrays(path, np.eye(2)).close()


def test_sources_of_rows(path):
    sources = np.zeros(2, SOURCE_DTYPE)
    sources["size"], sources["mtime_ns"], sources["sha256"][1, 3] = 7, [2**60, 1], 255
    block = np.ones((2, 3), np.float32)
    write_cache(path, [block], paths=["a", "b"], sources=sources)
    with FeatureCache(path) as cache:
        cache.verify()
        assert np.array_equal(cache.sources, sources)
    with pytest.raises(ValueError, match=r"shape \(1,\) for 2 rows"):
        write_cache(
            path, [block], paths=["a", "b"], sources=sources[:1], overwrite=True
        )
    FeatureCache.from_arrays(path, block, overwrite=True).close()
    assert FeatureCache(path).sources is None


def test_missing_values_of_a_table_are_stored_where_allowed(tmp_path):
    table = np.array([[1.0, np.nan], [np.nan, 2.0]])
    arguments = (tmp_path / "x.h5", np.eye(2), ["a", "b"])
    with pytest.raises(ValueError, match=r"'a' are not finite: nan in column 2.*allow"):
        FeatureCache.from_arrays(*arguments, class_attributes=(["a", "b"], table))
    options = {"class_attributes": (["a", "b"], table), "allow_missing": True}
    with FeatureCache.from_arrays(*arguments, **options) as cache:
        np.testing.assert_array_equal(cache.class_attributes, table)
        cache.verify()
    assert inspect_cache(tmp_path / "x.h5")["missing_attributes"] == 2
    table[0, 1] = -np.inf
    with pytest.raises(
        ValueError, match="-inf for attribute 1 of class 'a' is the first of 1"
    ):
        FeatureCache.from_arrays(*arguments, **options, overwrite=True)


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["furry", "furry"], r"names these attributes more than once: \['furry'\]"),
        (["furry", " "], r"attributes without a name, in columns \[1\]"),
    ],
)
def test_attributes_need_a_name_each(tmp_path, names, match):
    pandas = pytest.importorskip("pandas")
    arguments = (tmp_path / "x.h5", np.eye(2), ["a", "b"])
    table = (["a", "b"], np.eye(2))
    with pytest.raises(ValueError, match=match):
        FeatureCache.from_arrays(
            *arguments, class_attributes=table, attribute_names=names
        )
    frame = pandas.DataFrame(table[1], index=table[0], columns=names)
    with pytest.raises(ValueError, match=match):
        FeatureCache.from_arrays(*arguments, class_attributes=frame)

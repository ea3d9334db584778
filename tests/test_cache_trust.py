"""The cache and files that are damaged, changed, or written by a stranger."""

import json
import os
import pickle
import subprocess
import sys
import warnings

import h5py
import numpy as np
import pytest
from sklearn.base import clone

from rezsl_sk import (
    AttentionRegressor,
    ReZSLRegressor,
    ReZSLSearchCV,
    ZeroShotClassifier,
    feature_cache,
)
from rezsl_sk._storage import child, seal
from rezsl_sk.baselines import ESZSL
from rezsl_sk.feature_cache import (
    CacheError,
    FeatureCache,
    inspect_cache,
    verify_cache,
)
from rezsl_sk.streaming import predict_to_hdf5

N, D = 60, 8
NAMES = ["ant", "bee", "cat", "dog"]


def arrays():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, D)).astype(np.float32)
    return X, np.arange(N) % 3, rng.normal(size=(4, 3))


def write(path):
    X, labels, table = arrays()
    FeatureCache.from_arrays(
        path,
        X,
        [NAMES[i] for i in labels],
        class_attributes=(NAMES, table),
        attribute_names=["big", "wet", "old"],
        splits={"trainval": np.arange(40), "test_unseen": np.arange(40, N)},
        metadata={"backbone": "resnet50", "mean": [0.5]},
    ).close()


def write_old(path):
    """As the first version of the format was written."""
    import hashlib

    X, labels, table = arrays()
    with h5py.File(path, "w") as file:

        def put(name, values):
            data = file.create_dataset(name, data=values)
            data.attrs["sha256"] = hashlib.sha256(values.tobytes()).hexdigest()

        def put_text(name, values):
            data = file.create_dataset(name, data=values, dtype=h5py.string_dtype())
            text = b"".join(value.encode() + b"\0" for value in values)
            data.attrs["sha256"] = hashlib.sha256(text).hexdigest()

        put("features", X)
        put_text("path", [f"row {i}" for i in range(N)])
        put("label", labels)
        put_text("class_name", NAMES)
        put("class_attributes", table)
        put_text("attribute_name", ["big", "wet", "old"])
        put_text("failed/path", [])
        put_text("failed/reason", [])
        put("splits/trainval", np.arange(40))
        put("splits/test_unseen", np.arange(40, N))
        file.attrs["format"] = "rezsl_sk feature cache"
        file.attrs["schema_version"] = 1
        file.attrs["json_keys"] = '["mean"]'
        file.attrs["backbone"] = "resnet50"
        file.attrs["mean"] = "[0.5]"
        file.attrs["complete"] = True


@pytest.fixture(params=[write, write_old], ids=["new", "old"])
def path(request, tmp_path):
    request.param(tmp_path / "toy.h5")
    return tmp_path / "toy.h5"


@pytest.fixture
def new(tmp_path):
    write(tmp_path / "toy.h5")
    return tmp_path / "toy.h5"


@pytest.fixture
def old(tmp_path):
    write_old(tmp_path / "toy.h5")
    return tmp_path / "toy.h5"


# -- files of strangers -------------------------------------------------------------


def like(data):
    """Shape and type of a data set, where external values can have that type."""
    text = h5py.check_string_dtype(data.dtype) is not None
    return data.shape, "S8" if text else data.dtype


def external_storage(file, name, secret):
    shape, dtype = like(file[name])
    del file[name]
    file.create_dataset(name, shape, dtype, external=str(secret))


def external_link(file, name, secret):
    del file[name]
    file[name] = h5py.ExternalLink(str(secret), "/features")


def soft_link(file, name, secret):
    del file[name]
    file[name] = h5py.SoftLink("/other")


def virtual(file, name, secret):
    shape, dtype = like(file[name])
    del file[name]
    layout = h5py.VirtualLayout(shape, dtype)
    layout[...] = h5py.VirtualSource(str(secret), "features", shape)
    file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize("name", ["features", "path", "label", "splits/trainval"])
@pytest.mark.parametrize("lead", [external_storage, external_link, soft_link, virtual])
def test_only_data_in_the_file_itself_is_read(path, tmp_path, lead, name):
    write(tmp_path / "secret.h5")
    with h5py.File(path, "r+") as file:
        lead(file, name, tmp_path / "secret.h5")
    with pytest.raises(CacheError, match=f"refused: .*{name.split('/')[-1]}"):
        FeatureCache(path)


@pytest.mark.parametrize("look", [inspect_cache, verify_cache])
def test_inspect_and_verify_follow_no_link(new, tmp_path, look):
    with h5py.File(new, "r+") as file:
        external_storage(file, "label", tmp_path / "secret")
    with pytest.raises(CacheError, match="refused: .* lie in other files"):
        look(new)


def test_a_link_to_a_group_is_not_followed(path):
    with h5py.File(path, "r+") as file:
        del file["failed"]
        file["failed"] = h5py.SoftLink("/splits")
    with pytest.raises(CacheError, match="'failed' is a link"):
        FeatureCache(path)


def test_what_no_cache_has_is_refused(path):
    with h5py.File(path, "r+") as file:
        file["splits/self"] = file["splits"]
    with pytest.raises(CacheError, match="'self' as a group"):
        FeatureCache(path)


def filtered(path, **kwargs):
    """Store the features of an old file anew."""
    with h5py.File(path, "r+") as file:
        X, attributes = file["features"][...], dict(file["features"].attrs)
        del file["features"]
        data = file.create_dataset("features", data=X, chunks=(7, D), **kwargs)
        data.attrs.update(attributes)
    return X


@pytest.mark.parametrize(
    "kwargs",
    [
        {"compression": "gzip", "shuffle": True},
        {"compression": "lzf"},
        {"fletcher32": True},
    ],
    ids=str,
)
def test_usual_filters_are_read(path, kwargs):
    X = filtered(path, **kwargs)
    with FeatureCache(path) as cache, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert np.array_equal(cache.X, X)
        cache.verify()


def test_other_filters_are_refused(path):
    filtered(path, scaleoffset=3)
    with pytest.raises(CacheError, match="`features` is stored by the filter 6"):
        FeatureCache(path)


@pytest.mark.parametrize("how", [None, "gzip"])
def test_sizes_are_those_of_the_file(path, how):
    """A file of some kB that claims gigabytes takes no memory."""
    kind = {"dtype": "f4", "compression": how}
    with h5py.File(path, "r+") as file:
        del file["features"]
        data = file.create_dataset("features", (10**8, D), chunks=(1000, D), **kind)
        data[0, 0] = 1.0
    with pytest.raises(CacheError, match=r"claims the shape \(100000000, 8\)"):
        FeatureCache(path)
    with h5py.File(path, "r+") as file:
        del file["features"]
        data = file.create_dataset("features", (N, D), chunks=(20, D), **kind)
        data[:20] = 1.0  # the other chunks would be read as zeros
    words = "SHA-256 of `features`" if how else "`features` claims"
    with pytest.raises(CacheError, match=words):
        FeatureCache(path)


def test_attributes_are_texts_and_numbers(path):
    with h5py.File(path, "r+") as file:
        reference = file["features"].ref
    for value in (reference, [1, 2]):
        with h5py.File(path, "r+") as file:
            file.attrs["where"] = value
        with pytest.raises(CacheError, match="'where' that is no single text or numb"):
            FeatureCache(path)


# -- changes ------------------------------------------------------------------------


def set_with_hash(name, change):
    """Change values and the hash beside them, as somebody would who knows it."""

    def apply(file):
        import hashlib

        values = change(file[name][...])
        file[name][...] = values
        file[name].attrs["sha256"] = hashlib.sha256(values.tobytes()).hexdigest()

    return apply


CHANGES = {
    "label": lambda f: f["label"].__setitem__(0, 1),
    "label and hash": set_with_hash("label", lambda y: y[::-1].copy()),
    "table": set_with_hash("class_attributes", lambda table: table + 1),
    "splits": set_with_hash("splits/trainval", lambda rows: rows + 1),
    "splits exchanged": lambda f: (
        f.move("splits/trainval", "x"),
        f.move("splits/test_unseen", "splits/trainval"),
        f.move("x", "splits/test_unseen"),
    ),
    "no split": lambda f: f.__delitem__("splits/trainval"),
    "no labels": lambda f: f.__delitem__("label"),
    "no table": lambda f: f.__delitem__("class_attributes"),
    "backbone": lambda f: f.attrs.__setitem__("backbone", "vit"),
    "no backbone": lambda f: f.attrs.__delitem__("backbone"),
    "more metadata": lambda f: f.attrs.__setitem__("more", 1),
    "no manifest": lambda f: f.attrs.__delitem__("manifest_sha256"),
    "another name": lambda f: f["class_name"].__setitem__(0, "ape"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_is_noticed(new, change):
    with h5py.File(new, "r+") as file:
        change(file)
    with pytest.raises(CacheError, match="is damaged: "):
        FeatureCache(new)


def test_changed_features_are_noticed(new):
    """Written through HDF5, with new checksums."""
    with h5py.File(new, "r+") as file:
        file["features"][0, 0] += 1
    for look in (FeatureCache, inspect_cache, verify_cache):
        with pytest.raises(CacheError, match="SHA-256 of `features`"):
            look(new)


@pytest.mark.parametrize("name", ["features", "label", "class_attributes"])
def test_changed_values_of_old_files_are_noticed(old, name):
    """These have no checksums, so that all is read when they are opened."""
    with h5py.File(old, "r+") as file:
        file[name][0] += 1
    with pytest.raises(CacheError, match=f"SHA-256 of `{name}`"):
        FeatureCache(old)


def test_written_anew_by_another_program(new, tmp_path):
    """As h5repack does: other bytes, the same data sets and attributes."""
    copy = tmp_path / "copy.h5"
    with h5py.File(new) as source, h5py.File(copy, "w") as target:
        for name in source:
            source.copy(name, target)
        for key, value in source.attrs.items():
            target.attrs[key] = value
    with FeatureCache(copy) as cache:
        cache.verify()
        assert cache.y[0] == "ant"


def test_old_files_open_and_say_what_cannot_be_checked(old):
    X, labels, table = arrays()
    with FeatureCache(old) as cache:
        assert np.array_equal(cache.X, X)
        assert np.array_equal(cache.labels, labels)
        assert np.array_equal(cache.class_attributes, table)
        assert cache.metadata == {"backbone": "resnet50", "mean": [0.5]}
        assert list(cache.splits) == ["test_unseen", "trainval"]
        with pytest.warns(UserWarning, match="earlier version .* cannot be noticed"):
            cache.verify()
    with pytest.warns(UserWarning, match="earlier version"):
        verify_cache(old)


@pytest.mark.parametrize("number", [-1, 4])
def test_labels_are_classes(old, number):
    with h5py.File(old, "r+") as file:
        file["label"][5] = number
    with pytest.raises(CacheError, match="`label` runs from .* there are 4 classes"):
        FeatureCache(old)


def test_splits_are_rows(old):
    with h5py.File(old, "r+") as file:
        file["splits/trainval"][0] = N
    with pytest.raises(CacheError, match="`splits/trainval` runs .* are 60 rows"):
        FeatureCache(old)


@pytest.mark.parametrize(
    ("name", "values", "match"),
    [
        ("label", np.zeros(3, np.int64), "differ in length"),
        ("label", np.zeros(N, np.float64), "has the shape .* float64"),
        ("features", np.zeros((N, D), np.float64), "has the shape .* float64"),
        ("features", np.zeros(N, np.float32), "has the shape"),
        ("class_attributes", np.zeros((3, 3)), "differ in number"),
        ("class_name", np.arange(4), "has the shape .* int64"),
    ],
)
def test_parts_that_do_not_fit(old, name, values, match):
    with h5py.File(old, "r+") as file:
        del file[name]
        file[name] = values
    with pytest.raises(CacheError, match=match):
        FeatureCache(old)


# -- damage -------------------------------------------------------------------------


@pytest.mark.parametrize("spans", [[[-5, 1]], [[0, 10**9]], [[5, 1], [2, 1]], {}, 7])
def test_a_seal_with_impossible_spans(new, spans):
    content, text = new.read_bytes(), json.dumps(spans).encode()
    tail = bytes(32) + len(text).to_bytes(8, "little") + seal.MARK
    new.write_bytes(content + text + tail)
    for look in (FeatureCache, inspect_cache, verify_cache):
        with pytest.raises(CacheError, match="its bytes are not those"):
            look(new)


def test_everything_has_a_checksum_in_hdf5(new):
    with h5py.File(new) as file:
        for name in ("features", "label", "class_attributes", "splits/trainval"):
            assert file[name].fletcher32


def test_fit_and_predict_end_in_a_sentence(new, tmp_path):
    X, labels, table = arrays()
    reg = ReZSLRegressor((), max_iter=1, random_state=0).fit(X, table[labels])
    whole = new.read_bytes()
    damaged = bytearray(whole)
    damaged[whole.index(X.tobytes()) + 100] ^= 1
    new.write_bytes(damaged)
    with FeatureCache(new) as cache:
        for use in (
            lambda: cache.X[:],
            lambda: cache.X[3],
            lambda: cache.X[[5, 1]],
            lambda: np.asarray(cache.X),
            lambda: reg.predict(cache),
            lambda: ReZSLRegressor().fit(cache, table[labels]),
        ):
            with pytest.raises(CacheError, match="damaged: `features` cannot be read"):
                use()


def look_at(path, wanted):
    """Open a damaged file in every way; the sentences, or "" where all is right."""
    X, S = wanted
    said = []

    def right(look):
        try:
            look()
        except (CacheError, FileNotFoundError) as error:
            said.append(str(error))
        else:
            said.append("")

    def open_and_read():
        with FeatureCache(path) as cache:
            assert np.array_equal(cache.X[:], X)
            assert np.array_equal(cache.class_attributes[cache.labels], S)
            assert cache.metadata == {"backbone": "resnet50", "mean": [0.5]}
            assert cache.y[:3].tolist() == NAMES[:3]

    def fit():
        with FeatureCache(path) as cache:
            ReZSLRegressor((), max_iter=1, random_state=0).fit(cache, S)

    right(lambda: inspect_cache(path))
    right(lambda: verify_cache(path))
    right(open_and_read)
    right(fit)
    return said


FLIPS = """
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
from test_cache_trust import arrays, look_at
path, seed, count = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
X, labels, table = arrays()
whole = path.read_bytes()
broken = path.with_name(f"broken{seed}.h5")
rng = np.random.default_rng(seed)
noticed = 0
for _ in range(count):
    damaged = bytearray(whole)
    at = int(rng.integers(len(whole)))
    damaged[at] ^= int(rng.integers(1, 256))
    broken.write_bytes(damaged)
    print("flip at", at, file=sys.stderr, flush=True)
    said = look_at(broken, (X, table[labels]))
    noticed += all(said[1:])  # inspect reads no features
    assert all(str(broken) in text for text in said if text), said
print(noticed)
"""


def flip(path, seed, count):
    done = subprocess.run(
        [sys.executable, "-c", FLIPS, os.path.dirname(__file__), path]
        + [str(seed), str(count)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


def test_flipped_bytes(new):
    """No crash, no foreign exception, and what is answered is what was written."""
    # What goes unnoticed are flips in the mark of the seal: then hashes are compared.
    assert flip(new, 0, 60) >= 58


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1, 11))
def test_2500_flipped_bytes(new, seed):
    assert flip(new, seed, 250) >= 247


def test_flipped_bytes_of_old_files_do_not_reach_us(old, tmp_path):
    X, labels, table = arrays()

    def read(path):
        with FeatureCache(path) as cache:
            assert np.array_equal(cache.X[:], X)
            assert np.array_equal(cache.class_attributes[cache.labels], table[labels])

    whole = old.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(4):
        damaged = bytearray(whole)
        damaged[int(rng.integers(len(whole)))] ^= int(rng.integers(1, 256))
        old.write_bytes(damaged)
        for look in (inspect_cache, verify_cache, read):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                try:
                    look(old)
                except CacheError as error:
                    assert str(old) in str(error)


# -- the child ----------------------------------------------------------------------

HARM = """
import ctypes, time
def crash(path):
    ctypes.string_at(0)
def hang(path):
    time.sleep(600)
def eat(path):
    return len(bytearray(10**11))
def stumble(path):
    raise KeyError("offset")
def chatter(path):
    import warnings
    warnings.warn("mind this")
    return [1, "\\udcff"]
def miss(path):
    open(str(path) + ".not")
"""


@pytest.fixture
def harm(tmp_path, monkeypatch):
    (tmp_path / "harm_for_test.py").write_text(HARM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "harm_for_test.py"


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("crash", "ended without an answer .exit code -11"),
        ("eat", "takes more than .* GB of memory"),
        ("stumble", "cannot be read .KeyError"),
    ],
)
def test_a_child_that_fails_is_a_sentence(harm, name, match):
    with pytest.raises(CacheError, match=match):
        child.in_child(f"harm_for_test:{name}", harm)


def test_what_has_no_seal_is_opened_by_a_child_first(tmp_path, harm, monkeypatch):
    """The HDF5 library may crash or hang on it; this process outlives that."""

    def dies(function, path):
        return child.in_child("harm_for_test:crash", path)

    monkeypatch.setattr(feature_cache, "in_child", dies)
    write_old(tmp_path / "old.h5")
    with pytest.raises(CacheError, match="ended without an answer"):
        FeatureCache(tmp_path / "old.h5")
    write(tmp_path / "new.h5")
    with FeatureCache(tmp_path / "new.h5") as cache:
        assert cache.y[0] == "ant"


def test_a_child_that_hangs_is_ended(harm, monkeypatch):
    monkeypatch.setattr(child, "_SECONDS", 1)
    with pytest.raises(CacheError, match="could not be read within 1 s"):
        child.in_child("harm_for_test:hang", harm)


def test_a_child_hands_on_results_warnings_and_missing_files(harm):
    with pytest.warns(UserWarning, match="mind this"):
        assert child.in_child("harm_for_test:chatter", harm) == [1, "\udcff"]
    with pytest.raises(FileNotFoundError, match="No such file"):
        child.in_child("harm_for_test:miss", harm)


def test_inspect_tells_what_is_inside(path):
    told = inspect_cache(path)
    assert told["shape"] == [N, D] and told["dtype"] == "float32"
    assert (told["classes"], told["used_classes"], told["attributes"]) == (4, 3, 3)
    assert told["attribute_names"] == ["big", "wet", "old"]
    assert told["splits"] == {"trainval": 40, "test_unseen": 20}
    assert told["metadata"] == {"backbone": "resnet50", "mean": [0.5]}
    assert told["failed"] == []
    with pytest.raises(FileNotFoundError, match="no feature cache"):
        inspect_cache(path.with_name("none.h5"))


# -- one network for fit and predict ------------------------------------------------

RESNET = {
    "backbone": "resnet50",
    "pool": "avg",
    "weights_sha256": "a" * 64,
    "transform": "Resize(224)",
    "engine": "torch",
}


@pytest.fixture
def caches(tmp_path):
    """Caches of equal features that say by what they were made."""
    X, labels, _ = arrays()
    made = []

    def make(**metadata):
        path = tmp_path / f"{len(made)}.h5"
        y = np.array(NAMES)[labels]
        made.append(FeatureCache.from_arrays(path, X, y, metadata=metadata))
        return made[-1]

    yield make
    for cache in made:
        cache.close()


def models():
    table = (NAMES, arrays()[2])
    yield "regressor", ReZSLRegressor((), max_iter=1, random_state=0)
    yield "attention", AttentionRegressor(max_iter=1, random_state=0)
    yield (
        "classifier",
        ZeroShotClassifier(
            ReZSLRegressor((), max_iter=1, random_state=0), class_attributes=table
        ),
    )
    yield "baseline", ESZSL(class_attributes=table)
    yield (
        "search",
        ReZSLSearchCV(
            ReZSLRegressor((), max_iter=1, random_state=0), {"loss": ["mse"]}, cv=3
        ),
    )


def target(model, cache):
    is_classifier = isinstance(model, ZeroShotClassifier | ESZSL)
    return cache.y if is_classifier else arrays()[2][cache.labels]


@pytest.mark.parametrize(
    "model", [m for _, m in models()], ids=[name for name, _ in models()]
)
def test_a_model_of_one_network_refuses_features_of_another(caches, model):
    cache = caches(**RESNET)
    model = clone(model).fit(cache, target(model, cache))
    wanted = model.predict(np.asarray(cache.X))
    # As a file, as lazy features, from other hardware, or without a word about it.
    for same in (cache, cache.X, caches(**RESNET | {"engine": "onnx"}), caches()):
        assert np.array_equal(model.predict(same), wanted)
    model = pickle.loads(pickle.dumps(model))
    for key, value in (
        ("backbone", "vit_small"),
        ("pool", "cls"),
        ("weights_sha256", "b" * 64),
        ("transform", "Resize(448)"),
    ):
        other = caches(**RESNET | {key: value})
        for X in (other, other.X):
            with pytest.raises(ValueError, match="other features than") as caught:
                model.predict(X)
            assert f"{key} {RESNET[key]!r}" in str(caught.value)
            assert f"{value!r} now" in str(caught.value)


def test_other_ways_to_predict_refuse_as_well(caches, tmp_path):
    cache, other = caches(**RESNET), caches(**RESNET | {"backbone": "vit"})
    S = arrays()[2][cache.labels]
    reg = ReZSLRegressor((), max_iter=1, random_state=0).fit(cache, S)
    for use in (
        lambda: reg.score(other, S),
        lambda: reg.partial_fit(other, S),
        lambda: predict_to_hdf5(reg, other, tmp_path / "out.h5"),
        lambda: clone(reg).set_params(warm_start=True).fit(cache, S).fit(other, S),
    ):
        with pytest.raises(ValueError, match="backbone 'resnet50' in fit, 'vit' now"):
            use()
    reg.fit(other, S)  # a new fit begins anew
    assert reg.feature_source_["backbone"] == "vit"
    reg.fit(np.asarray(cache.X), S)
    assert reg.feature_source_ is None
    reg.predict(cache)

"""The readers and writers of data: real files, every trap, the generator."""

import itertools
import tempfile
import warnings

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.io import loadmat, savemat
from scipy.sparse import csc_array

from rezsl_sk.datasets import (
    load_digits_zero_shot,
    load_xlsa17,
    make_zero_shot,
    save_xlsa17,
    zero_shot_split,
)

FIELDS = {
    "X",
    "y",
    "labels",
    "class_names",
    "attributes",
    "original_attributes",
    "attribute_names",
    "image_files",
    "trainval",
    "test_seen",
    "test_unseen",
    "train",
    "val",
    "seen_classes",
    "unseen_classes",
    "fingerprint",
}


def assert_same(one, other, but=()):
    """Equal in every field but the hashes of the files, types included."""
    assert set(one) == set(other) == FIELDS
    for key in FIELDS.difference(but, ["fingerprint"]):
        a, b = one[key], other[key]
        assert (a is None) == (b is None), key
        if a is not None:
            np.testing.assert_array_equal(
                a, b, err_msg=key, strict=key != "class_names"
            )


def arguments(data):
    """The arguments of save_xlsa17 that write this Bunch and nothing else."""
    left_out = {"y", "seen_classes", "unseen_classes", "fingerprint"}
    return {key: data[key] for key in FIELDS - left_out} | {"val_classes": None}


def cells(texts):
    out = np.empty((len(texts), 1), dtype=object)
    out[:, 0] = texts
    return out


@pytest.fixture
def raw():
    """Contents of the two files, as published ones look: 4 + 2 classes.

    Rows are sorted by class, five per class: rows 5k to 5k + 4 have label k + 1.
    """
    rng = np.random.RandomState(0)
    n = 30
    seen = np.arange(20)
    return {
        "res101": {
            "features": rng.normal(size=(7, n)),
            "labels": np.repeat(np.arange(1.0, 7.0), 5)[:, np.newaxis],
            "image_files": cells([f"/far/away/{i}.jpg" for i in range(n)]),
        },
        "att_splits": {
            "att": rng.normal(size=(3, 6)),
            "original_att": np.arange(18.0).reshape(3, 6),
            "allclasses_names": cells(["ant", "bat+1", "cat", "dog", "elk", "fox"]),
            "trainval_loc": (seen[seen % 5 < 4] + 1).astype(np.uint16)[:, None],
            "test_seen_loc": (seen[seen % 5 == 4] + 1).astype(np.uint16)[:, None],
            "test_unseen_loc": np.arange(21, 31, dtype=np.uint16)[:, None],
            "train_loc": (seen[(seen % 5 < 4) & (seen < 10)] + 1.0)[:, None],
            "val_loc": (seen[(seen % 5 < 4) & (seen >= 10)] + 1.0)[:, None],
        },
    }


@pytest.fixture
def put(tmp_path):
    """Write the raw files and give the root."""

    def write(raw, name="SET"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for file, contents in raw.items():
            savemat(folder / f"{file}.mat", contents)
        return tmp_path

    return write


# Real files -----------------------------------------------------------------

REAL = {  # trainval, test_seen, test_unseen, classes in the table, attributes
    "SNU": (5400, 1350, 1700, 195, 7),
    "AWA1_SHALLOW": (19436, 4859, 6180, 50, 85),
    "CUB": (7057, 1764, 2967, 200, 312),
    "SUN": (10320, 2580, 1440, 717, 102),
    "AWA1": (19832, 4958, 5685, 50, 85),
    "AWA2": (23527, 5882, 7913, 50, 85),
    "APY": (5932, 1483, 7924, 32, 64),
    "FLO": (5631, 1403, 1155, 102, 1024),
}


def load_real(root, name):
    if name == "FLO":
        with pytest.warns(UserWarning, match="1403 rows that are not in trainval"):
            return load_xlsa17(root, name)
    return load_xlsa17(root, name)


@pytest.mark.parametrize("name", REAL)
def test_real_folder_loads(xlsa17, name):
    data = load_real(xlsa17, name)
    assert set(data) == FIELDS
    *sizes, n_classes, n_attributes = REAL[name]
    assert [len(data[k]) for k in ("trainval", "test_seen", "test_unseen")] == sizes
    assert data.attributes.shape == (n_classes, n_attributes)
    assert data.attributes.dtype == np.float64
    assert data.class_names.shape == (n_classes,)
    assert (data.train is not None) == (name in ("SNU", "AWA1_SHALLOW", "AWA1"))
    assert (data.X is not None) == (name in ("SNU", "AWA1_SHALLOW"))
    assert all(len(digest) == 64 for digest in data.fingerprint.values())
    if data.train is not None:
        both = np.sort(np.concatenate([data.train, data.val]))
        np.testing.assert_array_equal(both, np.sort(data.trainval))


def test_real_snu(xlsa17):
    data = load_xlsa17(xlsa17, "SNU")
    assert data.X.shape == (8450, 128) and data.X.dtype == np.float32
    # 195 columns, 169 of them used; -1 is a value of att, not a missing one.
    assert len(data.seen_classes) == 135 and len(data.unseen_classes) == 34
    assert data.attributes.min() == -1
    assert data.class_names[[0, 194]].tolist() == ["class001", "class195"]
    assert data.original_attributes is None and data.image_files is None
    assert set(data.fingerprint) == {"vggish.mat", "att_splits.mat"}


def test_real_awa1_shallow(xlsa17):
    data = load_xlsa17(xlsa17, "AWA1_SHALLOW")
    assert data.X.shape == (30475, 512) and data.X.flags.c_contiguous
    assert len(data.seen_classes) == 40 and len(data.unseen_classes) == 10
    # Made-up file names that begin with the class: labels and names agree.
    assert all(
        f.startswith(c + "/") for f, c in zip(data.image_files, data.y, strict=True)
    )
    assert data.attribute_names[:2].tolist() == ["black", "white"]
    in_train, in_val = np.unique(data.y[data.train]), np.unique(data.y[data.val])
    assert len(in_train) == 30 and not set(in_train) & set(in_val)


def test_real_original_att_has_missing_values(xlsa17):
    data = load_xlsa17(xlsa17, "AWA1")
    assert np.isnan(data.original_attributes).sum() == 4
    assert np.nanmin(data.original_attributes) == 0
    # What the published att was made of: the -1 left in, each class normalised.
    left_in = np.nan_to_num(data.original_attributes, nan=-1.0)
    left_in /= np.linalg.norm(left_in, axis=1, keepdims=True)
    np.testing.assert_allclose(data.attributes, left_in, atol=1e-12)


@pytest.mark.parametrize("name, file", [("SNU", "vggish"), ("AWA1_SHALLOW", "res101")])
def test_real_file_saved_again_is_equal(xlsa17, tmp_path, name, file):
    data = load_xlsa17(xlsa17, name)
    save_xlsa17(tmp_path, name, features=file, **arguments(data))
    assert_same(data, load_xlsa17(tmp_path, name))
    published = loadmat(xlsa17 / name / "att_splits.mat")
    saved = loadmat(tmp_path / name / "att_splits.mat")
    for key in saved:
        # SNU has no names; what is saved are the loader's "class001" and so on.
        if key in published and not key.startswith("__"):
            np.testing.assert_array_equal(saved[key], published[key], err_msg=key)
    assert {k for k in published if k[0] != "_"} <= set(saved)


# The layout and its traps ---------------------------------------------------


def test_published_layout(raw, put):
    data = load_xlsa17(put(raw), "SET")
    assert set(data) == FIELDS
    assert data.X.dtype == np.float32 and data.X.flags.c_contiguous
    np.testing.assert_array_equal(
        data.X, raw["res101"]["features"].T.astype(np.float32)
    )
    np.testing.assert_array_equal(data.labels, np.repeat(np.arange(6), 5))
    assert data.y[0] == "ant" and data.y[29] == "fox"
    np.testing.assert_array_equal(data.attributes, raw["att_splits"]["att"].T)
    assert data.image_files[3] == "/far/away/3.jpg"
    np.testing.assert_array_equal(data.test_seen, [4, 9, 14, 19])
    np.testing.assert_array_equal(data.seen_classes, [0, 1, 2, 3])
    np.testing.assert_array_equal(data.unseen_classes, [4, 5])
    np.testing.assert_array_equal(np.unique(data.labels[data.val]), [2, 3])
    for key in ("labels", "trainval", "test_seen", "test_unseen", "train", "val"):
        assert data[key].dtype == np.int64, key


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64, np.float32, bool])
def test_feature_types(raw, put, dtype):
    raw["res101"]["features"] = np.abs(raw["res101"]["features"] * 50).astype(dtype)
    data = load_xlsa17(put(raw), "SET")
    assert data.X.dtype == np.float32 and data.X.flags.c_contiguous
    np.testing.assert_array_equal(
        data.X, raw["res101"]["features"].T.astype(np.float32)
    )


def test_other_orientation_is_recognised(raw, put):
    straight = load_xlsa17(put(raw), "SET")
    raw["res101"]["features"] = raw["res101"]["features"].T
    raw["res101"]["labels"] = raw["res101"]["labels"].T
    raw["att_splits"]["att"] = raw["att_splits"]["att"].T
    assert_same(straight, load_xlsa17(put(raw), "SET"))  # original_att as before
    raw["att_splits"]["original_att"] = raw["att_splits"]["original_att"].T
    assert_same(straight, load_xlsa17(put(raw), "SET"))
    # Without names the largest label tells: 6 classes do not fit into 3.
    del raw["att_splits"]["allclasses_names"]
    assert_same(straight, load_xlsa17(put(raw), "SET"), but=("class_names", "y"))


def test_square_matrices_are_taken_as_published(raw, put):
    rng = np.random.RandomState(1)
    raw["res101"]["features"] = rng.normal(size=(30, 30))
    raw["att_splits"]["att"] = rng.normal(size=(6, 6))
    raw["att_splits"]["original_att"] = rng.uniform(size=(6, 6))
    data = load_xlsa17(put(raw), "SET")
    np.testing.assert_array_equal(data.attributes, raw["att_splits"]["att"].T)
    np.testing.assert_array_equal(
        data.original_attributes, raw["att_splits"]["original_att"].T
    )
    np.testing.assert_allclose(data.X, raw["res101"]["features"].T, rtol=1e-6)


def test_sparse_table(raw, put):
    table = np.abs(raw["att_splits"]["att"])
    raw["att_splits"]["att"] = csc_array(table)
    np.testing.assert_array_equal(load_xlsa17(put(raw), "SET").attributes, table.T)


def test_no_names_and_unused_columns(raw, put):
    del raw["att_splits"]["allclasses_names"]
    extra = np.ones((3, 1000))
    for key in ("att", "original_att"):
        raw["att_splits"][key] = np.hstack([raw["att_splits"][key], extra])
    data = load_xlsa17(put(raw), "SET")
    assert data.class_names[[0, 1005]].tolist() == ["class0001", "class1006"]
    assert data.y[0] == "class0001"
    used = np.concatenate([data.seen_classes, data.unseen_classes])
    np.testing.assert_array_equal(used, np.arange(6))


def test_names_are_unwrapped_and_stripped(raw, put):
    nested = np.empty((1, 1), dtype=object)
    nested[0, 0] = np.array(["  ant "])
    raw["att_splits"]["allclasses_names"][0, 0] = nested
    raw["att_splits"]["allclasses_names"][1, 0] = " bat+1"
    names = load_xlsa17(put(raw), "SET").class_names
    assert names[:2].tolist() == ["ant", "bat+1"]
    # A character matrix, as char(names) makes it: padded by blanks.
    names = ["ant", "bee", "cat", "dog", "e", "fo", "goat", "h"]
    raw["att_splits"]["allclasses_names"] = np.array(names)
    raw["att_splits"]["att"] = np.ones((3, 8))
    raw["att_splits"]["original_att"] = np.ones((3, 8))
    assert load_xlsa17(put(raw), "SET").class_names.tolist() == names


def test_missing_values(raw, put):
    raw["att_splits"]["original_att"][1, 2] = -1
    raw["att_splits"]["att"][1, 2] = -1
    data = load_xlsa17(put(raw), "SET")
    assert np.isnan(data.original_attributes[2, 1])
    assert np.isnan(data.original_attributes).sum() == 1
    assert data.attributes[2, 1] == -1
    # On a scale that goes below 0, -1 is a value.
    raw["att_splits"]["original_att"][0, 0] = -2
    data = load_xlsa17(put(raw), "SET")
    assert data.original_attributes[2, 1] == -1


def test_no_tuning_split(raw, put):
    del raw["att_splits"]["train_loc"], raw["att_splits"]["val_loc"]
    data = load_xlsa17(put(raw), "SET")
    assert data.train is None and data.val is None


def tuning_with_test_rows(splits):
    splits["train_loc"] = np.vstack([splits["train_loc"], [[5.0]]])


def tuning_incomplete(splits):
    splits["train_loc"] = splits["train_loc"][1:]


def tuning_repeats(splits):
    splits["val_loc"] = np.vstack([splits["val_loc"], splits["train_loc"][:1]])


def tuning_shares_classes(splits):
    both = np.vstack([splits["train_loc"], splits["val_loc"]])
    splits["train_loc"], splits["val_loc"] = both[::2], both[1::2]


def tuning_half(splits):
    del splits["val_loc"]


def tuning_empty(splits):
    splits["val_loc"] = np.empty((0, 0))


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (tuning_with_test_rows, "hold 1 rows that are not in trainval"),
        (tuning_incomplete, "leave out 1 rows of trainval"),
        (tuning_repeats, "list rows more than once"),
        (tuning_shares_classes, "share classes"),
        (tuning_half, "only one of the two"),
        (tuning_empty, "one of the two is empty"),
    ],
)
def test_unusable_tuning_split_is_left_out(raw, put, spoil, reason):
    spoil(raw["att_splits"])
    with pytest.warns(UserWarning, match=reason) as caught:
        data = load_xlsa17(put(raw), "SET")
    assert data.train is None and data.val is None
    assert caught[0].filename == __file__
    assert "att_splits.mat" in str(caught[0].message)


@pytest.mark.parametrize("form", ["dense", "sparse", "row", "7.3"])
def test_logical_masks_become_row_numbers(raw, put, tmp_path, form):
    straight = load_xlsa17(put(raw), "SET")
    for key in [key for key in raw["att_splits"] if key.endswith("_loc")]:
        mask = np.zeros((30, 1), dtype=bool)
        mask[raw["att_splits"][key].astype(int) - 1] = True
        mask = mask.T if form == "row" else mask
        raw["att_splits"][key] = csc_array(mask) if form == "sparse" else mask
    root = put(raw)
    if form == "7.3":
        save_73(root / "SET" / "att_splits.mat", raw["att_splits"])
    assert_same(straight, load_xlsa17(root, "SET"))
    # Without features nothing tells how long a mask should be.
    bare = load_xlsa17(root, "SET", features=None)
    np.testing.assert_array_equal(bare.test_unseen, straight.test_unseen)


# MATLAB 7.3 -----------------------------------------------------------------


def save_73(path, contents, matlab_class=True):
    """Write an HDF5 file as MATLAB 7.3 does."""
    with h5py.File(path, "w", userblock_size=512) as file:

        def write(name, value, kind):
            item = file.create_dataset(name, data=value)
            if matlab_class:
                item.attrs["MATLAB_class"] = np.bytes_(kind)
            return item

        def write_text(name, text):
            if text == "":
                item = write(name, np.zeros(2, np.uint64), "char")
                item.attrs["MATLAB_empty"] = np.uint8(1)
                return item
            codes = np.frombuffer(text.encode("utf-16-le"), dtype="<u2")
            return write(name, codes[:, np.newaxis], "char")

        for name, value in contents.items():
            if value.dtype == object:
                references = np.empty(value.T.shape, dtype=h5py.ref_dtype)
                for place, text in np.ndenumerate(value.T):
                    inner = f"#refs#/{name}{place[1]}"
                    references[place] = write_text(inner, text).ref
                write(name, references, "cell")
            elif value.dtype == bool:
                write(name, value.T.astype(np.uint8), "logical")
            else:
                write(name, value.T, "double")
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512))


@pytest.mark.parametrize("matlab_class", [True, False])
def test_matlab_73(raw, put, tmp_path, matlab_class):
    raw["att_splits"]["allclasses_names"][1, 0] = "Łoś 🦌"
    straight = load_xlsa17(put(raw), "SET")
    (tmp_path / "NEW").mkdir()
    for file, contents in raw.items():
        save_73(tmp_path / "NEW" / f"{file}.mat", contents, matlab_class)
    data = load_xlsa17(tmp_path, "NEW")
    assert_same(straight, data)
    assert data.class_names[1] == "Łoś 🦌"
    assert data.X.flags.c_contiguous


def test_matlab_73_empty_cell_and_empty_array(raw, tmp_path):
    raw["res101"]["image_files"][2, 0] = ""
    (tmp_path / "NEW").mkdir()
    path = tmp_path / "NEW" / "res101.mat"
    save_73(path, raw["res101"])
    save_73(tmp_path / "NEW" / "att_splits.mat", raw["att_splits"])
    assert load_xlsa17(tmp_path, "NEW").image_files[2] == ""
    with h5py.File(tmp_path / "NEW" / "att_splits.mat", "r+") as file:
        del file["test_seen_loc"]
        item = file.create_dataset("test_seen_loc", data=np.zeros(2, np.uint64))
        item.attrs["MATLAB_empty"] = np.uint8(1)
    assert len(load_xlsa17(tmp_path, "NEW").test_seen) == 0


def test_hdf5_with_plain_strings(raw, put, tmp_path):
    straight = load_xlsa17(put(raw), "SET")
    names = raw["att_splits"].pop("allclasses_names")
    path = put(raw) / "SET" / "att_splits.mat"
    save_73(path, raw["att_splits"])
    with h5py.File(path, "r+") as file:
        file["allclasses_names"] = names[:, 0].tolist()
    assert_same(straight, load_xlsa17(tmp_path, "SET"))


def test_matlab_73_structure_is_refused(raw, put):
    root = put(raw)
    with h5py.File(root / "SET" / "res101.mat", "w") as file:
        file.create_group("features")
        file["labels"] = raw["res101"]["labels"].T
    with pytest.raises(ValueError, match=r"res101\.mat .*structure or sparse"):
        load_xlsa17(root, "SET")


def link_outside(file, secret):
    file["features"] = h5py.ExternalLink(str(secret), "/x")


def store_outside(file, secret):
    file.create_dataset("features", (4, 2), "f8", external=str(secret))


@pytest.mark.parametrize("lead", [link_outside, store_outside])
def test_matlab_73_leads_to_no_other_file(raw, put, tmp_path, lead):
    root = put(raw)
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.ones((4, 2))
    with h5py.File(root / "SET" / "res101.mat", "w") as file:
        lead(file, tmp_path / "secret.h5")
        file["labels"] = raw["res101"]["labels"].T
    with pytest.raises(ValueError, match=r"res101\.mat is refused: .*file itself"):
        load_xlsa17(root, "SET")


# Which file -----------------------------------------------------------------


def test_features_file_is_found(raw, put):
    root = put(raw)
    folder = root / "SET"
    (folder / "res101.mat").rename(folder / "vit.mat")
    savemat(folder / "other_splits.mat", {"trainval_loc": [1]})
    data = load_xlsa17(root, "SET")
    assert set(data.fingerprint) == {"vit.mat", "att_splits.mat"}
    assert_same(data, load_xlsa17(root, "SET", features="vit"))
    assert_same(data, load_xlsa17(str(root), "SET", features="vit.mat"))

    savemat(folder / "clip.mat", raw["res101"])
    with pytest.raises(ValueError, match=r'clip\.mat, vit\.mat.*features="clip"'):
        load_xlsa17(root, "SET")
    savemat(folder / "res101.mat", raw["res101"])
    assert "res101.mat" in load_xlsa17(root, "SET").fingerprint


def test_tables_without_features(raw, put):
    root = put(raw)
    for data in (
        load_xlsa17(root, "SET", features=None),
        load_xlsa17(put({"att_splits": raw["att_splits"]}, "BARE"), "BARE"),
    ):
        for key in (
            "X",
            "y",
            "labels",
            "image_files",
            "seen_classes",
            "unseen_classes",
        ):
            assert data[key] is None
        assert data.attributes.shape == (6, 3) and len(data.val) == 8
        assert set(data.fingerprint) == {"att_splits.mat"}


def test_other_splits_file(raw, put):
    root = put(raw)
    (root / "SET" / "att_splits.mat").rename(root / "SET" / "mine.mat")
    assert load_xlsa17(root, "SET", splits="mine").X is not None
    with pytest.raises(FileNotFoundError, match=r": mine\.mat, res101\.mat\. Copy"):
        load_xlsa17(root, "SET")


def test_missing_files(raw, put):
    root = put(raw)
    with pytest.raises(FileNotFoundError, match="holds the folders SET;"):
        load_xlsa17(root, "AWA3")
    with pytest.raises(FileNotFoundError, match=r"clip\.mat does not exist.*res101"):
        load_xlsa17(root, "SET", features="clip")


# What is refused ------------------------------------------------------------


def spoil_overlap(res, spl):
    spl["test_seen_loc"][0, 0] = spl["trainval_loc"][3, 0]


def spoil_overlap_unseen(res, spl):
    spl["test_unseen_loc"][0, 0] = spl["trainval_loc"][3, 0]


def spoil_range(res, spl):
    spl["test_unseen_loc"][0, 0] = 31


def spoil_repeat(res, spl):
    spl["trainval_loc"][1, 0] = 1


def spoil_zero(res, spl):
    spl["trainval_loc"][0, 0] = 0


def spoil_fraction(res, spl):
    spl["trainval_loc"] = spl["trainval_loc"] + 0.5


def spoil_mask_short(res, spl):
    spl["trainval_loc"] = np.ones((29, 1), dtype=bool)


def spoil_mask_matrix(res, spl):
    spl["trainval_loc"] = np.ones((5, 6), dtype=bool)


def spoil_zeros_and_ones(res, spl):
    spl["trainval_loc"] = np.arange(30)[:, np.newaxis] % 2


def spoil_labels_logical(res, spl):
    res["labels"] = np.arange(30)[:, np.newaxis] < 15


def spoil_index_nan(res, spl):
    spl["trainval_loc"] = np.where(spl["trainval_loc"] == 1, np.nan, 3.0)


def spoil_index_matrix(res, spl):
    spl["trainval_loc"] = spl["trainval_loc"].reshape(2, -1)


def spoil_empty(res, spl):
    spl["trainval_loc"] = np.empty((0, 0))


def spoil_class_in_both(res, spl):
    res["labels"][20] = 1


def spoil_stranger(res, spl):
    res["labels"][4] = 7
    spl["att"] = np.ones((3, 7))
    spl["original_att"] = np.ones((3, 7))
    spl["allclasses_names"] = cells([*spl["allclasses_names"][:, 0], "gnu"])


def spoil_labels_short(res, spl):
    res["labels"] = res["labels"][:-1]


def spoil_labels_high(res, spl):
    res["labels"][-1] = 9


def spoil_labels_zero(res, spl):
    res["labels"] -= 1


def spoil_labels_missing(res, spl):
    del res["labels"]


def spoil_att_missing(res, spl):
    del spl["att"]


def spoil_nan(res, spl):
    res["features"][2, 11] = np.nan


def spoil_huge(res, spl):
    res["features"][2, 11] = 1e300


def spoil_features_text(res, spl):
    res["features"] = cells(["a"] * 30)


def spoil_features_3d(res, spl):
    res["features"] = np.ones((30, 2, 2))


def spoil_att_nan(res, spl):
    spl["att"][0, 1] = np.inf


def spoil_att_shape(res, spl):
    spl["att"] = np.ones((3, 5))


def spoil_original_shape(res, spl):
    spl["original_att"] = np.ones((2, 6))


def spoil_few_columns(res, spl):
    del spl["allclasses_names"], spl["original_att"]
    spl["att"] = np.ones((3, 5))


def spoil_names_repeat(res, spl):
    spl["allclasses_names"][1, 0] = " ant"


def spoil_names_empty(res, spl):
    spl["allclasses_names"][1, 0] = ""


def spoil_names_numbers(res, spl):
    spl["allclasses_names"][1, 0] = 3.0


def spoil_names_many(res, spl):
    spl["allclasses_names"][1, 0] = cells(["a", "b"])


def spoil_attribute_names(res, spl):
    spl["attribute_names"] = cells(["big", "red"])


def spoil_image_files(res, spl):
    res["image_files"] = res["image_files"][:-2]


@pytest.mark.parametrize(
    "spoil, file, sentence",
    [
        (spoil_overlap, "att_splits", r"trainval and test_seen share rows 3 "),
        (spoil_overlap_unseen, "att_splits", r"trainval and test_unseen share rows 3 "),
        (spoil_range, "att_splits", r"rows 30, but rows go from 0 to 29"),
        (spoil_repeat, "att_splits", r"trainval lists rows more than once: 0 "),
        (spoil_zero, "att_splits", r"whole numbers from 1.*got 0"),
        (spoil_fraction, "att_splits", r"whole numbers from 1.*got 1\.5"),
        (
            spoil_mask_short,
            "att_splits",
            r"mask of shape \(29, 1\).* of the 30 samples",
        ),
        (spoil_mask_matrix, "att_splits", r"mask of shape \(5, 6\).* one entry for"),
        (spoil_zeros_and_ones, "att_splits", r"look like a mask: write find\(mask\)"),
        (spoil_labels_logical, "res101", "whole numbers from 1.*counts from 0, add 1"),
        (spoil_index_nan, "att_splits", r"whole numbers from 1.*got nan"),
        (spoil_index_matrix, "att_splits", r"must be a vector, got shape \(2, 8\)"),
        (spoil_empty, "att_splits", "trainval is empty"),
        (spoil_class_in_both, "att_splits", "classes ant occur in trainval and in"),
        (spoil_stranger, "att_splits", "test_seen holds the classes gnu"),
        (spoil_labels_short, "res101", r"shape \(7, 30\) for 29 labels"),
        (spoil_labels_high, "att_splits", "6 class names and labels up to 9"),
        (spoil_labels_zero, "res101", "labels .* whole numbers from 1.*got 0.0"),
        (spoil_labels_missing, "res101", "no variable 'labels'; it holds features, im"),
        (spoil_att_missing, "att_splits", "no variable 'att'; it holds original_att"),
        (spoil_nan, "res101", r"NaN, infinity or values beyond float32 in rows 11 "),
        (spoil_huge, "res101", r"NaN, infinity or values beyond float32 in rows 11 "),
        (spoil_features_text, "res101", "must hold real numbers, got a cell array"),
        (spoil_features_3d, "res101", r"must be a matrix.*got shape \(30, 2, 2\)"),
        (spoil_att_nan, "att_splits", r"NaN or infinity for the classes bat\+1"),
        (spoil_att_shape, "att_splits", r"shape \(3, 5\).*with 6 classes"),
        (spoil_original_shape, "att_splits", r"original_att .*\(2, 6\), att \(3, 6\)"),
        (spoil_few_columns, "att_splits", "at least 6 classes.*labels up to 6"),
        (spoil_names_repeat, "att_splits", "distinct and not empty.*'ant'"),
        (spoil_names_empty, "att_splits", "distinct and not empty.*''"),
        (spoil_names_numbers, "att_splits", r"cell array of texts.*3\.0"),
        (spoil_names_many, "att_splits", "cell array of texts.*2 values"),
        (spoil_attribute_names, "att_splits", "2 attribute names for 3 attributes"),
        (spoil_image_files, "res101", "28 rows of image_files for 30 labels"),
    ],
)
def test_refused_files(raw, put, spoil, file, sentence):
    spoil(raw["res101"], raw["att_splits"])
    with pytest.raises(ValueError, match=sentence) as caught:
        load_xlsa17(put(raw), "SET")
    assert f"{file}.mat" in str(caught.value)
    assert str(caught.value).endswith(".")


def test_overlap_is_found_without_features(raw, put):
    spoil_overlap(None, raw["att_splits"])
    with pytest.raises(ValueError, match="trainval and test_seen share rows 3 "):
        load_xlsa17(put({"att_splits": raw["att_splits"]}), "SET")


@pytest.mark.parametrize("file", ["res101", "att_splits"])
def test_broken_files(raw, put, file):
    root = put(raw)
    path = root / "SET" / f"{file}.mat"
    good = path.read_bytes()
    broken = [good[:k] for k in range(0, len(good), len(good) // 25)]
    broken += [b"version https://git-lfs.github.com/spec/v1\n", bytes(1000)]
    save_73(path, raw[file])
    broken.append(path.read_bytes()[:-1000])
    for contents in broken:
        path.write_bytes(contents)
        # SciPy also warns that a variable is unreadable.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(ValueError, match=rf"{file}\.mat"):
                load_xlsa17(root, "SET")


# Writing --------------------------------------------------------------------


@pytest.fixture
def made():
    return make_zero_shot(4, 2, samples_per_class=5, n_features=6, random_state=0)


def test_save_writes_the_published_layout(made, tmp_path):
    made.original_attributes = np.full((6, 20), 0.5)
    made.original_attributes[1, 2] = np.nan
    folder = save_xlsa17(tmp_path / "new", "SET", **arguments(made))
    assert folder == tmp_path / "new" / "SET"
    assert sorted(p.name for p in folder.iterdir()) == ["att_splits.mat", "res101.mat"]
    samples = loadmat(folder / "res101.mat")
    tables = loadmat(folder / "att_splits.mat")
    assert samples["features"].shape == (6, 30)
    assert samples["features"].dtype == np.float64
    assert samples["labels"].shape == (30, 1) and samples["labels"].min() == 1
    assert tables["att"].shape == (20, 6)
    assert tables["original_att"][2, 1] == -1
    assert tables["allclasses_names"].shape == (6, 1)
    assert tables["allclasses_names"][0, 0].tolist() == ["seen1"]
    np.testing.assert_array_equal(tables["trainval_loc"][:, 0], made.trainval + 1)
    assert "train_loc" not in tables
    made.X = made.X.astype(np.float32)
    assert_same(made, load_xlsa17(tmp_path / "new", "SET"))


def test_save_takes_names_lists_and_other_types(made, tmp_path):
    plain = {k: v.tolist() for k, v in arguments(made).items() if v is not None}
    plain["labels"] = made.y.tolist()
    plain["val_classes"] = None
    plain["X"] = np.asarray(made.X, dtype=np.float16)
    save_xlsa17(tmp_path, "SET", **plain)
    made.X = made.X.astype(np.float16).astype(np.float32)
    assert_same(made, load_xlsa17(tmp_path, "SET"))


def test_save_without_names_and_test_seen(made, tmp_path):
    given_ = arguments(made) | {"class_names": None, "test_seen": []}
    save_xlsa17(tmp_path, "SET", features="vit", splits="mine", **given_)
    data = load_xlsa17(tmp_path, "SET", splits="mine")
    assert len(data.test_seen) == 0 and data.class_names[0] == "class001"


def test_save_asks_before_it_overwrites(made, tmp_path):
    folder = save_xlsa17(tmp_path, "SET", **arguments(made))
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(FileExistsError, match="overwrite=True"):
        save_xlsa17(tmp_path, "SET", **arguments(made))
    assert before == {p.name: p.read_bytes() for p in folder.iterdir()}
    made.X = made.X.astype(np.float32) + 1
    save_xlsa17(tmp_path, "SET", overwrite=True, **arguments(made))
    assert_same(made, load_xlsa17(tmp_path, "SET"))


def test_save_that_fails_leaves_no_trace(made, tmp_path, monkeypatch):
    folder = save_xlsa17(tmp_path, "SET", **arguments(made))
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full_disk(fd):
        raise OSError("no space left")

    monkeypatch.setattr("rezsl_sk.datasets.xlsa17.os.fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_xlsa17(tmp_path, "SET", overwrite=True, **arguments(made))
    assert before == {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"labels": np.zeros(29, int)}, "30 rows of features for 29 labels"),
        ({"labels": np.full(30, 6)}, r"labels 6 \(from 0\) have no row.*6 classes"),
        ({"labels": np.zeros(30)}, "class names, got shape .* float64"),
        ({"labels": ["seen1"] * 29 + ["gnu"]}, "names that class_names lacks: gnu"),
        ({"labels": ["a"] * 30, "class_names": None}, "class_names is None"),
        ({"labels": np.zeros(30, int)}, "classes seen1 occur in trainval and in"),
        ({"trainval": np.ones(30, bool)}, r"np\.flatnonzero"),
        ({"trainval": [-1]}, "rows -1, but rows go from 0 to 29"),
        ({"attributes": np.ones(6)}, r"one row per class.*got shape \(6,\)"),
        ({"attributes": [["a"]] * 6}, "must be a matrix of numbers"),
        ({"attributes": np.full((6, 20), np.nan)}, "NaN or infinity"),
        ({"class_names": ["a", "b"]}, "2 class names for 6 rows"),
        ({"class_names": ["a", "a ", "c", "d", "e", "f"]}, "distinct.*'a'"),
        ({"attribute_names": ["a"]}, "1 attribute names for 20 attributes"),
        ({"attribute_names": ["a"] * 20}, "attributes more than once: .'a'"),
        ({"attribute_names": ["", *"abcdefghijklmnopqrs"]}, "without a name, in colu"),
        ({"original_attributes": np.ones((6, 3))}, r"shape \(6, 3\), the table"),
        ({"original_attributes": -np.eye(6, 20)}, "-1 stands for a missing value"),
        ({"image_files": ["a.jpg"]}, "1 rows of image_files for 30 labels"),
        ({"X": np.full((30, 2), np.inf)}, "NaN, infinity or values beyond"),
        ({"X": np.ones(30)}, "features must be a matrix"),
        ({"X": [["a"]] * 30}, "features must be a matrix of real numbers"),
        ({"train": [0]}, "only one of the two"),
        ({"splits": "res101"}, "both name"),
        (
            {"X": np.broadcast_to(np.float32(0), (2**20, 512))},
            "larger than the 2 GiB that a MATLAB 5 file can hold",
        ),
    ],
)
def test_save_refuses(made, tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        save_xlsa17(tmp_path, "SET", **(arguments(made) | change))
    assert str(caught.value).endswith(".")
    assert not (tmp_path / "SET").exists()


def test_save_refuses_nan_beside_negative_values(made, tmp_path):
    table = np.full((6, 20), -3.0)
    table[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN beside other negative values"):
        save_xlsa17(
            tmp_path, "SET", **(arguments(made) | {"original_attributes": table})
        )
    table[0, 0] = -1  # a value, and read back as one
    save_xlsa17(tmp_path, "SET", **(arguments(made) | {"original_attributes": table}))
    data = load_xlsa17(tmp_path, "SET")
    np.testing.assert_array_equal(data.original_attributes, table)


texts = st.text(
    # Without control characters (NUL ends a text in C) and lone surrogates.
    st.characters(exclude_categories=("Cc", "Cs")),
    max_size=8,
).map(str.strip)


@st.composite
def data_sets(draw):
    n_seen, n_unseen = draw(st.integers(2, 4)), draw(st.integers(1, 3))
    data = make_zero_shot(
        n_seen,
        n_unseen,
        samples_per_class=draw(st.integers(2, 4)),
        n_features=draw(st.integers(1, 4)),
        n_attributes=draw(st.integers(1, 4)),
        random_state=draw(st.integers(0, 2**31)),
    )
    n, C, a = len(data.labels), n_seen + n_unseen, data.attributes.shape[1]
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    data.X = draw(arrays(np.float32, data.X.shape, elements=finite))
    data.attributes = draw(arrays(np.float64, (C, a), elements=finite))
    names = st.lists(texts.filter(len), min_size=C, max_size=C, unique=True)
    data.class_names = np.array(draw(names))
    data.y = data.class_names[data.labels]
    data.attribute_names = data.original_attributes = None
    if draw(st.booleans()):
        named = st.lists(texts.filter(len), min_size=a, max_size=a, unique=True)
        data.attribute_names = np.array(draw(named))
    if draw(st.booleans()):
        data.image_files = np.array(draw(st.lists(texts, min_size=n, max_size=n)))
    if draw(st.booleans()):
        raw = st.floats(0, 100) | st.just(np.nan)
        data.original_attributes = draw(arrays(np.float64, (C, a), elements=raw))
    if draw(st.booleans()):
        in_val = data.labels[data.trainval] == 0
        data.val, data.train = data.trainval[in_val], data.trainval[~in_val]
    return data


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data_sets())
def test_load_gives_back_what_save_wrote(data):
    with tempfile.TemporaryDirectory() as root:
        save_xlsa17(root, "SET", **arguments(data))
        assert_same(data, load_xlsa17(root, "SET"))


def test_save_makes_halves_that_are_not_given(made, tmp_path):
    """Public code reads train_loc and val_loc without asking."""
    given_ = arguments(made)
    del given_["val_classes"]
    halves = []
    for name, options in {
        "ONE": {},
        "SAME": {},
        "OTHER": {"random_state": 3},
        "TWO": {"val_classes": 2},
        "MOST": {"val_classes": 0.9},
    }.items():
        save_xlsa17(tmp_path, name, **given_, **options)
        data = load_xlsa17(tmp_path, name)
        both = np.sort(np.concatenate([data.train, data.val]))
        np.testing.assert_array_equal(both, made.trainval)
        in_train, in_val = (set(made.labels[k]) for k in (data.train, data.val))
        assert not in_train & in_val
        halves.append(sorted(in_val))
    assert [len(classes) for classes in halves] == [1, 1, 1, 2, 3]
    assert halves[0] == halves[1] != halves[2]


@pytest.mark.parametrize("wrong", [0, 4, 0.0, 1.0, -1, True, "1", np.nan])
def test_save_refuses_halves_that_cannot_be(made, tmp_path, wrong):
    with pytest.raises(ValueError, match="from 1 to 3, of the 4 in trainval, or a sh"):
        save_xlsa17(tmp_path, "SET", **(arguments(made) | {"val_classes": wrong}))
    assert not (tmp_path / "SET").exists()
    one = {"val_classes": 0.2, "trainval": made.trainval[:1], "test_seen": []}
    save_xlsa17(tmp_path, "SET", **(arguments(made) | one))
    assert load_xlsa17(tmp_path, "SET").train is None


# Splits by class ------------------------------------------------------------


@given(
    st.lists(st.integers(0, 5), min_size=3, max_size=60),
    st.floats(0, 0.99),
    st.integers(0, 2**31),
    st.booleans(),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_split_promises(labels, share, seed, as_names, draw):
    classes = sorted(set(labels))
    assume(len(classes) >= 2)
    unseen = draw.draw(
        st.lists(st.sampled_from(classes), min_size=1, max_size=len(classes) - 1)
    )
    assume(len(set(unseen)) < len(classes))
    halves = len(classes) - len(set(unseen)) >= 2
    labels = np.array(labels)
    if as_names:
        labels, unseen = labels.astype(str), [str(k) for k in unseen]
    options = {
        "test_seen": share,
        "val_classes": 0.3 if halves else None,
        "random_state": seed,
    }
    rows = zero_shot_split(labels, unseen, **options)
    again = zero_shot_split(labels.tolist(), unseen, **options)
    parts = [rows[key] for key in ("trainval", "test_seen", "test_unseen")]
    np.testing.assert_array_equal(np.sort(np.hstack(parts)), np.arange(len(labels)))
    for key, numbers in rows.items():
        np.testing.assert_array_equal(numbers, np.sort(numbers))
        np.testing.assert_array_equal(numbers, again[key])
    assert set(labels[rows["test_unseen"]]) == set(unseen)
    seen = set(labels[rows["trainval"]])
    assert seen == set(labels.tolist()) - set(unseen)
    for k in seen:
        n, n_test = (labels == k).sum(), (labels[rows["test_seen"]] == k).sum()
        if share == 0 or n == 1:
            assert n_test == 0
        else:
            assert 1 <= n_test < n and abs(n_test - share * n) <= 1
    if halves:
        both = np.sort(np.hstack([rows["train"], rows["val"]]))
        np.testing.assert_array_equal(both, rows["trainval"])
        in_train, in_val = (set(labels[rows[key]]) for key in ("train", "val"))
        assert in_train and in_val and not in_train & in_val
    else:
        assert set(rows) == {"trainval", "test_seen", "test_unseen"}


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"unseen": []}, "some of the 3 classes in labels, not all; got none"),
        ({"unseen": ["a", "b", "c"]}, "not all; got a, b, c"),
        ({"unseen": ["c", "d"]}, "got c, d; no row has the label d"),
        ({"unseen": [2]}, "no row has the label 2"),
        ({"labels": []}, r"one class per row, got shape \(0,\)"),
        ({"labels": [["a", "b"]]}, r"one class per row, got shape \(1, 2\)"),
        ({"test_seen": 1}, "share from 0 to below 1, got 1"),
        ({"test_seen": -0.1}, "share from 0 to below 1, got -0.1"),
        ({"test_seen": "0.2"}, "share from 0 to below 1, got '0.2'"),
        ({"val_classes": 2}, "from 1 to 1, of the 2 in trainval"),
        ({"unseen": "bc"}, "no row has the label bc"),
        ({"unseen": ["b", "c"]}, "trainval holds one class"),
    ],
)
def test_split_refuses(change, sentence):
    given_ = {"labels": list("aabbcc"), "unseen": ["c"]} | change
    with pytest.raises(ValueError, match=sentence) as caught:
        zero_shot_split(**given_)
    assert str(caught.value).endswith(".")


# The generator --------------------------------------------------------------


def test_generator_fields_and_shapes():
    data = make_zero_shot(random_state=0)
    assert set(data) == FIELDS and data.fingerprint == {}
    assert data.X.shape == (1500, 64) and data.X.dtype == np.float64
    assert data.attributes.shape == (50, 20)
    np.testing.assert_array_equal(data.y, data.class_names[data.labels])
    np.testing.assert_array_equal(data.seen_classes, np.arange(40))
    np.testing.assert_array_equal(np.bincount(data.labels), 30)
    np.testing.assert_array_equal(np.bincount(data.labels[data.test_seen]), [6] * 40)
    rows = np.concatenate([data.trainval, data.test_seen, data.test_unseen])
    np.testing.assert_array_equal(np.sort(rows), np.arange(1500))
    # At no imbalance, half of the seen classes have each attribute.
    np.testing.assert_array_equal((data.attributes[:40] > 0).sum(axis=0), 20)


def test_generator_is_seeded():
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    assert_same(make_zero_shot(random_state=3), make_zero_shot(random_state=3))
    assert_same(
        make_zero_shot(random_state=3),
        make_zero_shot(random_state=np.random.RandomState(3)),
    )
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    other = make_zero_shot(random_state=4)
    assert not np.array_equal(make_zero_shot(random_state=3).X, other.X)


@given(
    st.integers(2, 12),
    st.integers(1, 5),
    st.integers(1, 8),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_generator_promises(n_seen, n_unseen, n_attributes, t_class, t_attribute, seed):
    data = make_zero_shot(
        n_seen,
        n_unseen,
        samples_per_class=6,
        n_features=3,
        n_attributes=n_attributes,
        class_imbalance=t_class,
        attribute_imbalance=t_attribute,
        random_state=seed,
    )
    table = data.attributes
    assert table.any(axis=1).all()
    assert len(np.unique(table, axis=0)) == n_seen + n_unseen
    assert (np.ptp(table[:n_seen], axis=0) > 0).all()
    assert table.min() >= 0 and table.max() <= 1
    np.testing.assert_array_equal(data.seen_classes, np.arange(n_seen))
    np.testing.assert_array_equal(
        np.unique(data.labels[data.test_seen]), data.seen_classes
    )


def test_imbalance_makes_long_tails():
    def spread(counts):
        return counts.std() / counts.mean()

    by_attribute = [
        spread(
            (make_zero_shot(attribute_imbalance=t, random_state=0).attributes > 0).sum(
                0
            )
        )
        for t in (0.0, 0.5, 1.0)
    ]
    by_class = [
        spread(np.bincount(make_zero_shot(class_imbalance=t, random_state=0).labels))
        for t in (0.0, 0.5, 1.0)
    ]
    assert by_attribute == sorted(by_attribute) and by_attribute[0] < 0.05
    assert by_class == sorted(by_class) and by_class[0] == 0
    assert by_attribute[2] > 0.8 and by_class[2] > 0.8


def test_noise_is_what_it_says():
    quiet = make_zero_shot(noise=0.0, random_state=0)
    loud = make_zero_shot(noise=2.0, random_state=0)
    np.testing.assert_array_equal(quiet.labels, loud.labels)
    assert (loud.X - quiet.X).std() == pytest.approx(2.0, rel=0.02)
    assert len(np.unique(quiet.X, axis=0)) == 50


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"n_seen": 1}, "n_seen must be a whole number of at least 2, got 1"),
        ({"n_seen": 4.0}, "n_seen must be a whole number"),
        ({"n_unseen": 0}, "n_unseen must be a whole number of at least 1, got 0"),
        ({"samples_per_class": 1}, "samples_per_class must be .* at least 2, got 1"),
        ({"n_features": 0}, "n_features must be"),
        ({"n_attributes": True}, "n_attributes must be .* got True"),
        ({"class_imbalance": 1.5}, "class_imbalance must be .* from 0 to 1, got 1.5"),
        ({"attribute_imbalance": "much"}, "attribute_imbalance must be .* got 'much'"),
        ({"noise": -1}, "noise must be a finite number of at least 0, got -1"),
        ({"noise": np.nan}, "noise must be a finite number of at least 0, got nan"),
        ({"noise": np.inf}, "noise must be a finite number of at least 0, got inf"),
    ],
)
def test_generator_refuses(change, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        make_zero_shot(**change)
    assert str(caught.value).endswith(".")


# The embedded digits --------------------------------------------------------


def test_digits():
    data = load_digits_zero_shot()
    assert set(data) == FIELDS
    assert data.X.shape == (1797, 64) and data.X.dtype == np.float32
    assert data.X.min() == 0 and data.X.max() == 1
    assert data.attributes.shape == (10, 14) == (10, len(data.attribute_names))
    assert set(np.unique(data.attributes)) == {0, 0.5, 1}
    assert data.y[:3].tolist() == ["zero", "one", "two"]
    assert data.class_names[data.unseen_classes].tolist() == ["two", "four", "eight"]
    assert len(np.unique(data.attributes, axis=0)) == 10
    n_seen = len(data.trainval) + len(data.test_seen)
    assert len(data.test_seen) / n_seen == pytest.approx(0.2, abs=0.005)
    assert_same(data, load_digits_zero_shot())


def test_digits_default_follows_from_the_table():
    """What the docstring says of the default choice of unseen digits."""
    data = load_digits_zero_shot()
    table = data.attributes

    def describable(unseen):
        seen = np.delete(table, unseen, axis=0)
        occurs = (seen.max(axis=0) >= table[unseen].max(axis=0)).all()
        return occurs and np.unique(seen, axis=1).shape == seen.shape

    def apart(unseen):
        return min(
            np.linalg.norm(table[i] - table[j])
            for i, j in itertools.combinations(unseen, 2)
        )

    triples = [list(t) for t in itertools.combinations(range(10), 3)]
    best = max(filter(describable, triples), key=apart)
    assert best == data.unseen_classes.tolist()
    assert sum(apart(t) == apart(best) for t in triples if describable(t)) == 1


def test_digits_docstring_shows_the_table():
    data = load_digits_zero_shot()
    marks = {0: ".", 0.5: "½", 1: "1"}
    for name, column in zip(data.attribute_names, data.attributes.T, strict=True):
        row = f"{name:<31}" + "   ".join(marks[value] for value in column)
        assert row in load_digits_zero_shot.__doc__


def test_digits_other_unseen():
    data = load_digits_zero_shot(unseen="nine")
    assert data.class_names[data.unseen_classes].tolist() == ["nine"]
    for wrong in ([], ["ten"], ["one", "one"], [9], data.class_names[:9]):
        with pytest.raises(ValueError, match="one to eight distinct words of zero"):
            load_digits_zero_shot(unseen=wrong)

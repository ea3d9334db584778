"""Files for other people: three public loaders' ways of reading, on files of ours.

Each reader below does, in our words, what the code named in it does with
`scipy.io.loadmat`'s answer: which variables it takes for granted, how it indexes
with them and what it computes from the rows.
"""

import numpy as np
import pytest
import torch
from rezsl_features.cli import main
from scipy.io import loadmat
from sklearn.preprocessing import MinMaxScaler

from rezsl_sk.datasets import make_zero_shot, save_xlsa17
from rezsl_sk.feature_cache import FeatureCache

SPLITS = ["trainval", "train", "val", "test_seen", "test_unseen"]


def raw(folder):
    return loadmat(folder / "res101.mat"), loadmat(folder / "att_splits.mat")


def read_like_tfvaegan(folder):
    """akshitac8/tfvaegan: rows by vectors, one scaler, tables as tensors."""
    samples, tables = raw(folder)
    X, y = samples["features"].T, np.squeeze(samples["labels"].astype(int)) - 1
    at = {name: np.squeeze(tables[f"{name}_loc"]) - 1 for name in SPLITS}
    table = torch.tensor(tables["att"].T, dtype=torch.float32)
    table = table / torch.linalg.vector_norm(table, dim=1, keepdim=True)
    scaler = MinMaxScaler().fit(X[at["trainval"]])
    parts = {name: torch.from_numpy(scaler.transform(X[at[name]])) for name in SPLITS}
    assert all(len(part) > 0 for part in parts.values())
    return at, {name: torch.from_numpy(y[at[name]]).long() for name in SPLITS}, table


def read_like_cada_vae(folder):
    """edgarschnfld/CADA-VAE-PyTorch: a scaler for each part, the table by label."""
    samples, tables = raw(folder)
    X, y = samples["features"].T, np.squeeze(samples["labels"].astype(int)) - 1
    at = {name: np.squeeze(tables[f"{name}_loc"]) - 1 for name in SPLITS}
    for name in ("trainval", "test_seen", "test_unseen"):
        scaled = MinMaxScaler().fit_transform(X[at[name]])
        assert scaled.min() == 0 and scaled.max() == pytest.approx(1)
    labels = {name: torch.from_numpy(y[at[name]]).long() for name in SPLITS}
    table = torch.from_numpy(tables["att"].T).float()
    assert len(table[labels["trainval"]]) == len(at["trainval"])
    return at, labels, table


def read_like_popular_zsl(folder):
    """mvp18/Popular-ZSL-Algorithms: columns, and labels as indices from 1.

    Halves are found by the classes of train_loc and val_loc; classes are the columns
    of the table that the labels of the test rows name.
    """
    samples, tables = raw(folder)
    at = {name: np.squeeze(tables[f"{name}_loc"] - 1) for name in SPLITS}
    assert all(samples["features"][:, rows].ndim == 2 for rows in at.values())
    labels = {name: np.squeeze(samples["labels"][rows]) for name, rows in at.items()}
    of_class = {k: np.where(labels["trainval"] == k)[0] for k in labels["trainval"]}
    for half in ("train", "val"):
        found = np.concatenate([of_class[k] for k in np.unique(labels[half])])
        np.testing.assert_array_equal(
            np.sort(at["trainval"][found]), np.sort(at[half]), err_msg=half
        )
        one_hot = np.eye(labels[half].max() + 1)[labels[half]]
        assert one_hot.sum() == len(labels[half])
    tested = np.unique(np.concatenate([labels["test_seen"], labels["test_unseen"]]))
    # Its answers are places among these columns, plus 1, compared with labels.
    np.testing.assert_array_equal(tested, np.arange(1, len(tested) + 1))
    return (
        at,
        {name: torch.from_numpy(y.astype(int)) - 1 for name, y in labels.items()},
        torch.from_numpy(tables["att"][:, tested - 1].T).float(),
    )


@pytest.fixture
def made():
    return make_zero_shot(6, 3, samples_per_class=7, n_features=5, random_state=0)


def from_save(made, root):
    return save_xlsa17(
        root,
        "SET",
        X=made.X,
        labels=made.labels,
        attributes=made.attributes,
        trainval=made.trainval,
        test_seen=made.test_seen,
        test_unseen=made.test_unseen,
    )


def from_export(made, root):
    """The way of one's own pictures, without the pictures.

    A class of the table that no picture has must not move the others.
    """
    names = np.append(made.class_names, "a ghost")
    table = np.vstack([made.attributes, np.ones(made.attributes.shape[1])])
    FeatureCache.from_arrays(
        root / "set.h5", made.X, made.y, class_attributes=(names[::-1], table[::-1])
    ).close()
    unseen = made.class_names[made.unseen_classes]
    (root / "unseen.txt").write_text("\ufeff" + "\n".join([*unseen, "a ghost"]))
    options = ["--xlsa17", root / "SET", "--unseen", root / "unseen.txt"]
    options += ["--val-classes", 2, "--test-seen", 0.3, "--seed", 4]
    assert main(["export", *map(str, [root / "set.h5", *options])]) == 0
    return root / "SET"


@pytest.mark.parametrize("write", [from_save, from_export])
@pytest.mark.parametrize(
    "read", [read_like_tfvaegan, read_like_cada_vae, read_like_popular_zsl]
)
def test_public_loaders_read_our_files(made, tmp_path, read, write):
    at, labels, table = read(write(made, tmp_path))
    names = made.class_names if write is from_save else made.class_names[::-1]
    for part, rows in at.items():
        assert names[labels[part]].tolist() == made.y[rows].tolist(), part
    rows = np.concatenate([at[k] for k in ("trainval", "test_seen", "test_unseen")])
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(made.X)))
    train, val, seen = (
        set(labels[part].tolist()) for part in ("train", "val", "trainval")
    )
    assert train | val == seen and not train & val
    assert len(val) == (1 if write is from_save else 2)
    assert set(labels["test_seen"].tolist()) == seen
    given = made.attributes if write is from_save else made.attributes[::-1]
    if read is read_like_tfvaegan:
        given = given / np.linalg.norm(given, axis=1, keepdims=True)
    np.testing.assert_allclose(table, given, rtol=1e-6)


@pytest.mark.parametrize("n, dtype", [(1, np.uint8), (254, np.uint8), (300, np.uint16)])
def test_numbers_have_the_types_of_the_published_files(tmp_path, n, dtype):
    """The smallest unsigned type, as `loadmat` gives it of the published files."""
    labels = np.concatenate([np.arange(n).repeat(2), [n]])
    rows = np.arange(len(labels))
    folder = save_xlsa17(
        tmp_path,
        "SET",
        X=np.ones((len(rows), 2), dtype=np.float32),
        labels=labels,
        attributes=np.arange(n + 1.0)[:, np.newaxis],
        trainval=rows[:-1:2],
        test_seen=rows[1:-1:2],
        test_unseen=rows[-1:],
        val_classes=None if n == 1 else 0.2,
    )
    samples, tables = raw(folder)
    assert samples["labels"].dtype == dtype
    assert samples["features"].dtype == np.float32
    assert tables["att"].dtype == np.float64
    places = [key for key in tables if key.endswith("_loc")]
    assert len(places) == (3 if n == 1 else 5)
    for key in places:
        assert tables[key].dtype == np.min_scalar_type(tables[key].max()), key
        assert tables[key].shape == (tables[key].size, 1)

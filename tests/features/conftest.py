"""Tiny images and a tiny network: what the extractor promises needs no real ones."""

import os
import re

import numpy as np
import pytest
import torch
from PIL import Image
from rezsl_features import extract_features
from rezsl_features.cli import main
from tiny import Small, tiny_network


@pytest.fixture
def make_images(tmp_path):
    """Write n seeded pictures in class folders; give the root."""

    def make(n=22, classes=3, root=tmp_path / "images"):
        rng = np.random.default_rng(0)
        for i in range(n):
            folder = root / f"class{i % classes}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i:03d}.png")
        return root

    return make


@pytest.fixture
def extract(tmp_path):
    """Extract with the tiny network: small shards, one thread, no workers."""

    def run(images, out=None, **options):
        options = {
            "model": tiny_network(),
            "transform": Small(),
            "batch_size": 4,
            "shard_size": 8,
            "workers": 0,
            "threads": 1,
            "device": "cpu",
        } | options
        return extract_features(images, out=out or tmp_path / "out.h5", **options)

    return run


@pytest.fixture
def in_child():
    """Run a function in a forked child; give the signal that ended it, or its code."""

    def run(function):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                # OpenMP's threads did not come along; waiting for them would hang.
                torch.set_num_threads(1)
                function()
                code = 0
            finally:
                os._exit(code)
        status = os.waitpid(pid, 0)[1]
        if os.WIFSIGNALED(status):
            return -os.WTERMSIG(status)
        return os.WEXITSTATUS(status)

    return run


@pytest.fixture
def run(capsys):
    """Run one command; give its exit code, stdout and stderr without the bar."""

    def call(*args):
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        sentences = [
            line
            for line in re.split(r"[\r\n]", err)
            # A machine that is busy needs seconds for an image.
            if "images/s" not in line and "s/ images" not in line
        ]
        return code, out, "\n".join(line for line in sentences if line.strip())

    return call

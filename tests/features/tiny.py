"""A network, a transform and a way to die, all small."""

import os
import signal

import numpy as np
import torch


class Small:
    """A transform that says what it does."""

    def __init__(self, side=8):
        self.side = side

    def __call__(self, image):
        image = image.resize((self.side, self.side))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255

    def __repr__(self):
        return f"Small({self.side})"


def tiny_network(seed=0, width=5):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, width, 3),
            torch.nn.BatchNorm2d(width),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
        )


def kill_at(owner, name, count, when="before"):
    """Replace a function by one that kills the process at its count-th call."""
    original = getattr(owner, name)
    calls = 0

    def deadly(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == count and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)

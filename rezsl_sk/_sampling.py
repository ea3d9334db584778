"""Batches of rows that lie in a file."""

import math

import torch

from ._training import Sampler, as_tensor


class StreamSampler:
    """Batches of one epoch after the other, as pairs of rows and their classes.

    The file is read in short runs in random order; what fits into a buffer is
    mixed. So a file that is sorted by class gives mixed batches, without reading
    row by row.

    Parameters
    ----------
    X : Rows of shape (n, d)

    group : tensor of shape (n,), on the CPU
        Class of each row.

    kind : {"shuffle", "episodes"}
        "shuffle": each row once an epoch. "episodes": `ways` classes of those in
        the buffer, `shots` rows of each, drawn with replacement.

    generator : torch.Generator on the CPU
    """

    def __init__(self, X, group, *, kind, batch_size, ways, shots, generator):
        self.X, self.group, self.kind = X, group, kind
        self.ways, self.shots, self.generator = ways, shots, generator
        self.batch_size = batch_size
        if kind == "episodes":
            self.batch_size = min(ways, len(group.unique())) * shots
        self.n_batches = max(1, math.ceil(len(X) / self.batch_size))

    def epoch(self, device):
        """Batches (x, group) of tensors on `device`."""
        n_rows = n_given = 0
        rest = None  # rows of the last buffer that did not fill a batch
        for numbers, buffer in self.X.shuffled(self._permutation):
            x = as_tensor(buffer, device)
            group = self.group[torch.from_numpy(numbers)]
            n_rows += len(x)
            if n_rows == len(self.X):
                n_wanted = self.n_batches - n_given
            else:
                n_wanted = n_rows // self.batch_size - n_given
            n_given += n_wanted
            if self.kind == "episodes":
                for rows in self._episodes(group, n_wanted):
                    rows, group = rows.to(device), group.to(device)
                    yield x.index_select(0, rows), group.index_select(0, rows)
                continue
            order = torch.from_numpy(self._permutation(len(x))).to(device)
            group = group.to(device)
            size = self.batch_size
            for _ in range(n_wanted):
                n_new = size if rest is None else size - len(rest[0])
                rows, order = order[:n_new], order[n_new:]
                batch = _joined(rest, x, group, rows)
                rest = None
                yield batch
            if len(order):
                rest = _joined(rest, x, group, order)

    def _permutation(self, n):
        return torch.randperm(n, generator=self.generator).numpy()

    def _episodes(self, group, n_batches):
        sampler = Sampler(
            group,
            kind="episodes",
            batch_size=None,
            ways=self.ways,
            shots=self.shots,
            generator=self.generator,
        )
        sampler.n_batches = n_batches
        return sampler.epoch("cpu") if n_batches else ()


def _joined(rest, x, group, rows):
    """The rows of x and of group, those left over before them."""
    new = x.index_select(0, rows), group.index_select(0, rows)
    if rest is None:
        return new
    return tuple(torch.cat(pair) for pair in zip(rest, new, strict=True))

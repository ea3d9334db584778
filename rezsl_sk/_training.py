"""The training loop: objective, batches, optimiser, schedule, early stop.

Tensors in, a trained head out; nothing here knows scikit-learn.
"""

import copy
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .losses import BMCLoss, MAELoss, MSELoss, ReMSELoss, RMSELoss


class Objective(nn.Module):
    r"""What the head is trained for.

    .. math::
        w_r\, \mathrm{loss}(\hat s, s) + w_c\,
        \mathrm{CE}(\mathrm{scale} \cdot \cos(\hat s, \text{prototypes}))

    Parameters
    ----------
    loss : torch module, called as ``loss(pred, target, group)``

    prototypes : tensor of shape (K, a)
        Attributes of the training classes in the training space; row k is the
        target of the samples of class k and its prototype.

    regression_weight, classification_weight : float
        Weights of the two terms; a term of weight 0 is not computed.

    scale : float
        Inverse temperature of the cross-entropy.

    l2 : bool
        Whether predictions and targets are L2-normalised before `loss`.
    """

    def __init__(
        self,
        loss,
        prototypes,
        *,
        regression_weight=1.0,
        classification_weight=1.0,
        scale=20.0,
        l2=False,
    ):
        super().__init__()
        self.loss = loss
        self.regression_weight = regression_weight
        self.classification_weight = classification_weight
        self.scale = scale
        self.l2 = l2
        directions = F.normalize(prototypes)
        self.targets = directions if l2 else prototypes
        self.directions_t = (directions * scale).T.contiguous()

    def forward(self, output, group):
        """Total, regression and classification term (scalar tensors)."""
        zero = output.new_zeros(())
        regression = classification = zero
        direction = None
        if self.l2 or self.classification_weight:
            direction = F.normalize(output)
        if self.regression_weight:
            pred = direction if self.l2 else output
            target = self.targets.index_select(0, group)
            regression = self.loss(pred, target, group)
        if self.classification_weight:
            logits = direction @ self.directions_t
            classification = F.cross_entropy(logits, group)
        total = (
            self.regression_weight * regression
            + self.classification_weight * classification
        )
        return total, regression, classification


def make_loss(
    name, *, class_power, attribute_power, statistics, normalize_weights, n_groups
):
    """The loss module for a value of the estimators' parameter ``loss``."""
    if name == "remse":
        return ReMSELoss(
            class_power,
            attribute_power,
            statistics=statistics,
            normalize_weights=normalize_weights,
            n_groups=n_groups,
        )
    plain = {"mse": MSELoss, "mae": MAELoss, "rmse": RMSELoss, "bmc": BMCLoss}
    return plain[name]()


def make_optimizer(solver, head, objective, *, learning_rate, momentum, weight_decay):
    """SGD or AdamW over the head, and over a loss's own parameters undecayed."""
    groups = [{"params": list(head.parameters())}]
    own = list(objective.parameters())
    if own:
        groups.append({"params": own, "weight_decay": 0.0})
    if solver == "sgd":
        return torch.optim.SGD(
            groups,
            lr=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            fused=True,
        )
    return torch.optim.AdamW(
        groups, lr=learning_rate, weight_decay=weight_decay, fused=True
    )


def make_schedule(optimizer, learning_rate, n_steps):
    """Scheduler to be stepped after every batch, or None for a constant rate.

    One-cycle (Smith & Topin, 2018): up to the peak in the first 30 % of the
    steps, down to almost nothing in the rest. Momentum is left alone.
    """
    if learning_rate == "constant" or n_steps < 4:
        return None
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=n_steps,
        cycle_momentum=False,
    )


class Sampler:
    """Rows of the batches of one epoch after the other.

    Parameters
    ----------
    group : tensor of shape (n,), on the CPU
        Class of each row.

    kind : {"shuffle", "episodes"}
        "shuffle": each row once an epoch. "episodes": each batch has `shots`
        rows, drawn with replacement, of each of `ways` classes, drawn without;
        an epoch has as many rows as the data.

    generator : torch.Generator on the CPU
    """

    def __init__(self, group, *, kind, batch_size, ways, shots, generator):
        self.n = len(group)
        self.kind = kind
        self.batch_size = batch_size
        self.generator = generator
        if kind == "episodes":
            self.count = torch.bincount(group)
            self.by_class = group.argsort(stable=True)
            self.first = self.count.cumsum(0) - self.count
            self.ways = min(ways, len(self.count))
            self.shots = shots
            self.batch_size = self.ways * shots
        self.n_batches = max(1, math.ceil(self.n / self.batch_size))

    def epoch(self, device):
        """Batches of row numbers, on `device`."""
        if self.kind == "shuffle":
            order = torch.randperm(self.n, generator=self.generator)
            return order.to(device).split(self.batch_size)
        draw = torch.rand(self.n_batches, len(self.count), generator=self.generator)
        classes = draw.topk(self.ways, dim=1).indices
        size = (self.n_batches, self.ways, self.shots)
        draw = torch.rand(size, generator=self.generator, dtype=torch.float64)
        nth = (draw * self.count[classes].unsqueeze(2)).long()
        rows = self.by_class[self.first[classes].unsqueeze(2) + nth]
        return rows.flatten(1).to(device).unbind()


class Epoch(NamedTuple):
    """Mean terms of the objective over the batches of one epoch.

    weights (a,): mean weight that ReMSE gave each attribute; None for other losses.
    """

    loss: float
    regression: float
    classification: float
    weights: np.ndarray | None = None


def run_epoch(head, objective, optimizer, schedule, X, group, batches) -> Epoch:
    """One pass over the batches.

    Parameters
    ----------
    X : tensor of shape (n, d)
        On the head's device, or on the CPU where it does not fit there.

    group : tensor of shape (n,), on the head's device

    batches : iterable of tensors of row numbers, on the head's device
        Or of pairs (x, group) of the rows themselves, where these lie in a file.

    Returns
    -------
    epoch : Epoch
        Read back from the device at the end only.
    """
    head.train()
    sums = group.new_zeros(3, dtype=X.dtype)
    rows = 0
    weights = None
    for batch in batches:
        if isinstance(batch, tuple):
            x, of_batch = batch
        else:
            x = X.index_select(0, batch.to(X.device)).to(batch.device)
            of_batch = group.index_select(0, batch)
        terms = objective(head(x), of_batch)
        optimizer.zero_grad(set_to_none=True)
        terms[0].backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        sums += torch.stack(terms).detach() * len(x)
        rows += len(x)
        latest = getattr(objective.loss, "_latest", None)
        if latest is not None:
            part = (latest[1] * latest[0].count).sum(dim=0)
            weights = part if weights is None else weights.add_(part)
    if weights is not None:
        weights = (weights / rows).cpu().numpy()
    return Epoch(*(sums / rows).tolist(), weights)


def held_out_score(head, X, group, prototypes, *, rank):
    """How well a head does on classes it was not trained on.

    Parameters
    ----------
    X : tensor of shape (n, d)

    group : tensor of shape (n,), the rows' classes

    prototypes : tensor of shape (K, a), in the training space

    rank : bool
        True: class-mean accuracy of the nearest prototype by cosine. False, for
        targets that are no class table: minus the mean squared error.
    """
    head.eval()
    with torch.inference_mode():
        output = torch.cat([head(part.to(group.device)) for part in X.split(8192)])
        if not rank:
            return -F.mse_loss(output, prototypes[group]).item()
        hit = (output @ F.normalize(prototypes).T).argmax(1) == group
        count = torch.bincount(group, minlength=len(prototypes)).clamp_min(1)
        hits = torch.bincount(group, weights=hit.double(), minlength=len(prototypes))
        return (hits / count).mean().item()


class Stopping:
    """Remembers the best weights and says when to stop looking for better ones."""

    def __init__(self, *, n_iter_no_change, tol):
        self.patience, self.tol = n_iter_no_change, tol
        self.best, self.scores, self.waited, self.weights = -math.inf, [], 0, None

    def update(self, score, head) -> bool:
        self.scores.append(score)
        # Improving by less than tol does not extend the search, yet a better
        # model is a better model.
        self.waited = 0 if score > self.best + self.tol else self.waited + 1
        if score > self.best:
            self.best = score
            self.weights = copy.deepcopy(head.state_dict())
        return self.waited >= self.patience


def auto_batch_size(n):
    """256 rows, less for small data, so that an epoch has at least 16 steps."""
    return max(1, min(256, n // 16))


def resolve_device(name, dtype):
    """The torch device that a `device` parameter means, or a sentence."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(
            f"device must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', got {name!r}."
        ) from None
    count = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }.get(device.type, 0)
    if (device.index or 0) >= count:
        raise ValueError(
            f"device={name!r} was asked for, but torch finds no such device here; "
            "use 'auto' or 'cpu'."
        )
    if device.type == "mps" and dtype == np.float64:
        raise ValueError(
            "device='mps' knows no float64; give X in float32, or use device='cpu'."
        )
    return device


def as_tensor(array, device):
    """A tensor of a NumPy array, sharing its memory where torch allows it."""
    # torch takes neither negative strides nor (without a warning) read-only
    # memory, such as joblib's memory maps.
    array = np.require(array, requirements=["C", "W"])
    return torch.from_numpy(array).to(device)


def place_features(X, device):
    """X (n, d) as a tensor: on the device if it fits beside the rest, else here."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if X.nbytes > 0.7 * free:
            return as_tensor(X, "cpu")
    return as_tensor(X, device)


def state_to_numpy(state):
    """A nested state_dict with arrays for tensors: it unpickles without torch."""
    if isinstance(state, torch.Tensor):
        return state.detach().cpu().numpy().copy()
    if isinstance(state, dict):
        return {key: state_to_numpy(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [state_to_numpy(value) for value in state]
    return state


def state_to_torch(state):
    """The inverse of :func:`state_to_numpy`."""
    if isinstance(state, np.ndarray):
        return torch.from_numpy(state.copy())
    if isinstance(state, dict):
        return {key: state_to_torch(value) for key, value in state.items()}
    if isinstance(state, list):
        return [state_to_torch(value) for value in state]
    return state


def epochs(
    head, objective, optimizer, schedule, X, group, sampler, n_epochs
) -> Iterator[Epoch]:
    """Run epochs one by one, so that whoever iterates may stop in between.

    Raises
    ------
    FloatingPointError
        If the loss is no longer finite after an epoch.
    """
    for number in range(n_epochs):
        epoch = run_epoch(
            head, objective, optimizer, schedule, X, group, sampler.epoch(group.device)
        )
        if not math.isfinite(epoch.loss):
            raise FloatingPointError(f"the loss is {epoch.loss} in epoch {number + 1}")
        yield epoch

"""The training loop: objective, batches, optimiser, schedule, early stop.

Tensors in, a trained head out; nothing here knows scikit-learn.
"""

import contextlib
import copy
import math
import threading
import traceback
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from .losses import (
    BMCLoss,
    MAELoss,
    ReMSELoss,
    RMSELoss,
    batch_means,
    remse_weights,
)


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

    def totals(self, regression, classification):
        """The objective from its two terms."""
        return (
            self.regression_weight * regression
            + self.classification_weight * classification
        )

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
        return self.totals(regression, classification), regression, classification


class FusedObjective:
    """:class:`Objective` of several heads, with its gradient written out.

    For squared errors, weighted (ReMSE, statistics of the batch) or not; the formula
    is that of :class:`Objective`, and each setting may differ from head to head.

    Parameters
    ----------
    prototypes : tensor of shape (K, a)
        As in :class:`Objective`.

    powers : list of (class_power, attribute_power), one for each of m heads
        Both 0 is plain MSE.

    normalize_weights, l2 : bool
        The same for all heads.

    regression_weights, classification_weights, scales : lists of m floats
    """

    def __init__(
        self,
        prototypes,
        *,
        powers,
        normalize_weights,
        regression_weights,
        classification_weights,
        scales,
        l2,
    ):
        def per_head(values):
            """A number where all heads have the same one, else (heads, 1)."""
            if len(set(values)) == 1:
                return float(values[0])
            return prototypes.new_tensor(values).unsqueeze(1)

        self.n_heads = len(powers)
        self.weighted = any(map(any, powers))
        self.class_power = per_head([powers_of[0] for powers_of in powers])
        self.attribute_power = per_head([powers_of[1] for powers_of in powers])
        self.normalize_weights = normalize_weights
        self.regress = any(regression_weights)
        self.classify = any(classification_weights)
        self.regression_weight = per_head(regression_weights)
        self.classification_weight = per_head(classification_weights)
        self.scale = per_head(scales)
        self.l2 = l2
        self.directions = F.normalize(prototypes)
        self.targets = self.directions if l2 else prototypes
        self.logits_of_direction = self.directions.T.contiguous()
        if isinstance(self.scale, float):
            self.logits_of_direction *= self.scale
        self.n_groups = len(prototypes)
        self.weights = None

    def gradient(self, output, group):
        """Terms of the objective and their gradient.

        Parameters
        ----------
        output : tensor of shape (n, heads, a)

        group : tensor of shape (n,)

        Returns
        -------
        regression, classification : tensors of shape (heads,)
            The unweighted terms of the objective.

        gradient : tensor of shape (n, heads, a)
        """
        n, _, a = output.shape
        along = gradient = regression = classification = None
        if self.classify or self.l2:
            # As F.normalize: rows of zeros stay.
            length = torch.linalg.vector_norm(output, dim=2, keepdim=True)
            length.clamp_min_(1e-12)
            direction = output / length
        if self.regress:
            target = self.targets.index_select(0, group).unsqueeze(1)
            gradient = (direction if self.l2 else output) - target
            regression = self._weight_errors(gradient, group)
            if self.l2:
                along, gradient = gradient, None
        if self.classify:
            classification, back = self._classification(direction, group)
            along = back if along is None else along.add_(back)
        if along is not None:
            # Only the part across the output turns its direction.
            along.addcmul_(direction, (along * direction).sum(2, True), value=-1)
            along.div_(length)
            gradient = along if gradient is None else gradient.add_(along)
        return regression, classification, gradient

    def totals(self, regression, classification):
        """The objective (heads,) from its terms (heads,)."""
        shares = [
            share if isinstance(share, float) else share[:, 0].cpu()
            for share in (self.regression_weight, self.classification_weight)
        ]
        return shares[0] * regression + shares[1] * classification

    def _weight_errors(self, difference, group):
        """Regression terms (heads,); `difference` becomes their weighted gradient."""
        n, _, a = difference.shape
        if not self.weighted:
            value = difference.square().mean(dim=(0, 2))
            difference.mul_(self.regression_weight * (2 / (n * a)))
            return value
        batch = batch_means(difference.square(), group, self.n_groups)
        weight = remse_weights(batch.error, self.class_power, self.attribute_power)
        sums = (weight * batch.count).sum(0)  # (heads, a), over the samples
        if self.normalize_weights:
            # To weights of mean 1 and to the mean over all entries in one step.
            share = sums.sum(1, keepdim=True).reciprocal_()
        else:
            share = sums.new_full((self.n_heads, 1), 1 / (n * a))
        value = (weight * batch.total).sum(dim=(0, 2)).mul_(share[:, 0])
        slope = weight.mul_(share * (2 * self.regression_weight))
        difference.mul_(slope.index_select(0, batch.slot))
        self.weights = sums.mul_(share.mul_(n * a))
        return value

    def _classification(self, direction, group):
        """Cross-entropy (heads,), and its gradient with respect to the direction."""
        n, m, a = direction.shape
        logits = (direction.view(-1, a) @ self.logits_of_direction).view(n, m, -1)
        if not isinstance(self.scale, float):
            logits.mul_(self.scale)
        log_p = logits.log_softmax(2)
        true = group.view(-1, 1, 1).expand(-1, m, 1)
        value = log_p.gather(2, true).sum(dim=(0, 2)).div_(-n)
        p = log_p.exp_()
        p.scatter_add_(2, true, p.new_full((), -1.0).expand(n, m, 1))
        back = (p.view(n * m, -1) @ self.directions).view(n, m, a)
        return value, back.mul_(self.scale * self.classification_weight * (1 / n))


class Trainee:
    """Heads and what they are trained for: a batch in, gradients out.

    Parameters
    ----------
    heads : Heads

    objective : FusedObjective, or Objective for one head

    tf32 : bool
        Whether CUDA may round the factors of products to 11 bits.

    Attributes
    ----------
    latest_weights : tensor of shape (heads, a) or None
        Sums of ReMSE's weights over the latest batch.
    """

    def __init__(self, heads, objective, *, tf32=False):
        self.heads, self.objective, self.tf32 = heads, objective, tf32
        self.fused = isinstance(objective, FusedObjective)

    def gradients(self, x, group):
        """Fill the gradients; the objective's two terms, each (heads,) or None."""
        with products(x.device, self.tf32):
            return self._gradients(x, group)

    def _gradients(self, x, group):
        output = self.heads(x)
        if self.fused:
            *terms, gradient = self.objective.gradient(output, group)
            self.latest_weights = self.objective.weights
        else:
            leaf = output[:, 0].detach().requires_grad_()
            for parameter in self.objective.parameters():
                parameter.grad = None
            total, *terms = self.objective(leaf, group)
            total.backward()
            gradient = leaf.grad.unsqueeze(1)
            terms = [term.detach().unsqueeze(0) for term in terms]
            self.latest_weights = _latest_weights(self.objective.loss)
        self.heads.backward(gradient)
        return terms

    def totals(self, regression, classification):
        return self.objective.totals(regression, classification)

    def train(self):
        self.heads.train()


_PRECISION = threading.Lock()  # of CUDA's products, a setting of the whole process


@contextlib.contextmanager
def products(device, tf32=False):
    """Let CUDA use TF32 within the block, or not; what was set is set again after it.

    Training in other threads waits meanwhile: it neither computes in another precision
    than its own, nor takes this one for what the user has set.
    """
    if not tf32 and device.type != "cuda":
        yield
        return
    with _PRECISION:
        if not tf32:
            yield
            return
        matmul = torch.backends.cuda.matmul
        # The newer name where there is one: torch refuses to mix them.
        new = hasattr(matmul, "fp32_precision")
        name, value = ("fp32_precision", "tf32") if new else ("allow_tf32", True)
        before = getattr(matmul, name)
        setattr(matmul, name, value)
        try:
            yield
        finally:
            setattr(matmul, name, before)


@contextlib.contextmanager
def usual_torch():
    """Train as if the caller had set nothing in torch.

    Gradients are recorded (fit may be called under ``no_grad`` or
    ``inference_mode``), tensors are made on the CPU (not on a default device), and
    products are of the precision asked for (not of autocast's). All of these belong
    to a thread.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        # At each call these cost time, so only where there is something to undo.
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextlib.contextmanager
def memory_in_a_sentence(device, shape, batch_size):
    """Say what to do where an accelerator's memory does not suffice for X (n, d)."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        # Who keeps the error must not keep the tensors of its frames.
        traceback.clear_frames(error.__traceback__)
        raise MemoryError(
            f"the memory of {device} does not suffice for {shape[0]} x {shape[1]} "
            f"features with batch_size={batch_size}; lower batch_size, or set "
            "device='cpu'."
        ) from error


class AutogradTrainee:
    """Any torch module and loss of its output and the classes, by autograd."""

    latest_weights = None

    def __init__(self, module, loss):
        self.module, self.loss = module, loss

    def gradients(self, x, group):
        self.module.zero_grad(set_to_none=True)
        with products(x.device):
            value = self.loss(self.module(x), group)
            value.backward()
        return value.detach().unsqueeze(0), None

    def totals(self, regression, classification):
        return regression

    def train(self):
        self.module.train()


def _latest_weights(loss):
    latest = getattr(loss, "_latest", None)
    if latest is None:
        return None
    batch, weight = latest
    return (weight * batch.count).sum(0, keepdim=True)


def make_loss(
    name, *, class_power, attribute_power, statistics, normalize_weights, n_groups
):
    """The loss module for a value of ``loss`` that :class:`FusedObjective` has not."""
    if name == "remse":
        return ReMSELoss(
            class_power,
            attribute_power,
            statistics=statistics,
            normalize_weights=normalize_weights,
            n_groups=n_groups,
        )
    plain = {"mae": MAELoss, "rmse": RMSELoss, "bmc": BMCLoss}
    return plain[name]()


class Optimizer:
    """AdamW or SGD over groups of parameters, each with a rate and decay of its own.

    torch's kernels behind a step of our own: the classes of torch.optim import a
    compiler at their first use, which takes longer than many a fit.

    Parameters
    ----------
    solver : {"adamw", "sgd"}

    groups : list of (parameters, learning_rate, weight_decay)
        Parameters are tensors that carry their gradients.

    momentum : float
        Of "sgd".

    schedule : callable or None
        Given the number of steps taken, the share of the learning rates to use.
    """

    def __init__(self, solver, groups, *, momentum=0.0, schedule=None):
        self.solver, self.momentum, self.schedule = solver, momentum, schedule
        self.n_steps = 0
        self.groups = []
        for parameters, rate, decay in groups:
            state = {}
            if solver == "adamw":
                state["mean"] = [torch.zeros_like(p) for p in parameters]
                state["square"] = [torch.zeros_like(p) for p in parameters]
                state["step"] = [p.new_zeros((), dtype=torch.float) for p in parameters]
            else:
                state["momentum"] = [None] * len(parameters)
            self.groups.append((list(parameters), float(rate), float(decay), state))

    @torch.no_grad()
    def step(self):
        share = 1.0 if self.schedule is None else self.schedule(self.n_steps)
        self.n_steps += 1
        for parameters, rate, decay, state in self.groups:
            gradients = [parameter.grad for parameter in parameters]
            if self.solver == "adamw":
                adamw(
                    parameters,
                    gradients,
                    state["mean"],
                    state["square"],
                    [],
                    state["step"],
                    fused=True,
                    amsgrad=False,
                    beta1=0.9,
                    beta2=0.999,
                    lr=rate * share,
                    weight_decay=decay,
                    eps=1e-8,
                    maximize=False,
                )
            else:
                sgd(
                    parameters,
                    gradients,
                    state["momentum"],
                    fused=True,
                    weight_decay=decay,
                    momentum=self.momentum,
                    lr=rate * share,
                    dampening=0.0,
                    nesterov=False,
                    maximize=False,
                )

    def state_dict(self):
        return {"n_steps": self.n_steps, "groups": [group[3] for group in self.groups]}

    def load_state_dict(self, state):
        self.n_steps = state["n_steps"]
        for (parameters, _, _, own), saved in zip(
            self.groups, state["groups"], strict=True
        ):
            device = parameters[0].device
            for name, tensors in saved.items():
                own[name] = [t if t is None else t.to(device) for t in tensors]


def one_cycle(n_steps):
    """Share of the peak learning rate at each of `n_steps` steps, or None.

    One-cycle (Smith & Topin, 2018) as torch's OneCycleLR has it: from 1/25 of the
    peak up to it in the first 30 % of the steps, down to almost nothing in the rest,
    along cosines. Momentum is left alone. None means a constant rate.
    """
    if n_steps < 4:
        return None
    top, end = 0.3 * n_steps - 1, n_steps - 1

    def share(step):
        if step <= top:
            return _cosine(1 / 25, 1.0, step / top)
        return _cosine(1.0, 1 / 25e4, (step - top) / (end - top))

    return share


def _cosine(first, last, way):
    return last + (first - last) / 2 * (1 + math.cos(math.pi * way))


class Sampler:
    """Rows of the batches of one epoch after the other.

    Parameters
    ----------
    group : tensor of shape (n,), on the CPU
        Class of each row.

    kind : {"shuffle", "episodes"}
        "shuffle": each row once an epoch. "episodes": each batch has `shots`
        rows, drawn with replacement, of each of `ways` classes that have rows,
        drawn without; an epoch has as many rows as the data.

    generator : torch.Generator on the CPU
    """

    def __init__(self, group, *, kind, batch_size, ways, shots, generator):
        self.n = len(group)
        self.kind = kind
        self.batch_size = batch_size
        self.generator = generator
        if kind == "episodes":
            # Numbered anew: of the classes of a table a part may have no row.
            group, self.count = group.unique(return_inverse=True, return_counts=True)[
                1:
            ]
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
        size = (self.n_batches, len(self.count))
        draw = torch.rand(size, generator=self.generator, dtype=torch.float32)
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


def run_epoch(trainee, optimizer, X, group, batches) -> list[Epoch]:
    """One pass over the batches.

    Parameters
    ----------
    trainee : Trainee or AutogradTrainee

    optimizer : Optimizer

    X : tensor of shape (n, d)
        On the trainee's device, or on the CPU where it does not fit there.

    group : tensor of shape (n,), on the trainee's device

    batches : iterable of tensors of row numbers, on the trainee's device
        Or of pairs (x, group) of the rows themselves, where these lie in a file.

    Returns
    -------
    epochs : list of Epoch, one for each head
        Read back from the device at the end only.
    """
    trainee.train()
    sums, rows = [None, None, None], 0
    memory = None
    for batch in batches:
        if isinstance(batch, tuple):
            x, of_batch = batch
        elif X.device != batch.device:
            x = X.index_select(0, batch.to(X.device)).to(batch.device)
            of_batch = group.index_select(0, batch)
        else:
            if memory is None or len(memory) < len(batch):
                memory = X.new_empty(len(batch), *X.shape[1:])
            x = torch.index_select(X, 0, batch, out=memory[: len(batch)])
            of_batch = group.index_select(0, batch)
        terms = trainee.gradients(x, of_batch)
        optimizer.step()
        rows += len(x)
        terms = [None if term is None else term.mul_(len(x)) for term in terms]
        for number, term in enumerate([*terms, trainee.latest_weights]):
            if term is not None:
                old = sums[number]
                sums[number] = term if old is None else old.add_(term)
    *terms, weights = [None if total is None else total.cpu() / rows for total in sums]
    zero = torch.zeros(len(next(term for term in terms if term is not None)))
    regression, classification = [zero if term is None else term for term in terms]
    total = trainee.totals(regression, classification)
    weights = [None] * len(zero) if weights is None else weights.numpy()
    return [
        Epoch(*values, row)
        for *values, row in zip(
            total.tolist(),
            regression.tolist(),
            classification.tolist(),
            weights,
            strict=True,
        )
    ]


def held_out_score(head, X, group, prototypes, *, rank, l2=False):
    """How well a head does on classes it was not trained on.

    Parameters
    ----------
    X : tensor of shape (n, d)

    group : tensor of shape (n,), the rows' classes

    prototypes : tensor of shape (K, a), in the training space

    rank : bool
        True: class-mean accuracy of the nearest prototype by cosine. False, for
        targets that are no class table: minus the mean squared error.

    l2 : bool
        Whether training compares directions: the error is then theirs.
    """
    head.eval()
    with torch.inference_mode():
        parts = [head(part.to(group.device)) for part in X.split(8192)]
        output = torch.cat(parts)[:, 0]
        if not rank:
            if l2:
                output, prototypes = F.normalize(output), F.normalize(prototypes)
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


def place_features(X, device, dtype=None):
    """X (n, d) as a tensor: on the device if it fits beside the rest, else here."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if X.nbytes > 0.7 * free:
            device = "cpu"
    x = as_tensor(X, device)
    return x if dtype is None else x.to(dtype)


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


def epochs(trainee, optimizer, X, group, sampler, n_epochs) -> Iterator[Epoch]:
    """Epochs of one head one by one, so that whoever iterates may stop in between.

    Raises
    ------
    FloatingPointError
        If the loss is no longer finite after an epoch.
    """
    for number in range(n_epochs):
        batches = sampler.epoch(group.device)
        (epoch,) = run_epoch(trainee, optimizer, X, group, batches)
        if not math.isfinite(epoch.loss):
            raise FloatingPointError(f"the loss is {epoch.loss} in epoch {number + 1}")
        yield epoch

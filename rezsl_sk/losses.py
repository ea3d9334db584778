"""ReMSE and the regression losses it is compared with, as torch modules.

Nothing here knows the rest of the library: each loss works in anybody's own
torch loop.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

__all__ = [
    "BMCLoss",
    "MAELoss",
    "MSELoss",
    "RMSELoss",
    "ReMSELoss",
    "remse_loss",
]

_REDUCTIONS = ("mean", "sum", "none")


class ReMSELoss(nn.Module):
    r"""Squared error re-weighted by the error of each class and each attribute.

    Plain MSE lets a network neglect the attributes and classes that are hard
    to regress. ReMSE tracks the mean squared error :math:`E_{kj}` of class
    :math:`k` on attribute :math:`j` and gives the entries that lag behind more
    weight:

    .. math::
        W_{kj} = \Bigl(1 + \ln \frac{E_{kj}}{\min_{k'} E_{k'j}}\Bigr)^{p}
                 \Bigl(1 + \ln \frac{E_{kj}}{\min_{j'} E_{kj'}}\Bigr)^{q},
        \qquad
        \mathcal{L} = \frac{1}{n a} \sum_{i,j} W_{c_i j}\,
                      (\hat s_{ij} - s_{ij})^2 ,

    with p = ``class_power`` and q = ``attribute_power``. W is held constant in
    derivatives of every order. An entry whose error is exactly 0 has weight 1 and
    is left out of both minima.

    Parameters
    ----------
    class_power : float, default=1.0
        Power p of the comparison between classes; 0 switches it off.

    attribute_power : float, default=1.0
        Power q of the comparison between attributes; 0 switches it off. With
        both powers 0 the loss is :func:`torch.nn.functional.mse_loss` to the
        bit.

    statistics : {"batch", "running"}, default="batch"
        "batch": E is the mean over the samples of a class in this batch.
        "running": E of a class is its mean over the latest batch in which it
        occurred, without momentum, and the minima run over all classes seen so
        far. The paper calls them in-batch and cross-batch. After ``eval()`` a batch
        is compared with them and does not change them.

    normalize_weights : bool, default=True
        Divide W by its mean over the entries of the batch, so that the powers
        change the direction of the gradient and not the size of the loss. The
        paper does not (False).

    reduction : {"mean", "sum", "none"}, default="mean"
        As in :class:`torch.nn.MSELoss`; "none" gives the (n, a) weighted
        squared errors.

    n_groups : int or None, default=None
        If given, groups are the integers 0 to ``n_groups - 1`` and the loss
        reads nothing back from an accelerator (where it cannot check them). None
        allows any integers.

    Attributes
    ----------
    group_ : tensor of shape (k,)
        The classes of the latest batch, sorted.

    error_ : tensor of shape (k, a)
        Their mean squared errors E in that batch, in squared target units.

    weight_ : tensor of shape (k, a)
        Their weights W as used, without unit.

    running_group, running_error : tensors of shape (K,) and (K, a)
        Buffers of ``statistics="running"``: all classes seen so far and their
        latest errors (NaN: not seen yet). They are part of ``state_dict``.

    Notes
    -----
    The transforms of :mod:`torch.func` apply. ``vmap`` needs
    ``statistics="batch"``, and leaves no ``group_``, ``error_`` and ``weight_``
    behind.

    References
    ----------
    Ye, Yang, Jin, Liu, Huang: Rebalanced Zero-shot Learning. IEEE Transactions
    on Image Processing, 2023, equations 5 to 9. arXiv:2210.07031.

    Examples
    --------
    >>> import torch
    >>> from rezsl_sk.losses import ReMSELoss
    >>> loss = ReMSELoss(class_power=1.0, attribute_power=0.0)
    >>> pred = torch.tensor([[1.0, 2.0], [2.0, 1.0]], requires_grad=True)
    >>> target = torch.zeros(2, 2)
    >>> value = loss(pred, target, group=torch.tensor([7, 3]))
    >>> value.backward()
    >>> loss.group_, loss.weight_.round(decimals=2)
    (tensor([3, 7]), tensor([[1.4100, 0.5900],
            [0.5900, 1.4100]]))
    """

    running_group: torch.Tensor
    running_error: torch.Tensor

    def __init__(
        self,
        class_power: float = 1.0,
        attribute_power: float = 1.0,
        *,
        statistics: Literal["batch", "running"] = "batch",
        normalize_weights: bool = True,
        reduction: Literal["mean", "sum", "none"] = "mean",
        n_groups: int | None = None,
    ) -> None:
        super().__init__()
        for name, power in [
            ("class_power", class_power),
            ("attribute_power", attribute_power),
        ]:
            if not isinstance(power, Real) or not math.isfinite(power) or power < 0:
                raise ValueError(
                    f"{name} must be a finite number of at least 0, got {power!r}."
                )
        if statistics not in ("batch", "running"):
            raise ValueError(
                f"statistics must be 'batch' or 'running', got {statistics!r}."
            )
        if reduction not in _REDUCTIONS:
            raise ValueError(
                f"reduction must be one of {_REDUCTIONS}, got {reduction!r}."
            )
        if n_groups is not None and (
            isinstance(n_groups, bool)
            or not isinstance(n_groups, Integral)
            or n_groups < 1
        ):
            raise ValueError(
                f"n_groups must be a whole number of at least 1, or None, got "
                f"{n_groups!r}."
            )
        self.class_power = float(class_power)
        self.attribute_power = float(attribute_power)
        self.statistics = statistics
        self.normalize_weights = normalize_weights
        self.reduction = reduction
        self.n_groups = n_groups
        self._latest: tuple[_Batch, torch.Tensor] | None = None
        if statistics == "running":
            groups = torch.arange(n_groups or 0)
            self.register_buffer("running_group", groups)
            # The number of attributes is known from the first batch on.
            self.register_buffer("running_error", torch.empty(len(groups), 0))

    def extra_repr(self) -> str:
        return (
            f"class_power={self.class_power}, attribute_power={self.attribute_power}, "
            f"statistics={self.statistics!r}, "
            f"normalize_weights={self.normalize_weights}, "
            f"reduction={self.reduction!r}"
        )

    def forward(
        self, pred: torch.Tensor, target: torch.Tensor, group: torch.Tensor
    ) -> torch.Tensor:
        """Loss of a batch.

        Parameters
        ----------
        pred : tensor of shape (n, a)
            Predicted attributes; gradients flow to it.

        target : tensor of shape (n, a)
            Attributes of each sample's class.

        group : integer tensor of shape (n,)
            Class of each sample.

        Returns
        -------
        loss : tensor, a scalar, or of shape (n, a) with reduction "none"
            In at least single precision, also under autocast.

        Raises
        ------
        ValueError
            If shapes do not agree, the batch is empty, or group has no integer
            type.
        """
        pred, target = _checked_pair(pred, target, group)
        if self.n_groups is not None and group.device.type == "cpu":
            _check_groups(group, self.n_groups)
        squared = (pred - target).square()
        # Detached, not under no_grad: that would leave derivatives in forward mode.
        batch = batch_means(squared.detach(), group, self.n_groups)
        everyone = None
        if self.statistics == "running":
            everyone = self._compare_with_running(batch)
        plain = self.class_power == 0 and self.attribute_power == 0
        if plain:
            weight = torch.ones_like(batch.error)
        else:
            weight = remse_weights(
                batch.error, self.class_power, self.attribute_power, everyone
            )
            if self.normalize_weights:
                weight.mul_(pred.numel() / (weight * batch.count).sum())
        self._latest = None
        if not _is_vmapped(weight, batch.group):
            self._latest = _Batch(*map(_unwrapped, batch)), _unwrapped(weight)
        if plain:
            return F.mse_loss(pred, target, reduction=self.reduction)
        if self.reduction == "mean":
            weight = weight / pred.numel()
        weight = weight.index_select(0, batch.slot)
        if self.reduction == "none":
            return squared * weight
        return squared.flatten().dot(weight.flatten())

    def _compare_with_running(self, batch):
        """Errors of all classes seen so far, those of the batch being the latest.

        In training they become the running errors.
        """
        if _is_vmapped(batch.error, batch.group):
            raise ValueError(
                "statistics='running' compares one batch after the other, which vmap "
                "does not have; use statistics='batch'."
            )
        error, of_batch = _unwrapped(batch.error), _unwrapped(batch.group)
        groups = self.running_group.to(error.device)
        running = self.running_error.to(error.device)
        if running.shape[1] != error.shape[1]:
            if running.shape[1]:
                raise ValueError(
                    f"this loss has running errors of {running.shape[1]} "
                    f"attributes, got a batch with {error.shape[1]}; make a new "
                    "ReMSELoss for another set of attributes."
                )
            running = error.new_full((len(groups), error.shape[1]), math.nan)
        if self.n_groups is None:
            groups, running = _with_room(groups, running, of_batch)
        row = torch.searchsorted(groups, of_batch)
        # Rows stay as they are for slots that no sample fills, and after a bad
        # step (an overflow under autocast) that must not stay in the statistics.
        new = error.to(running.dtype)
        new = torch.where(new.isfinite(), new, running.index_select(0, row))
        # A new tensor: the transforms of torch.func refuse to change one in place.
        running = _unwrapped(running.index_copy(0, row, new))
        if self.training:
            self.running_group, self.running_error = _unwrapped(groups), running
        return running.to(error.dtype)

    def _diagnosis(self):
        if self._latest is None:
            raise RuntimeError(
                "this ReMSELoss has not seen a batch yet; call it once first."
            )
        batch, weight = self._latest
        return batch, weight, batch.count.squeeze(1) > 0

    @property
    def group_(self) -> torch.Tensor:
        batch, _, present = self._diagnosis()
        return batch.group[present]

    @property
    def error_(self) -> torch.Tensor:
        batch, _, present = self._diagnosis()
        return batch.error[present]

    @property
    def weight_(self) -> torch.Tensor:
        _, weight, present = self._diagnosis()
        return weight[present]

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # The buffers grow with the classes, so their saved shapes are theirs.
        for name in ("running_group", "running_error"):
            saved = state_dict.get(prefix + name)
            if saved is not None and hasattr(self, name):
                buffer = getattr(self, name)
                setattr(
                    self,
                    name,
                    torch.empty(saved.shape, dtype=saved.dtype, device=buffer.device),
                )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def remse_loss(
    pred: torch.Tensor,
    target: torch.Tensor,
    group: torch.Tensor,
    *,
    class_power: float = 1.0,
    attribute_power: float = 1.0,
    normalize_weights: bool = True,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> torch.Tensor:
    """ReMSE of one batch, with the statistics of that batch.

    The functional form of :class:`ReMSELoss`, which documents the formula and
    the parameters.

    Parameters
    ----------
    pred, target : tensors of shape (n, a)
        Predicted attributes, and those of each sample's class.

    group : integer tensor of shape (n,)
        Class of each sample.

    class_power, attribute_power : float, default=1.0
        Powers of the two comparisons.

    normalize_weights : bool, default=True
        Whether the weights are divided by their mean.

    reduction : {"mean", "sum", "none"}, default="mean"
        As in :class:`torch.nn.MSELoss`.

    Returns
    -------
    loss : tensor, a scalar, or of shape (n, a) with reduction "none"

    Examples
    --------
    >>> import torch
    >>> from rezsl_sk.losses import remse_loss
    >>> pred, target = torch.tensor([[2.0], [4.0]]), torch.zeros(2, 1)
    >>> remse_loss(pred, target, torch.tensor([0, 0]))
    tensor(10.)
    """
    return ReMSELoss(
        class_power,
        attribute_power,
        normalize_weights=normalize_weights,
        reduction=reduction,
    )(pred, target, group)


class MSELoss(nn.Module):
    """Mean squared error with the signature of :class:`ReMSELoss`.

    Examples
    --------
    >>> import torch
    >>> from rezsl_sk.losses import MSELoss
    >>> MSELoss()(torch.tensor([[3.0]]), torch.tensor([[1.0]]), torch.tensor([0]))
    tensor(4.)
    """

    def forward(
        self, pred: torch.Tensor, target: torch.Tensor, group: torch.Tensor
    ) -> torch.Tensor:
        return F.mse_loss(*_checked_pair(pred, target, group))


class MAELoss(nn.Module):
    """Mean absolute error with the signature of :class:`ReMSELoss`.

    Examples
    --------
    >>> import torch
    >>> from rezsl_sk.losses import MAELoss
    >>> MAELoss()(torch.tensor([[3.0]]), torch.tensor([[1.0]]), torch.tensor([0]))
    tensor(2.)
    """

    def forward(
        self, pred: torch.Tensor, target: torch.Tensor, group: torch.Tensor
    ) -> torch.Tensor:
        return F.l1_loss(*_checked_pair(pred, target, group))


class RMSELoss(nn.Module):
    """Root of the batch's mean squared error, signature of :class:`ReMSELoss`.

    Examples
    --------
    >>> import torch
    >>> from rezsl_sk.losses import RMSELoss
    >>> RMSELoss()(torch.tensor([[3.0]]), torch.tensor([[1.0]]), torch.tensor([0]))
    tensor(2.)
    """

    def forward(
        self, pred: torch.Tensor, target: torch.Tensor, group: torch.Tensor
    ) -> torch.Tensor:
        mse = F.mse_loss(*_checked_pair(pred, target, group))
        # The root has no derivative at 0, where there is nothing to learn.
        return mse.clamp_min(torch.finfo(mse.dtype).tiny).sqrt()


class BMCLoss(nn.Module):
    r"""Balanced MSE, its batch-based Monte-Carlo form with a learnable noise.

    .. math::
        \mathcal{L} = -\frac{2\sigma^2}{n} \sum_i \ln
        \frac{\exp(-\lVert\hat s_i - s_i\rVert^2 / 2\sigma^2)}
             {\sum_{i'} \exp(-\lVert\hat s_i - s_{i'}\rVert^2 / 2\sigma^2)}

    The factor in front carries no gradient.

    Parameters
    ----------
    init_noise_sigma : float, default=1.0
        Start of the noise's standard deviation, in target units. It is the
        parameter ``noise_sigma`` (float32), which an optimiser learns with the
        network.

    References
    ----------
    Ren, Zhang, Yu, Liu: Balanced MSE for Imbalanced Visual Regression. CVPR
    2022, section 4.3.

    Examples
    --------
    >>> import torch
    >>> from rezsl_sk.losses import BMCLoss
    >>> pred, target = torch.zeros(2, 1), torch.tensor([[0.0], [2.0]])
    >>> BMCLoss()(pred, target, torch.tensor([0, 1])).detach().round(decimals=4)
    tensor(2.2539)
    """

    def __init__(self, init_noise_sigma: float = 1.0) -> None:
        super().__init__()
        if (
            not isinstance(init_noise_sigma, Real)
            or not 0 < init_noise_sigma < math.inf
        ):
            raise ValueError(
                f"init_noise_sigma must be a finite number above 0, got "
                f"{init_noise_sigma!r}."
            )
        self.noise_sigma = nn.Parameter(
            torch.tensor(float(init_noise_sigma), dtype=torch.float32)
        )

    def forward(
        self, pred: torch.Tensor, target: torch.Tensor, group: torch.Tensor
    ) -> torch.Tensor:
        pred, target = _checked_pair(pred, target, group)
        variance = self.noise_sigma.to(pred.dtype).square()
        # Distances do not depend on the origin, their rounding does.
        origin = target.detach().mean(0)
        pred, target = pred - origin, target - origin
        # |p - t|^2 expanded: no (n, n, a) tensor of differences.
        distance = (
            pred.square().sum(1, keepdim=True)
            + target.square().sum(1)
            - 2 * pred @ target.T
        )
        own = torch.arange(len(pred), device=pred.device)
        loss = F.cross_entropy(-distance / (2 * variance), own)
        return loss * (2 * variance).detach()


def _checked_pair(pred, target, group):
    """Both in one dtype of at least single precision, or a sentence."""
    for name, tensor in [("pred", pred), ("target", target), ("group", group)]:
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(
                f"{name} must be a torch tensor, got {type(tensor).__name__}; make one "
                "of it by torch.as_tensor."
            )
        if tensor.device != pred.device:
            raise ValueError(
                f"pred is on {pred.device} and {name} on {tensor.device}; bring all to "
                "one device."
            )
    if pred.ndim != 2 or pred.shape != target.shape or not pred.numel():
        raise ValueError(
            "pred and target must both have shape (n, a) with n and a at least 1, got "
            f"{tuple(pred.shape)} and {tuple(target.shape)}."
        )
    if not pred.is_floating_point():
        raise ValueError(f"pred must have a floating-point dtype, got {pred.dtype}.")
    if target.is_complex():
        raise ValueError(f"target must have a real dtype, got {target.dtype}.")
    if group.shape != pred.shape[:1]:
        raise ValueError(
            f"group must have shape ({len(pred)},), one class for each row of pred, "
            f"got {tuple(group.shape)}."
        )
    if group.is_floating_point() or group.is_complex() or group.dtype == torch.bool:
        raise ValueError(f"group must have an integer dtype, got {group.dtype}.")
    dtype = torch.promote_types(pred.dtype, target.dtype)
    if dtype in (torch.float16, torch.bfloat16):
        dtype = torch.float32
    return pred.to(dtype), target.to(dtype)


def _check_groups(group, n_groups):
    if _is_vmapped(group):  # vmap lets nothing be read
        return
    low, high = int(group.min()), int(group.max())
    if low < 0 or high >= n_groups:
        raise ValueError(
            f"n_groups={n_groups} allows groups 0 to {n_groups - 1}, got "
            f"{low if low < 0 else high}; number the classes from 0, or leave "
            "n_groups out."
        )


def _unwrapped(tensor):
    """The tensor itself where a transform of torch.func has wrapped it."""
    return torch.func.debug_unwrap(tensor)


def _is_vmapped(*tensors):
    return any(tensor.ndim != _unwrapped(tensor).ndim for tensor in tensors)


def _with_room(groups, error, new):
    """Sorted groups (K,) and their errors (K, a), rows of NaN for new ones added."""
    merged = torch.cat([groups, new]).unique()
    if len(merged) == len(groups):
        return groups, error
    row = torch.searchsorted(merged, groups)
    longer = error.new_full((len(merged), error.shape[1]), math.nan)
    return merged, longer.index_copy(0, row, error)


def _without_empty(error):
    """Errors with the empty entries (0 or NaN) out of every minimum."""
    return torch.where(error > 0, error, math.inf)


class _Batch(NamedTuple):
    """Squared errors of a batch, added up over its classes.

    Between samples and attributes there may be an axis of models that were given
    the same batch; what follows from it is computed for each of them.
    """

    slot: torch.Tensor  # (n,) compact number of each row's class
    group: torch.Tensor  # (k,) class of each slot
    count: torch.Tensor  # (k, 1) or (k, 1, 1) its rows, as floats
    total: torch.Tensor  # (k, a) or (k, models, a) their sum
    error: torch.Tensor  # its shape: their mean; NaN for a class without rows


def batch_means(squared, group, n_groups):
    """Add up squared errors (n, a) or (n, models, a) over the classes of a batch.

    There are at most n slots, however many classes there are in all. Only the
    CPU asks how many classes are present; on an accelerator that would make
    the host wait at each step, so some slots may have no row there.
    """
    group = group.long()
    if group.device.type == "cpu" and not _is_vmapped(group):
        group, slot, count = group.unique(return_inverse=True, return_counts=True)
        return _add_up(squared, slot, group, count.to(squared.dtype))
    if n_groups is not None and n_groups <= len(group):
        slot, group = group, torch.arange(n_groups, device=group.device)
        return _add_up(squared, slot, group, _count(squared, slot, n_groups))
    slot, group, last = _slots_by_sort(group)
    batch = _add_up(squared, slot, group, _count(squared, slot, len(group)))
    # Unused slots carry the last class's number; they carry its error too, so
    # that whatever is written by class number is written with one value.
    row = torch.arange(len(group), device=group.device).minimum(last)
    return batch._replace(error=batch.error.index_select(0, row))


def _count(squared, slot, n_slots):
    return squared.new_zeros(n_slots).index_add_(0, slot, squared.new_ones(len(slot)))


def _add_up(squared, slot, group, count):
    count = count.view(-1, *[1] * (squared.ndim - 1))
    total = squared.new_zeros(len(group), *squared.shape[1:])
    total.index_add_(0, slot, squared)
    return _Batch(slot, group, count, total, total / count)


def remse_weights(error, class_power, attribute_power, everyone=None):
    """W of the classes of a batch with errors (k, a) or (k, models, a).

    Powers are numbers, or tensors of shape (models, 1); `everyone` (K, a) has the
    errors that the batch is compared with, None means its own.
    """
    lowest_of_attribute = (error if everyone is None else everyone).amin(0, True)
    # Masks cost more than the weights themselves. They are needed only where
    # an error is 0 or (NaN) a class is absent; asking makes a host wait for
    # its accelerator, and vmap refuses, so only the CPU asks.
    masked = (
        error.device.type != "cpu"
        or _is_vmapped(lowest_of_attribute)
        or not bool((lowest_of_attribute > 0).all())
    )
    if masked:
        empty = ~(error > 0)
        everyone = error if everyone is None else everyone
        lowest_of_attribute = _without_empty(everyone).amin(0, keepdim=True)
        error = _without_empty(error)
    # Differences of logarithms, not logarithms of quotients: a tiny minimum
    # must not overflow the quotient.
    log_error = error.log()
    weight = None
    if not _is_number(class_power, 0):
        weight = log_error - lowest_of_attribute.log_().sub_(1.0)
        if not _is_number(class_power, 1):
            weight.pow_(class_power)
    if not _is_number(attribute_power, 0):
        factor = log_error.sub_(log_error.amin(-1, keepdim=True).sub_(1.0))
        if not _is_number(attribute_power, 1):
            factor.pow_(attribute_power)
        weight = factor if weight is None else weight.mul_(factor)
    return torch.where(empty, 1.0, weight) if masked else weight


def _is_number(power, number):
    return not isinstance(power, torch.Tensor) and power == number


def _slots_by_sort(group):
    """Slot of each row, class of each slot, the last slot in use.

    There are as many slots as rows, so no shape depends on the data. The slots
    in use come first; the others carry the number of the largest class.
    """
    ordered, order = group.sort()
    starts = torch.zeros_like(ordered)
    starts[1:] = ordered[1:] != ordered[:-1]
    slot_of_ordered = starts.cumsum(0)
    slot = torch.empty_like(group).scatter(0, order, slot_of_ordered)
    group_of_slot = ordered[-1:].repeat(len(group))
    group_of_slot = group_of_slot.scatter(0, slot_of_ordered, ordered)
    return slot, group_of_slot, slot_of_ordered[-1]

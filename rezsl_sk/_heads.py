"""Networks from features to attributes: linear, or an MLP.

A head is a plain torch module during training and two lists of NumPy arrays
(`coefs`, `intercepts`) otherwise, so that a fitted model needs no torch to be
unpickled and no accelerator to predict.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

NEGATIVE_SLOPE = 0.1  # of the LeakyReLU, as in the public ReZSL code


class Head(nn.Module):
    """Linear layers with LeakyReLU and dropout between them.

    Parameters
    ----------
    coefs : list of arrays, the l-th of shape (n_in_l, n_out_l)
        Weights, oriented as in scikit-learn's MLPRegressor.

    intercepts : list of arrays, the l-th of shape (n_out_l,)

    dropout : float
        Probability with which a hidden unit is dropped in training.

    seed : int
        Seed of the dropout masks.
    """

    def __init__(self, coefs, intercepts, *, dropout=0.0, seed=0, device="cpu"):
        super().__init__()
        device = torch.device(device)
        self.dropout = dropout
        # nn.Dropout draws from the global generator, which is everybody's.
        self.generator = torch.Generator(device).manual_seed(seed)
        # Stored as (n_out, n_in), the layout in which F.linear is fastest.
        self.weights = nn.ParameterList(
            torch.tensor(np.ascontiguousarray(coef.T), device=device) for coef in coefs
        )
        self.biases = nn.ParameterList(
            torch.tensor(bias, device=device) for bias in intercepts
        )

    def forward(self, X):
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(
            zip(self.weights, self.biases, strict=True)
        ):
            X = F.linear(X, weight, bias)
            if layer < last:
                X = F.leaky_relu(X, NEGATIVE_SLOPE)
                if self.training and self.dropout > 0:
                    X = X * dropout_mask(X, self.dropout, self.generator)
        return X

    def arrays(self):
        """Copies of the weights: (coefs, intercepts), lists of NumPy arrays."""
        coefs = [w.detach().cpu().numpy().T.copy() for w in self.weights]
        return coefs, [b.detach().cpu().numpy().copy() for b in self.biases]


def dropout_mask(X, dropout, generator):
    """Random factors in the shape of X: 0, or 1 / (1 - dropout).

    On a CPU torch draws Bernoulli numbers one by one, which took longer than
    the matrix product beside it. Four at a time from 64 random bits, at a
    resolution of 1 / 65536, take a tenth of that.
    """
    keep = 1 - dropout
    if X.device.type != "cpu":
        mask = torch.empty_like(X).bernoulli_(keep, generator=generator)
        return mask.div_(keep)
    words = torch.empty((X.numel() + 3) // 4, dtype=torch.int64)
    words.random_(-(2**63), None, generator=generator)
    draw = words.view(torch.int16)[: X.numel()].view(X.shape).to(X.dtype)
    limit = round(keep * 65536) - 32768
    return torch.lt(draw, limit, out=torch.empty_like(X)).div_(keep)


def initial_arrays(layer_sizes, dtype, generator):
    """Random starting weights of a head, uniform in ±1/sqrt(n_in).

    Drawn on the CPU in double precision, so that every device and precision
    starts from the same point.

    Parameters
    ----------
    layer_sizes : sequence of int
        Numbers of features, hidden units (any number of layers), attributes.

    dtype : NumPy dtype

    generator : torch.Generator on the CPU

    Returns
    -------
    coefs : list of arrays, the l-th of shape (n_in_l, n_out_l)

    intercepts : list of arrays, the l-th of shape (n_out_l,)
    """
    coefs, intercepts = [], []
    for n_in, n_out in zip(layer_sizes[:-1], layer_sizes[1:], strict=True):
        bound = 1 / math.sqrt(n_in)
        draw = torch.rand(n_in + 1, n_out, generator=generator, dtype=torch.float64)
        draw = ((2 * draw - 1) * bound).numpy().astype(dtype)
        coefs.append(draw[:-1])
        intercepts.append(draw[-1])
    return coefs, intercepts


def forward_arrays(X, coefs, intercepts):
    """Output of a head without dropout, by NumPy alone.

    Parameters
    ----------
    X : array of shape (n, d)

    coefs, intercepts : as in :class:`Head`

    Returns
    -------
    output : array of shape (n, a)
    """
    for layer, (coef, intercept) in enumerate(zip(coefs, intercepts, strict=True)):
        X = X @ coef
        X += intercept
        if layer < len(coefs) - 1:
            np.maximum(X, NEGATIVE_SLOPE * X, out=X)
    return X

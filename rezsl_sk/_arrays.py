"""What a caller hands over, so that NumPy and scikit-learn read it rightly."""

import numpy as np


def unwrapped(values):
    """Tensors of torch as arrays, everything else as it is."""
    if not hasattr(values, "detach"):
        return values
    values = values.detach().cpu()  # may require grad, or be on a GPU
    try:
        return values.numpy()
    except TypeError:  # a type that NumPy lacks, such as bfloat16
        return values.float().numpy()


def plain(values, what):
    """Tensors as arrays, everything else as it is; what would be misread is refused.

    Parameters
    ----------
    values : array-like
        Features, attributes or labels.

    what : str
        What the caller calls them, for messages.

    Raises
    ------
    ValueError
        If values are masked, complex, or times or dates: NumPy would take what lies
        behind a mask, and numbers of seconds.
    """
    values = unwrapped(values)
    if np.ma.is_masked(values):
        raise ValueError(
            f"{what} has {int(np.ma.getmaskarray(values).sum())} masked values. Fill "
            "them in, or leave their rows out."
        )
    is_frame = hasattr(values, "columns")
    for dtype in values.dtypes if is_frame else [getattr(values, "dtype", None)]:
        kind = getattr(dtype, "kind", "")
        if kind in ("m", "M"):
            raise ValueError(
                f"{what} holds times or dates ({dtype}), not numbers. Turn them into "
                "numbers in a unit of your choice."
            )
        if kind == "c":  # the words are those that scikit-learn's checks look for
            raise ValueError(
                f"Complex data not supported: {what} has {dtype}. Give real and "
                "imaginary parts as columns of their own."
            )
    return values

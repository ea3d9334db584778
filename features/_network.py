"""How a network is run: on its device, by its engine, in its precision."""

from __future__ import annotations

import copy
import os
import platform
import warnings

import torch

from ._errors import ExtractionError

__all__ = ["Runner", "device_kind", "processor"]

_AUTOCAST = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Runner:
    """The network on its device: a batch in, features (n, d) or (n, r, d) out."""

    def __init__(self, backbone, identity):
        self.device = torch.device(_local_device(identity["device"]))
        self.amp = _AUTOCAST[identity["amp"]]
        self.engine = identity["engine"]
        self.model = backbone.model.eval()
        if self.engine == "onnx":
            self._session = None
            if self.device.type != "cpu" or self.amp is not None:
                raise ExtractionError(
                    f"The engine onnx runs on the CPU in full precision; given were "
                    f"device {self.device} and amp {identity['amp']}. Use the engine "
                    f"torch."
                )
            self.threads = identity["threads"]
        else:
            try:
                self.model.to(self.device)
            except (RuntimeError, AssertionError) as error:
                raise ExtractionError(
                    f"The device {self.device} cannot be used: {error}. Give another."
                ) from error
            if self.engine == "channels-last":
                # A copy: the user's module, and the next run of another engine with
                # it, must not inherit the layout.
                self.model = copy.deepcopy(self.model)
                self.model.to(memory_format=torch.channels_last)

    def __call__(self, batch):
        if self.engine == "onnx":
            return _as_features(self._run_onnx(batch))
        batch = batch.to(self.device, non_blocking=True)
        if self.engine == "channels-last" and batch.ndim == 4:
            batch = batch.to(memory_format=torch.channels_last)
        with (
            torch.inference_mode(),
            # The quickest kernel for a shape may differ from run to run; and
            # without amp, float32 means float32.
            torch.backends.cudnn.flags(
                benchmark=False, deterministic=True, allow_tf32=False
            ),
            torch.autocast(
                self.device.type, dtype=self.amp, enabled=self.amp is not None
            ),
        ):
            return _as_features(self.model(batch))

    def _run_onnx(self, batch):
        if self._session is None:
            self._session = _onnx_session(self.model, batch, self.threads)
        return torch.from_numpy(self._session.run(None, {"x": batch.numpy()})[0])


def _as_features(output):
    if not isinstance(output, torch.Tensor) or output.ndim not in (2, 3, 4):
        shape = getattr(output, "shape", None)
        raise ExtractionError(
            f"The network gave {type(output).__name__}"
            + (f" of shape {tuple(shape)}" if shape is not None else "")
            + "; features are a tensor (n, d), (n, r, d) or (n, d, h, w). Give a "
            "network with such an output."
        )
    if output.ndim == 4:
        output = output.flatten(2).transpose(1, 2)
    return output


def _onnx_session(model, batch, n_threads):
    """Hand the network to ONNX Runtime."""
    import io

    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise ExtractionError(
            f"The engine onnx needs onnx and onnxruntime ({error}); `pip install "
            f"rezsl-sk[onnx]`, or use the engine channels-last."
        ) from error
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The newer exporter needs one more package and gives the same graph here.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            model,
            (batch[:1],),
            buffer,
            dynamo=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    # Threads that spin for work would take the cores from the readers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        buffer.getvalue(), options, providers=["CPUExecutionProvider"]
    )


def device_kind(device):
    """What `auto` stands for here, and a device without its number."""
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return str(torch.device(device))
    except RuntimeError as error:
        raise ExtractionError(
            f"device={device!r} is unknown; give 'cpu', 'cuda', 'cuda:1', 'mps' or "
            f"'auto'."
        ) from error


def _local_device(device):
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return device


def processor(identity):
    if identity["device"].startswith("cuda"):
        return torch.cuda.get_device_name(_local_device(identity["device"]))
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"

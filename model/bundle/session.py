"""A graph ready to run in onnxruntime."""

import platform
from pathlib import Path

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state

from model.bundle.layout import BundleError

# What onnxruntime raises; its classes have no base of their own.
_ERRORS = tuple(
    kind for kind in vars(onnxruntime_pybind11_state).values() if isinstance(kind, type) and issubclass(kind, Exception)
)


class Session(onnxruntime.InferenceSession):  # type: ignore[misc]  # it publishes no types
    """A graph ready to run on one thread; `names`: of its inputs, which it would look up anew for every run.

    Raises BundleError for a file that is no graph.
    """

    def __init__(self, graph: Path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            super().__init__(str(graph), options, providers=["CPUExecutionProvider"])
        except _ERRORS as error:
            cause = str(error).partition("\n")[0]
            raise BundleError(f"{graph} is broken, or its .data is of another graph: {cause}") from None
        self.names = tuple(node.name for node in self.get_inputs())


def byte_products() -> bool:
    """Whether this processor multiplies bytes at once: without, int8 is slower than fp32 or saturates."""
    if platform.machine() in ("arm64", "aarch64"):
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:  # no Linux
        return False
    return "avx512_vnni" in flags or "avx_vnni" in flags

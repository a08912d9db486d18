"""A graph ready to run in onnxruntime."""

import platform
from pathlib import Path

import onnxruntime


class Session(onnxruntime.InferenceSession):  # type: ignore[misc]  # it publishes no types
    """A graph ready to run on one thread; `names`: of its inputs, which it would look up anew for every run."""

    def __init__(self, graph: Path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        super().__init__(str(graph), options, providers=["CPUExecutionProvider"])
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

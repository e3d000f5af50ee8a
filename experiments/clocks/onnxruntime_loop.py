"""Times an ONNX file in the way of onnxruntime_perf_test: one run, then runs for some seconds."""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime


def main() -> None:
    """Print the median and the lowest milliseconds of a run as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("file", type=Path)
    parser.add_argument("--inputs", type=Path, required=True, help="folder with a NAME.npy each")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--fold", action="store_true", help="dequantize stored weights at load")
    asked = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = asked.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if asked.fold:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(asked.file), options, providers=providers)
    feed = {i.name: np.load(asked.inputs / f"{i.name}.npy") for i in session.get_inputs()}
    session.run(None, feed)
    times: list[float] = []
    end = time.perf_counter() + asked.seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        session.run(None, feed)
        times.append(1e3 * (time.perf_counter() - start))
    print(json.dumps({"median": statistics.median(times), "lowest": min(times)}))


if __name__ == "__main__":
    main()

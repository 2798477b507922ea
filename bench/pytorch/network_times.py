"""Times a Cosmos tokenizer in PyTorch: the network of reference/cosmos_reference.py at full size, with synthetic weights.

    python bench/pytorch/network_times.py DI8x8 256 256 [--frames 9] [--threads 2] [--runs 3]
                                          [--modes jit,tuned] [--dtypes float32,bfloat16]

A JSON object a line for each half, mode and dtype: the median of `runs` calls after one that warms up, and the process's peak
of resident memory so far. Modes: "jit" is traced with contiguous tensors, as the public checkpoints are used; "tuned" is
channels-last, which oneDNN prefers; "both" is traced and channels-last. Each is timed as it stands, without gradients.
Left out: reading and converting pixels, which ctok's own times include. bench/peer.ts calls it.
"""
import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "reference"))
import cosmos_reference
import synthetic_weights
import torch

MODES = {"jit": (True, False), "tuned": (False, True), "both": (True, True)}  # name: (traced, channels-last)


class Half(torch.nn.Module):
    """The encoder (pixels to indices or latent) or the decoder, as a module of its own that can be traced."""

    def __init__(self, tokenizer, name):
        super().__init__()
        self.tokenizer, self.name = tokenizer, name

    def forward(self, x):
        return self.tokenizer.encode(x)[0] if self.name == "encode" else self.tokenizer.decode(x)


def pool_bfloat16_in_float32():
    """PyTorch on the CPU has no average pool over videos in bfloat16, so the public network does not run there without this."""
    pool = torch.nn.functional.avg_pool3d
    torch.nn.functional.avg_pool3d = lambda x, size: pool(x.float(), size).to(x.dtype)


def median_ms(call, runs):
    call()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def measure(args, mode, dtype, weights):
    is_traced, is_channels_last = MODES[mode]
    spec = cosmos_reference.spec(args.model)
    tokenizer = cosmos_reference.Tokenizer(spec).eval()
    tokenizer.load_state_dict(weights)
    tokenizer = tokenizer.to(dtype)
    pixels = (torch.rand(1, 3, *((args.frames,) if spec.video else ()), args.height, args.width) * 2 - 1).to(dtype)
    if is_channels_last:
        layout = torch.channels_last_3d if spec.video else torch.channels_last
        tokenizer, pixels = tokenizer.to(memory_format=layout), pixels.contiguous(memory_format=layout)
    tokens = tokenizer.encode(pixels)[0]
    for name, given in (("encode", pixels), ("decode", tokens)):
        half = Half(tokenizer, name)
        if is_traced:
            half = torch.jit.trace(half, given, check_trace=False)
        ms = median_ms(lambda: half(given), args.runs)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        row = {"half": name, "mode": mode, "dtype": str(dtype).removeprefix("torch."), "ms": round(ms, 1), "mib": peak}
        print(json.dumps(row), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="DI8x8, CV4x8x8, ...: a name that reference/cosmos_reference.py knows")
    parser.add_argument("height", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument("--frames", type=int, default=9, help="of a video model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--modes", default="jit,tuned")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    args = parser.parse_args()
    modes, dtypes = args.modes.split(","), args.dtypes.split(",")
    for given, known in ((modes, MODES), (dtypes, ("float32", "bfloat16"))):
        for name in given:
            if name not in known:
                parser.error(f"expected of {', '.join(known)}, found {name}")
    torch.set_num_threads(args.threads)
    pool_bfloat16_in_float32()
    with torch.no_grad():
        weights = synthetic_weights.fill(cosmos_reference.Tokenizer(cosmos_reference.spec(args.model))).state_dict()
        for dtype in dtypes:
            for mode in modes:
                measure(args, mode, getattr(torch, dtype), weights)


if __name__ == "__main__":
    main()

"""The networks of reference/cosmos_reference.py on PyTorch's GPU, timed. A process of its own, started by gpucheck/peers.py.

    torch_peer.py --reference FOLDER [--device cuda|cpu] [--small] roof
    torch_peer.py ... time WEIGHTS MODEL BATCH FRAMES HEIGHT WIDTH bf16|f32 jit,channels-last,compile
A JSON object a line: {"missing": why} where there is no PyTorch or no GPU for it; {"tflops", "gb_per_s"} of the roof; for each mode
and half {"mode", "half", "ms": [...], "mib"}, or {"mode", "refused": why} where PyTorch says that it cannot.
"""
import argparse
import gc
import json
import sys
import time
from pathlib import Path

RUNS = 10


def tell(**row):
    print(json.dumps(row), flush=True)


def load_torch(args):
    """torch, or None after telling why not. Note: a PyTorch that crashes ends this process alone."""
    try:
        import torch
    except ImportError as error:
        return tell(missing=f"no PyTorch: {error}")
    if args.device == "cuda" and not torch.cuda.is_available():
        return tell(missing="torch sees no GPU")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch


def read_safetensors(torch, path):
    """Without the safetensors package: 8 bytes of length, JSON, data. make_weights writes bfloat16."""
    data = Path(path).read_bytes()
    size = int.from_bytes(data[:8], "little")
    head, base = json.loads(data[8:8 + size]), 8 + size
    out = {}
    for name, t in head.items():
        if name != "__metadata__":
            first, last = t["data_offsets"]
            values = torch.frombuffer(bytearray(data[base + first:base + last]), dtype=torch.bfloat16)
            out[name] = values.reshape(t["shape"]).float()
    return out


class Clock:
    """Times calls on the device, and the memory that they take at most."""

    def __init__(self, torch, device):
        self.torch, self.is_gpu = torch, device == "cuda"

    def wait(self):
        if self.is_gpu:
            self.torch.cuda.synchronize()

    def times(self, call, runs):
        times = []
        for _ in range(runs):
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            times.append((time.perf_counter() - start) * 1e3)
        return times

    def begin_memory(self):
        gc.collect()
        if self.is_gpu:
            self.torch.cuda.reset_peak_memory_stats()

    def peak_mib(self):
        return self.torch.cuda.max_memory_allocated() / 2**20 if self.is_gpu else 0


def measure_roof(args, torch):
    clock, side = Clock(torch, args.device), 64 if args.small else 8192
    a = torch.randn(side, side, device=args.device).to(torch.bfloat16)
    b = torch.randn(side, side, device=args.device).to(torch.bfloat16)
    clock.times(lambda: a @ b, 3)
    product = min(clock.times(lambda: a @ b, RUNS))
    x = torch.empty((1 << 30) if not args.small else 1 << 20, device=args.device, dtype=torch.uint8)
    y = torch.empty_like(x)
    clock.times(lambda: y.copy_(x), 3)
    copy = min(clock.times(lambda: y.copy_(x), RUNS))
    tell(tflops=2 * side**3 / product / 1e9, gb_per_s=2 * x.numel() / copy / 1e6)


def load_network(args, torch, dtype, mode):
    """The tokenizer with the weights of the file, and pixels for it."""
    import cosmos_reference
    spec = cosmos_reference.spec(args.model)
    if args.small:
        spec = cosmos_reference.spec(args.model, channels=32, mult=(1, 2, 2)[:len(spec.mult)])  # as make_weights --small
    net = cosmos_reference.Tokenizer(spec).eval()
    missing = net.load_state_dict(read_safetensors(torch, args.weights), strict=False).missing_keys
    halves = ("encoder", "decoder", "quant_conv", "post_quant_conv")
    if lost := [k for k in missing if k.split(".")[0] in halves and k.endswith(("weight", "bias"))]:
        raise SystemExit(f"{args.model}: expected make_weights to write all parameters of the reference, found none of {lost[:3]}")
    net = net.to(args.device, dtype)
    shape = (args.batch, 3, args.frames, args.height, args.width) if spec.video else (args.batch, 3, args.height, args.width)
    x = (torch.rand(shape) * 2 - 1).to(args.device, dtype)
    if mode == "channels-last":
        layout = torch.channels_last_3d if spec.video else torch.channels_last
        net, x = net.to(memory_format=layout), x.contiguous(memory_format=layout)
    return net, x


def measure_mode(args, torch, mode):
    class Half(torch.nn.Module):
        def __init__(self, net, name):
            super().__init__()
            self.net, self.name = net, name

        def forward(self, y):
            return self.net.encode(y)[0] if self.name == "encode" else self.net.decode(y)

    clock, dtype = Clock(torch, args.device), torch.float32 if args.precision == "f32" else torch.bfloat16
    net, x = load_network(args, torch, dtype, mode)
    tokens = net.encode(x)[0]
    for name, y in (("encode", x), ("decode", tokens)):
        half = Half(net, name)
        if mode == "jit":
            half = torch.jit.trace(half, y, check_trace=False)
        if mode == "compile":
            half = torch.compile(half)
        clock.times(lambda: half(y), 1 if args.small else 3)
        clock.begin_memory()
        times = clock.times(lambda: half(y), 1 if args.small else RUNS)
        tell(mode=mode, half=name, ms=times, mib=clock.peak_mib())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    works = parser.add_subparsers(dest="work", required=True)
    works.add_parser("roof")
    timing = works.add_parser("time")
    numbers = {name: int for name in ("batch", "frames", "height", "width")}
    for name, kind in {"weights": Path, "model": str, **numbers, "precision": str, "modes": str}.items():
        timing.add_argument(name, type=kind)
    args = parser.parse_args()
    sys.path.insert(0, str(args.reference))
    torch = load_torch(args)
    if not torch:
        return
    with torch.no_grad():
        if args.work == "roof":
            return measure_roof(args, torch)
        for mode in args.modes.split(","):
            try:
                measure_mode(args, torch, mode)
            except (RuntimeError, AttributeError, ImportError) as error:
                tell(mode=mode, refused=f"{type(error).__name__}: {error}")
            gc.collect()
            if args.device == "cuda":
                torch.cuda.empty_cache()


main()

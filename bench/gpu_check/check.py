"""Checks ctok's CUDA backend on this machine and times it beside PyTorch; writes a results file. Run by run.sh.

    python3 check.py [--device cuda|cpu] [--tiny] [--budget 460] [--out results.md] [--only ops,golden,...]
In order of worth, until the budget (seconds) is spent; what was not reached is named as open in the results:
    layouts    where the tensor-core instructions keep their operands, against the emulator's answer (bin/sm80_layouts,
               bin/sm90_layouts): the first line that differs fails
    ops        every op against the scalar reference (bin/gpu_test)
    golden     every model against float64 answers, float32 and bfloat16 (bin/gpu_run)
    time       end to end, encode and decode apart, ours and PyTorch's (jit, contiguous, as users run it; channels-last;
               torch.compile) in turn, round by round, and the peak memory of each
    fusions    a small and a large image end to end, and without each thing that is done for speed (gpu_run --without), in turn
    profile    each op of a network alone (bin/gpu_ops), with its part of the roof that is measured here by PyTorch
    sanitizer  compute-sanitizer memcheck and racecheck on the small op cases, where it is installed
Times: ours are of the engine's thread from pixels in the host's memory to tokens there (or back); PyTorch's input and output
stay on the GPU. Memory: ours is weights and arena as planned; PyTorch's is torch.cuda.max_memory_allocated.
Exit code 1 when a check failed.
"""
import argparse, datetime, gc, json, os, platform, shutil, statistics, subprocess, sys, time
from itertools import zip_longest
from pathlib import Path

HERE = Path(__file__).resolve().parent
BIN, GOLDENS = HERE / "bin", HERE / "goldens"
parser = argparse.ArgumentParser()
parser.add_argument("--device", default="cuda")
parser.add_argument("--tiny", action="store_true", help="small networks and sizes: a trial where there is no GPU")
parser.add_argument("--budget", type=float, default=460)
parser.add_argument("--out", default=str(HERE / "results.md"))
parser.add_argument("--only", default="layouts,ops,golden,time,fusions,profile,sanitizer")
parser.add_argument("--rounds", type=int, default=3)
args = parser.parse_args()
START = time.monotonic()
left = lambda: args.budget - (time.monotonic() - START)
failures, open_items, report = [], [], []

CASES = [("DI8x8", 1, 1024, 1024), ("CI8x8", 1, 1024, 1024), ("CV4x8x8", 17, 720, 1280), ("DV8x16x16", 17, 720, 1280)]
if args.tiny: CASES = [("DI8x8", 1, 64, 96), ("CV4x8x8", 9, 32, 48)]
WEIGHTS = Path(os.environ.get("TMPDIR", "/tmp")) / f"ctok-weights-{os.getuid()}{'-small' if args.tiny else ''}"


def say(text):
    print(f"[{time.monotonic() - START:5.0f} s] {text}", flush=True)


def run(command, seconds=None):
    """stdout and exit code; a run that takes too long is 124."""
    try:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=max(5, seconds or left()))
        return done.stdout, done.returncode, done.stderr
    except subprocess.TimeoutExpired as late:
        return (late.stdout or b"").decode() if isinstance(late.stdout, bytes) else late.stdout or "", 124, "timed out"


def json_lines(text):
    rows = []
    for line in text.splitlines():
        try: rows.append(json.loads(line))
        except ValueError: pass
    return rows


def weights(model, small):
    """Synthetic weights, whose name tells what the model is."""
    folder = WEIGHTS.with_name(WEIGHTS.name.removesuffix("-small") + ("-small" if small else ""))
    path = folder / f"{model}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        subprocess.run([BIN / "make_weights", partial, model, *(["--small"] if small else [])], check=True)
        partial.rename(path)
    return path


def table(head, rows):
    report.append("| " + " | ".join(head) + " |")
    report.append("| " + " | ".join("---" for _ in head) + " |")
    report.extend("| " + " | ".join(str(c) for c in row) + " |" for row in rows)
    report.append("")


def expected(passed, text):
    if not passed: failures.append(text); say(f"FAILED {text}")
    return passed


# ---------------------------------------------------------------- layouts
def check_layouts():
    report.append("## Layouts of the instructions, against the emulator's\n")
    for name in ("sm80", "sm90"):
        out, code, err = run([BIN / f"{name}_layouts"], 30)
        if code == 3 or args.device != "cuda": open_items.append(f"layouts {name}: {err.strip() or 'no GPU'}"); continue
        found, wanted = out.splitlines(), (HERE / "layouts" / f"{name}.txt").read_text().splitlines()
        at = next((i for i, pair in enumerate(zip_longest(found, wanted)) if pair[0] != pair[1]), None)
        same = "all the same" if at is None else f"line {at + 1} is {(found + ['missing'])[min(at, len(found))]!r}, and should be {(wanted + ['missing'])[min(at, len(wanted))]!r}"
        expected(code == 0 and at is None, f"layouts {name}: exit code {code} {err[-200:]} {same}")
        report.append(f"{name}: {len(wanted)} lines, {same}.\n")
        say(f"layouts {report[-1].strip()}")


# ---------------------------------------------------------------- ops
def check_ops():
    report.append("## Ops against the scalar reference\n")
    out, code, err = run([BIN / "gpu_test", *(["small"] if args.tiny else [])], min(left(), 180))
    lines = [l for l in out.splitlines() if l.startswith(("ok", "not ok"))]
    bad = [l for l in lines if l.startswith("not ok")]
    skipped = [l for l in lines if "# SKIP" in l]
    if skipped: open_items.append(f"ops: {skipped[0].split('# SKIP')[1].strip()}")
    expected(code == 0 and not bad and (lines or code == 0), f"ops: {len(bad)} of {len(lines)} failed, exit code {code} {err[-300:]}")
    report.append(f"`bin/gpu_test`: {len(lines) - len(bad) - len(skipped)} passed, {len(bad)} failed, {len(skipped)} skipped.\n")
    report.extend(f"    {l}" for l in bad[:40])
    say(report[-1] if bad else f"ops: {len(lines)} cases")


# ---------------------------------------------------------------- goldens
def golden_cases():
    yield "CI8x8", "small", GOLDENS / "CI8x8", GOLDENS / "CI8x8/golden.safetensors"
    for model in ("DI8x8", "CV4x8x8"): yield model, "small", weights(model, True), GOLDENS / f"{model}-small.safetensors"
    if args.tiny: return
    full = sorted((GOLDENS / "full").glob("*.safetensors")) or sorted(GOLDENS.glob("*-full.safetensors"))
    for path in full:
        model = path.stem.removesuffix("-full")
        yield model, "full", weights(model, False), path


def check_goldens():
    report.append("## Networks against float64 answers\n")
    report.append("Limits: float32 2e-5 and equal indices; bfloat16 0.9 of PyTorch's own error, and of all indices together at least as many equal.\n")
    peers = json.loads((GOLDENS / "pytorch_errors.json").read_text())
    rows, tokens, equal, peer_equal = [], 0, 0, 0.0
    for model, size, path, golden in golden_cases():
        for precision in ("f32", "bf16"):
            if left() < 20: open_items.append(f"golden {model} {size} {precision}: out of time"); continue
            out, code, err = run([BIN / "gpu_run", "golden", path, golden, "--device", args.device, "--precision", precision], 60)
            result = (json_lines(out) or [{"error": err[-200:] or f"exit code {code}"}])[-1]
            if "error" in result:
                expected(False, f"golden {model} {size} {precision}: {result['error']}")
                continue
            peer = peers.get(model, {}).get(size, {}).get("bfloat16", {})
            limit = {k: 2e-5 if precision == "f32" else 0.9 * peer.get(k, float("nan")) for k in ("pre_quant", "reconstruction")}
            name = f"{model} {size} {precision}"
            expected(result["repeats"], f"golden {name}: a second run, as graphs, gave other bits")
            if "stream" in result: limit["stream"] = limit["pre_quant"]
            for k, most in limit.items(): expected(result[k] <= most, f"golden {name} {k}: {result[k]:.2e}, at most {most:.2e}")
            different = result.get("different")
            if different is not None and precision == "f32": expected(different == 0, f"golden {name}: {different} different indices")
            if different is not None and precision == "bf16":
                tokens += result["tokens"]; equal += result["tokens"] - different; peer_equal += result["tokens"] * peer["index_agreement"]
            rows.append((name, f"{result['pre_quant']:.1e}", f"{limit['pre_quant']:.1e}", f"{result['reconstruction']:.1e}",
                         f"{limit['reconstruction']:.1e}", "" if different is None else f"{different} of {result['tokens']}"))
    if tokens: expected(equal >= peer_equal, f"bf16 indices: {equal} of {tokens} equal, PyTorch's {peer_equal:.0f}")
    table(["model", "latent or pre_quant", "limit", "reconstruction", "limit", "different indices"], rows)
    if tokens: report.append(f"bfloat16 indices, all together: {equal} of {tokens} equal; PyTorch's bfloat16: {peer_equal:.0f}.\n")
    say(f"golden: {len(rows)} cases")


# ---------------------------------------------------------------- PyTorch
def load_torch():
    try:
        sys.path.insert(0, str(HERE / "reference"))
        import torch, cosmos_reference, synthetic_weights
        if args.device == "cuda" and not torch.cuda.is_available(): raise RuntimeError("torch sees no GPU")
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        return torch, cosmos_reference, synthetic_weights
    except Exception as error:
        open_items.append(f"PyTorch: {error}")
        return None


class Peer:
    """One network of PyTorch in one mode; its two halves as functions of prepared inputs."""

    def __init__(self, modules, model, frames, height, width, mode, dtype):
        torch, reference, synthetic = modules
        self.torch, spec, self.on_gpu = torch, reference.spec(model), args.device == "cuda"
        before = self.allocated()
        if args.tiny: spec = reference.spec(model, channels=32, mult=(1, 2, 2)[:len(spec.mult)])  # as make_weights --small
        net = reference.Tokenizer(spec).eval()
        saved = read_safetensors(torch, weights(model, args.tiny))
        missing = net.load_state_dict(saved, strict=False).missing_keys
        if [k for k in missing if k.split(".")[0] in ("encoder", "decoder", "quant_conv", "post_quant_conv") and k.endswith(("weight", "bias"))]:
            raise RuntimeError(f"{model}: the reference has other parameters than make_weights")
        net = net.to(args.device, dtype)
        shape = (1, 3, frames, height, width) if spec.video else (1, 3, height, width)
        x = (torch.rand(shape) * 2 - 1).to(args.device, dtype)
        if mode == "channels-last":
            layout = torch.channels_last_3d if spec.video else torch.channels_last
            net, x = net.to(memory_format=layout), x.contiguous(memory_format=layout)

        class Half(torch.nn.Module):
            def __init__(self, name): super().__init__(); self.net, self.name = net, name
            def forward(self, y): return self.net.encode(y)[0] if self.name == "encode" else self.net.decode(y)

        with torch.no_grad():
            tokens = net.encode(x)[0]
            self.halves = {}
            for name, y in (("encode", x), ("decode", tokens)):
                half = Half(name)
                if mode == "jit": half = torch.jit.trace(half, y, check_trace=False)
                if mode == "compile": half = torch.compile(half)
                self.halves[name] = (half, y)
        self.own = self.allocated() - before  # weights, input and tokens

    def allocated(self):
        if not self.on_gpu: return 0
        gc.collect()
        return self.torch.cuda.memory_allocated()

    def sync(self):
        if self.on_gpu: self.torch.cuda.synchronize()

    def measure(self, name, runs):
        torch, (half, y) = self.torch, self.halves[name]
        times = []
        with torch.no_grad():
            half(y); half(y); self.sync()
            others = self.allocated() - self.own  # the other modes' networks
            if self.on_gpu: torch.cuda.reset_peak_memory_stats()
            for _ in range(runs):
                start = time.perf_counter(); half(y); self.sync()
                times.append((time.perf_counter() - start) * 1e3)
        peak = (torch.cuda.max_memory_allocated() - others) / 2**20 if self.on_gpu else float("nan")
        if self.on_gpu: torch.cuda.empty_cache()
        return times, peak


def read_safetensors(torch, path):
    """Without the safetensors package: 8 bytes of length, JSON, data. make_weights writes bfloat16."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    head, base = json.loads(data[8:8 + size]), 8 + size
    out = {}
    for name, t in head.items():
        if name == "__metadata__": continue
        first, last = t["data_offsets"]
        out[name] = torch.frombuffer(bytearray(data[base + first:base + last]), dtype=torch.bfloat16).reshape(t["shape"]).float()
    return out


# ---------------------------------------------------------------- end to end
def ours(model, frames, height, width, precision, runs, without="nothing"):
    out, code, err = run([BIN / "gpu_run", "time", weights(model, args.tiny), height, width, "--frames", frames, "--device", args.device,
                          "--precision", precision, "--runs", runs, "--without", without], 90)
    rows = {r["half"]: r for r in json_lines(out) if "half" in r}
    if len(rows) != 2:
        failed = [r["error"] for r in json_lines(out) if "error" in r] or [err[-200:] or f"exit code {code}"]
        expected(False, f"time {model} {precision}: {failed[0]}")
    return rows


def time_case(modules, model, frames, height, width, precision, modes):
    runs = 2 if args.tiny else 5
    peers, mine = {}, {"encode": [], "decode": []}
    memory = {}
    for mode in modes if modules else []:
        if left() < 60: open_items.append(f"{model} PyTorch {mode}: out of time"); continue
        try:
            started = time.monotonic()
            peers[mode] = Peer(modules, model, frames, height, width, mode, modules[0].bfloat16 if precision == "bf16" else modules[0].float32)
            for name in mine: peers[mode].measure(name, 1)
            say(f"{model} PyTorch {mode}: ready in {time.monotonic() - started:.0f} s")
        except Exception as error:
            peers.pop(mode, None)
            open_items.append(f"{model} PyTorch {mode} {precision}: {str(error).splitlines()[0][:160] if str(error) else type(error).__name__}")
    theirs = {(m, n): [] for m in peers for n in mine}
    for _ in range(1 if args.tiny else args.rounds):
        if left() < 20: break
        for name, row in ours(model, frames, height, width, precision, runs).items():
            mine[name].append(row)
            memory["ctok", name] = row["arena_mib"] + row["weight_mib"]
        for mode, peer in peers.items():
            for name in mine:
                times, memory[mode, name] = peer.measure(name, runs)
                theirs[mode, name] += times
    for name in mine:
        if not mine[name]: open_items.append(f"{model} {name} {precision}: not measured"); continue
        median = statistics.median(r["median_ms"] for r in mine[name])
        spread = f"{min(r['min_ms'] for r in mine[name]):.2f} to {max(r['max_ms'] for r in mine[name]):.2f}"
        row = [f"{model} {frames}x{height}x{width} {name} {precision}", f"{median:.2f} ({spread})", f"{memory['ctok', name]:.0f}"]
        for mode in ("jit", "channels-last", "compile"):
            if theirs.get((mode, name)):
                other = statistics.median(theirs[mode, name])
                row += [f"{other:.2f} ({min(theirs[mode, name]):.2f} to {max(theirs[mode, name]):.2f}) **{other / median:.2f}**", f"{memory[mode, name]:.0f}"]
            else:
                row += ["open", "open"]
        yield row
        say(" | ".join(row))


def time_networks():
    modules = load_torch()
    report.append("## End to end\n")
    report.append("Milliseconds: median (least to most) over all rounds; bold: PyTorch's median over ours. Memory in MiB. Two warm-ups a round. float32 without TF32, on both sides.\n")
    rows = []
    for i, case in enumerate(CASES):
        modes = ["jit", "channels-last"] + (["compile"] if i in (0, 2) else [])  # compiling takes a minute a network
        precision = "f32" if args.tiny else "bf16"
        if left() < 60: open_items.append(f"{case[0]}: out of time"); continue
        rows += list(time_case(modules, *case, precision, modes))
    if not args.tiny and left() > 60: rows += list(time_case(modules, *CASES[0], "f32", ["jit"]))
    table(["case", "ctok ms", "MiB", "PyTorch jit ms", "MiB", "channels-last ms", "MiB", "torch.compile ms", "MiB"], rows)


def time_fusions():
    report.append("## What is done for speed, and what it brings\n")
    report.append("Milliseconds: median of all rounds, of one network as it is, and without CUDA graphs, statistics of norms in the convolutions before, "
                  "convolutions of one input together; bold: that over the first.\n")
    parts, rows = ("nothing", "graphs", "moments", "together"), []
    for side in (64,) if args.tiny else (256, 1024):
        found = {(half, part): [] for half in ("encode", "decode") for part in parts}
        for _ in range(1 if args.tiny else 2):
            for part in parts:
                if left() < 20: continue
                for half, row in ours("DI8x8", 1, side, side, "f32" if args.tiny else "bf16", 10, part).items(): found[half, part].append(row["median_ms"])
        for half in ("encode", "decode"):
            medians = [statistics.median(found[half, part]) if found[half, part] else None for part in parts]
            if None in medians: open_items.append(f"fusions {side}x{side} {half}: not measured"); continue
            rows.append([f"DI8x8 {side}x{side} {half}", f"{medians[0]:.3f}"] + [f"{m:.3f} **{m / medians[0]:.2f}**" for m in medians[1:]])
    table(["case", "ctok ms", "without graphs", "without moments", "without together"], rows)
    say("fusions done")


# ---------------------------------------------------------------- each op
def roof():
    """bf16 TFLOPS of a large product, and GB/s of a copy counting both ways."""
    modules = load_torch()
    if not modules or args.device != "cuda": return None
    torch = modules[0]

    def best(f, runs=10):
        f(); torch.cuda.synchronize(); times = []
        for _ in range(runs):
            start = time.perf_counter(); f(); torch.cuda.synchronize(); times.append(time.perf_counter() - start)
        return min(times)
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16); b = torch.randn_like(a)
    flops = 2 * 8192**3 / best(lambda: a @ b) / 1e12
    x = torch.empty(1 << 30, device="cuda", dtype=torch.uint8); y = torch.empty_like(x)
    bytes_per_s = 2 * x.numel() / best(lambda: y.copy_(x)) / 1e9
    return flops, bytes_per_s


def profile():
    measured = roof()
    report.append("## Each op alone\n")
    if measured: report.append(f"Measured roof: {measured[0]:.0f} TFLOPS (bf16 product 8192 x 8192 x 8192), {measured[1]:.0f} GB/s (copy of 1 GiB, both ways).\n")
    for model, frames, height, width in CASES[:1] + CASES[2:3] if not args.tiny else [("DI8x8", 1, 32, 32)]:
        if left() < 30: open_items.append(f"profile {model}: out of time"); continue
        precision = "f32" if args.tiny else "bf16"
        out, code, err = run([BIN / "gpu_ops", model, height, width, frames, precision, args.device], 80)
        steps = [r for r in json_lines(out) if "op" in r]
        if not expected(code == 0 and steps, f"profile {model}: exit code {code} {out[-200:]} {err[-200:]}"): continue
        total = {h: sum(s["us"] * s["count"] for s in steps if s["half"] == h) for h in ("encode", "decode")}
        report.append(f"{model} {frames}x{height}x{width} {precision}; a part is of its half's sum ({total['encode'] / 1e3:.2f} and {total['decode'] / 1e3:.2f} ms).\n")
        rows = []
        for s in sorted(steps, key=lambda s: -s["us"] * s["count"])[:24]:
            heavy = s["tflops"] > 0
            part_of_roof = "" if not measured else f"{100 * (s['tflops'] / measured[0] if heavy else s['gb_per_s'] / measured[1]):.0f} %"
            rows.append((s["half"], s["op"], s["shape"], s["count"], f"{s['us']:.1f}", f"{100 * s['us'] * s['count'] / total[s['half']]:.0f} %",
                         f"{s['tflops']:.1f} TFLOPS" if heavy else f"{s['gb_per_s']:.0f} GB/s", part_of_roof))
        table(["half", "op", "shape (out)", "steps", "us each", "of the half", "rate", "of the roof"], rows)
    say("profile done")


# ---------------------------------------------------------------- sanitizer
def sanitize():
    report.append("## compute-sanitizer\n")
    tool = shutil.which("compute-sanitizer") or next((str(p) for p in Path("/usr/local").glob("cuda*/bin/compute-sanitizer")), None)
    if args.device != "cuda" or not tool:
        open_items.append("sanitizer: not installed" if args.device == "cuda" else "sanitizer: no GPU")
        return
    for check in ("memcheck", "racecheck"):
        if left() < 25: open_items.append(f"sanitizer {check}: out of time"); continue
        out, code, err = run([tool, "--tool", check, "--error-exitcode", "9", BIN / "gpu_test", "small"], left() - 5)
        summary = [l for l in (out + err).splitlines() if "SUMMARY" in l]
        if code == 124: open_items.append(f"sanitizer {check}: out of time")
        else: expected(code == 0, f"sanitizer {check}: exit code {code} {summary}")
        report.append(f"{check}: {summary[0].strip('= ') if summary else f'exit code {code}'}\n")
        say(f"sanitizer {check}: {report[-1].strip()}")


# ---------------------------------------------------------------- the file
def machine():
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"]
    gpu = run(query, 10)[0].strip() if args.device == "cuda" and shutil.which("nvidia-smi") else platform.processor() or "CPU"
    try:
        import torch
        versions = f"PyTorch {torch.__version__}"
    except Exception:
        versions = "no PyTorch"
    commit = (HERE / "commit").read_text().strip() if (HERE / "commit").exists() else "unknown"
    return gpu.split(",")[0], f"{datetime.date.today()}; {gpu}; {versions}; ctok {commit}; `bench/gpu_check/run.sh {' '.join(sys.argv[1:])}`"


def main():
    name, provenance = machine()
    parts = {"layouts": check_layouts, "ops": check_ops, "golden": check_goldens, "time": time_networks, "fusions": time_fusions, "profile": profile, "sanitizer": sanitize}
    for part, work in parts.items():
        if part not in args.only.split(","): continue
        if left() < 15: open_items.append(f"{part}: out of time"); continue
        try: work()
        except Exception as error: expected(False, f"{part}: {type(error).__name__}: {error}")
    text = [f"# {name}\n", provenance + f". Took {time.monotonic() - START:.0f} s.\n"]
    text += [f"**{len(failures)} checks failed**\n" if failures else "All checks passed.\n"] + [f"- {f}" for f in failures] + [""]
    text += report
    if open_items: text += ["## Open\n", "Not measured in this run; `./run.sh --only PART --budget SECONDS` fills it.\n"] + [f"- {o}" for o in open_items]
    Path(args.out).write_text("\n".join(text).rstrip() + "\n")
    say(f"{len(failures)} failed, {len(open_items)} open; wrote {args.out}")
    sys.exit(1 if failures else 0)


main()

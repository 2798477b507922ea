"""A network against its float64 answers, in one precision: one row. Called by parts/preflight.py, golden.py and goldens.py.

Limits: float32 2e-5 and equal indices; bfloat16 0.9 of PyTorch's own error, and of all indices together (parts/goldens.py) as
many equal.
"""
import json
from dataclasses import dataclass
from pathlib import Path

from gpucheck import programs


@dataclass(frozen=True)
class Golden:
    model: str
    size: str  # "small" or "full"
    answers: Path
    checkpoint: Path = None  # None: synthetic weights are made

    def row(self, precision):
        return f"{self.model} {self.size} {precision}"


PRECISIONS = ("f32", "bf16")
FIRST, SECOND = ("DI8x8", "CV4x8x8"), ("DI8x8", "DV8x16x16")  # full size: with all answers, and with those that are carried


def carried(o):
    """The first of all: a checkpoint as it is published."""
    folder = o.data / "goldens"
    if o.tiny:
        return Golden("VQ-8", "small", folder / "VQ-8-small.safetensors")
    return Golden("CI8x8", "small", folder / "CI8x8/golden.safetensors", folder / "CI8x8")


def of_full_size(o):
    folder = o.data / "goldens"
    paths = sorted((folder / "full").glob("*.safetensors")) or sorted(folder.glob("*-full.safetensors"))
    return [Golden(path.stem.removesuffix("-full"), "full", path) for path in paths]


def two_of_full_size(o):
    all_of_them = of_full_size(o)
    wanted = FIRST if {g.model for g in all_of_them} >= set(FIRST) else SECOND
    return [] if o.tiny else [golden for golden in all_of_them if golden.model in wanted]


def others(o):
    if o.tiny:
        return []
    folder, done = o.data / "goldens", two_of_full_size(o)
    small = [Golden(model, "small", folder / f"{model}-small.safetensors") for model in ("DI8x8", "CV4x8x8", "VQ-8")]
    return small + [golden for golden in of_full_size(o) if golden not in done]


def limits(o, golden, precision):
    if precision == "f32":
        return {"pre_quant": 2e-5, "reconstruction": 2e-5, "stream": 2e-5}
    peer = json.loads((o.data / "goldens/pytorch_errors.json").read_text())[golden.model][golden.size]["bfloat16"]
    return {"pre_quant": 0.9 * peer["pre_quant"], "reconstruction": 0.9 * peer["reconstruction"], "stream": 0.9 * peer["pre_quant"],
            "index_agreement": peer.get("index_agreement")}


def check(o, say, golden, precision):
    """Returns what was found, or None where the network did not run."""
    row = golden.row(precision)
    say.running(row)
    path = golden.checkpoint or programs.weights(o, golden.model, golden.size == "small")
    ended = programs.run(o, [o.bin / "gpu_run", "golden", path, golden.answers, "--device", o.device, "--precision", precision], 60)
    found = next((r for r in programs.json_lines(ended.out) if "pre_quant" in r), None)
    if ended.is_late:
        return say.cut_off(row, f"it ran past its deadline; it had printed: {ended.out[-500:]}{ended.err[-500:]}", HANGS)
    if ended.code != 0 or not found:
        return say.failed(row, programs.what_it_said(ended), CRASHES)
    most = limits(o, golden, precision)
    wrong = [f"{name}: expected at most {most[name]:.2e}, found {found[name]:.2e}"
             for name in ("pre_quant", "reconstruction", "stream") if name in found and not found[name] <= most[name]]
    if not found["repeats"]:
        wrong.append("repeats: expected a second run, as CUDA graphs, to give the same bits, found others")
    if precision == "f32" and found.get("different"):
        wrong.append(f"indices: expected none to differ, found {found['different']} of {found['tokens']}")
    data = {**found, "limits": most}
    if wrong:
        say.failed(row, "\n".join(wrong), DIFFERS, **data)
    else:
        say.good(row, f"pre_quant {found['pre_quant']:.1e}, reconstruction {found['reconstruction']:.1e}", **data)
    return data


HANGS = ("A kernel or a wait does not end. See whether `ops` names one; then `cuda-gdb bin/gpu_run`, or the same under compute-sanitizer's "
         "synccheck.")
CRASHES = ("The text names the device's error and, where it is known, the layer. If `ops` is red too, begin there; if it is green, what "
           "differs is the network's shapes or the graphs: the same with `--without graphs`, then `compute-sanitizer bin/gpu_run golden "
           "...` (log.txt has the line).")
DIFFERS = ("If `ops` is red, begin there. If only `repeats` is: a kernel that a graph starts differs, `--without graphs`, then "
           "csrc/backends/cuda/replay.c. If only bfloat16 is: compare with build/tests/emulated_run; find the first layer by cutting the "
           "network short.")


def tell(found, parts):
    """The table of all goldens."""
    rows = [row for part in parts for row in found.of_part(part) if "pre_quant" in row.data]
    lines = ["| network | latent or pre_quant | limit | reconstruction | limit | different indices | |", "| --- " * 7 + "|"]
    for row in rows:
        d, most = row.data, row.data["limits"]
        indices = "" if "different" not in d else f"{d['different']} of {d['tokens']}"
        errors = " | ".join(f"{d[name]:.1e} | {most[name]:.1e}" for name in ("pre_quant", "reconstruction"))
        lines.append(f"| {row.name} | {errors} | {indices} | {row.state} |")
    return lines if rows else []

"""What was expected of an H100 or H200, beside what was found: wanted, as bench/results/gpu-open.md has it, and predicted from
machine code, as gpu-model.md beside it has. A bar that no run has met is no failure. Called by report.py."""
from dataclasses import dataclass
from statistics import median
from typing import Callable

from gpucheck.options import FULL, HERE


# Of an H100, encode and decode together, by bench/results/gpu-model.md (2026-12-01): its sums, and TFLOP over milliseconds.
PREDICTED = {"image": "13.2 ms", "single": "1.4 ms", "conv": "553 TFLOPS", "attention": "415 TFLOPS"}


@dataclass(frozen=True)
class Figure:
    what: str
    wanted: str
    predicted: str
    found: Callable  # of the results; None: not measured


def both_halves(part, case):
    def read(found):
        row = found.get(part, str(case))
        if not row or row.state != "good":
            return None
        ms = sum(row.data[half]["median_ms"] for half in ("encode", "decode"))
        return f"{ms / row.data['batch']:.2f} ms"
    return read


def beside(mode):
    def read(found):
        row = found.get("peer" if mode != "compile" else "compile", f"{FULL['image']} bf16 {mode}")
        if not row or row.state != "good" or not row.data["ours"]:
            return None
        theirs = [row.data["halves"][half] for half in ("encode", "decode")]
        ours = median(sum(times[:2]) for times in row.data["ours"])
        memory = max(h["mib"] for h in theirs) / row.data["ours"][0][2]
        return f"{sum(median(h['ms']) for h in theirs) / ours:.2f} times, {memory:.1f} times the memory"
    return read


def rate(op):
    """Of all ops of a kind, of the measured roof."""
    def read(found):
        row, roof = found.get("profile", str(FULL["image"])), found.get("peer", "roof")
        steps = [s for s in row.data.get("steps", []) if s["op"] == op and s["tflops"] > 0 and "f32" not in s["shape"]] if row else []
        if not steps or roof is None or roof.state != "good":
            return None
        flops, us = sum(s["tflops"] * s["us"] * s["count"] for s in steps), sum(s["us"] * s["count"] for s in steps)
        partial = "" if row.state == "good" else ", partial"
        return f"{flops / us:.0f} TFLOPS, {100 * flops / us / roof.data['tflops']:.0f} %{partial}"
    return read


def states(*parts):
    def read(found):
        rows = [row for part in parts for row in found.of_part(part) if row.state != "left out"]
        good = sum(row.state == "good" for row in rows)
        return f"{good} of {len(rows)} good" if any(row.state not in ("not reached", "running") for row in rows) else None
    return read


FIGURES = (
    Figure("layouts of the instructions", "the emulator's", "", states("layouts")),
    Figure("ops", "green", "", states("ops")),
    Figure("networks against float64, and again from graphs", "green", "", states("preflight", "golden", "goldens")),
    Figure("compute-sanitizer", "clean", "", states("sanitizer")),
    Figure("DI8x8 1024 x 1024, encode + decode", "12 ms", PREDICTED["image"], both_halves("ours", FULL["image"])),
    Figure("CV4x8x8 17 frames of 720p, encode + decode", "51 ms (3 a frame)", "", both_halves("ours", FULL["video"])),
    Figure("DI8x8 256 x 256 alone", "", PREDICTED["single"], both_halves("ours", FULL["single"])),
    Figure("DI8x8 256 x 256, each of 16 in a batch", "", "", both_halves("ours", FULL["batch"])),
    Figure("convolutions on tensor cores, DI8x8 1024 x 1024", "45 % of the measured roof", PREDICTED["conv"], rate("conv")),
    Figure("attention there", "35 %", PREDICTED["attention"], rate("attention")),
    Figure("PyTorch jit over ctok, DI8x8 1024 x 1024", "1.5 times, 3 times the memory", "", beside("jit")),
    Figure("PyTorch channels-last over ctok", "", "", beside("channels-last")),
    Figure("torch.compile over ctok", "", "", beside("compile")),
)


def tell(found):
    lines = ["## Expected and found", "",
             "Wanted: gpu-open.md. Predicted, for an H100, from the machine code of 2026-12-01, and not measured.", "",
             "| figure | wanted | predicted | found |", "| --- | --- | --- | --- |"]
    return [*lines, *(f"| {f.what} | {f.wanted} | {f.predicted} | {f.found(found) or 'open'} |" for f in FIGURES), "", *model()]


def model():
    """What gpu-model.md predicts of the code that was packed, as it is."""
    path = HERE / "gpu-model.md"
    text = path.read_text().partition("\n## ")[0] if path.exists() else ""
    return ["Predicted of this code, by gpu-model.md:", "", *(f"> {line}".rstrip() for line in text.splitlines()[2:]), ""] if text else []

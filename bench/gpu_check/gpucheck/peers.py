"""A case in PyTorch, in a process of its own, and ours before and after it: a row for each mode. Called by parts/peer.py, peers.py
and compile.py."""
from statistics import median

from gpucheck import programs
from gpucheck.options import HERE

NEXT = "The text is PyTorch's, whole. What others measured stands."
HALVES = ("encode", "decode")


def row(case, mode, precision):
    return f"{case} {precision} {mode}"


def torch_peer(o, *arguments):
    """Its rows and how it ended. It says first whether there is a torch that sees a device."""
    command = [o.python, HERE / "torch_peer.py", "--reference", o.data / "reference", "--device", "cpu" if o.tiny else o.device]
    return [*command, *(["--small"] if o.tiny else []), *arguments]


def measure_roof(o, say):
    say.running("roof")
    ended = programs.run(o, torch_peer(o, "roof"), 40)
    found = next((r for r in programs.json_lines(ended.out) if "tflops" in r), None)
    missing = next((r["missing"] for r in programs.json_lines(ended.out) if "missing" in r), None)
    if missing:
        say.left_out("roof", missing)
    elif not found:
        (say.cut_off if ended.is_late else say.failed)("roof", programs.what_it_said(ended), NEXT)
    else:
        say.good("roof", f"{found['tflops']:.0f} TFLOPS, {found['gb_per_s']:.0f} GB/s", **found)


def time_ours(o, case, precision):
    """[encode ms, decode ms, MiB], or nothing: that ours fails is told by other parts."""
    try:
        halves = programs.time_network(o, case, precision=precision if o.device == "cuda" else "f32")
    except programs.ProgramFailed:
        return None
    return [*(halves[half]["median_ms"] for half in HALVES), max(h["arena_mib"] + h["weight_mib"] for h in halves.values())]


def measure(o, say, case, modes, precision, seconds):
    names = {mode: row(case, mode, precision) for mode in modes}
    for name in names.values():
        say.running(name)
    before = time_ours(o, case, precision)
    size = [case.batch, case.frames, case.height, case.width]
    arguments = ["time", programs.weights(o, case.model, o.tiny), case.model, *size, precision, ",".join(modes)]
    ended = programs.run(o, torch_peer(o, *arguments), seconds)
    said = programs.json_lines(ended.out)
    ours = [times for times in (before, time_ours(o, case, precision)) if times]
    missing = next((r["missing"] for r in said if "missing" in r), None)
    for mode, name in names.items():
        halves = {r["half"]: r for r in said if r.get("mode") == mode and "half" in r}
        refused = next((r["refused"] for r in said if r.get("mode") == mode and "refused" in r), None)
        data = {"ours": ours, "halves": halves}
        if missing:
            say.left_out(name, missing)
        elif refused:
            say.left_out(name, f"PyTorch refused: {refused}")
        elif len(halves) == len(HALVES):
            say.good(name, ", ".join(f"{half} {median(halves[half]['ms']):.2f} ms" for half in HALVES), **data)
        elif ended.is_late:
            say.cut_off(name, f"its deadline passed; measured: {', '.join(halves) or 'nothing'}", **data)
        else:
            say.failed(name, programs.what_it_said(ended), NEXT, **data)


def tell(found, parts):
    """Milliseconds and memory of both, and PyTorch's over ours."""
    lines = ["Milliseconds, medians; of ctok before and after PyTorch's. Bold: PyTorch's over ctok's. Memory in MiB: weights and arena as "
             "planned, and torch.cuda.max_memory_allocated. PyTorch's input and output stay on the GPU, ctok's come from and go to the host.", "",
             "| case | half | ctok | MiB | PyTorch | MiB | |", "| --- " * 7 + "|"]
    for told in (r for part in parts for r in found.of_part(part) if r.data.get("halves")):
        for i, half in enumerate(HALVES):
            theirs, ours = told.data["halves"].get(half), [times[i] for times in told.data["ours"]]
            if not theirs:
                continue
            ms, spread = median(theirs["ms"]), f"({min(theirs['ms']):.2f} to {max(theirs['ms']):.2f})"
            own = f"{', '.join(f'{t:.2f}' for t in ours)} | {told.data['ours'][0][2]:.0f}" if ours else "failed |"
            ratio = f"**{ms / median(ours):.2f}**" if ours else ""
            lines.append(f"| {told.name} | {half} | {own} | {ms:.2f} {spread} | {theirs['mib']:.0f} | {ratio} |")
    return lines if len(lines) > 4 else []

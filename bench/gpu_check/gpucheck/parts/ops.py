"""Every op against the scalar reference, on this GPU (bin/gpu_test)."""
from gpucheck import programs

TITLE, SECONDS = "Ops against the scalar reference", 60
ROW = "gpu_test"
NEXT = ("Each line names the op, its shape and tile. The same case on the emulated device is build/tests/cuda_test: if that is green, what "
        "differs is what the emulator does not know (order, proxies, rounding of sums): `compute-sanitizer --tool racecheck bin/gpu_test small`.")
HANGS = ("The case after the last that is named does not end: `cuda-gdb bin/gpu_test`, or compute-sanitizer's synccheck on `bin/gpu_test "
         "small`.")


def rows(o):
    return [ROW]


def run(o, say):
    say.running(ROW)
    ended = programs.run(o, [o.bin / "gpu_test", *(["small"] if o.tiny else [])])
    lines = ended.out.splitlines()
    cases = [line for line in lines if line.startswith(("ok", "not ok"))]
    bad = [line for line in lines if line.startswith("not ok") or (line.startswith("#") and "expected" in line)]
    skipped = [line for line in cases if "# SKIP" in line]
    counts = {"cases": len(cases), "failed": sum(line.startswith("not ok") for line in cases)}
    text, last = f"{counts['cases']} cases, {counts['failed']} failed", (cases or ["none"])[-1]
    if ended.is_late:
        say.cut_off(ROW, "\n".join([f"its deadline passed after {text}; the last was: {last}", *bad]), HANGS, **counts)
    elif skipped and len(skipped) == len(cases):
        say.left_out(ROW, skipped[0].split("# SKIP")[1].strip())
    elif ended.code != 0 or bad or not cases:
        say.failed(ROW, "\n".join([f"{text}; it {ended.how}; the last was: {last}", *bad, ended.err[-2000:]]), NEXT, **counts)
    else:
        say.good(ROW, text, **counts)


def tell(found):
    return [f"`bin/gpu_test`: {row.text.splitlines()[0]}" for row in found.of_part("ops")]

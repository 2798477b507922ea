"""Other builds of the same programs (bin/variants/NAME/, by build.sh) beside this one, end to end and in turn."""
from statistics import median

from gpucheck import programs

TITLE, SECONDS = "Variants", 60
THIS = "as it is"


def variants(o):
    return sorted(path.parent.name for path in (o.bin / "variants").glob("*/gpu_run"))


def rows(o):
    return variants(o) or ["none"]


def run(o, say):
    names, programs_of = variants(o), {THIS: o.bin / "gpu_run"}
    if not names:
        return say.left_out("none", "no variant was packed")
    programs_of.update({name: o.bin / "variants" / name / "gpu_run" for name in names})
    for _ in range(o.rounds):
        for name, program in programs_of.items():
            time_variant(o, say, name, program, names)
    for name in names:
        if name not in failed:
            say.good(name, f"{o.rounds} rounds")


failed = set()


def time_variant(o, say, name, program, names):
    if name in failed:
        return
    if name != THIS:
        say.running(name)
    try:
        halves = programs.time_network(o, o.cases["image"], runs=10, program=program)
    except programs.ProgramFailed as failure:
        failed.add(name)
        for row in names if name == THIS else [name]:
            say.failed(row, f"{name}: {failure}", "Of this variant alone where the others are measured.")
        return
    pair = [halves["encode"]["median_ms"], halves["decode"]["median_ms"]]
    for row in names if name == THIS else [name]:
        say.add(row, **{"this" if name == THIS else "variant": pair})


def tell(found):
    lines = ["Milliseconds of the image, medians of the rounds in turn; bold: over this build. What is under 1.00 is faster.", "",
             "| variant | encode | decode | this build's encode | decode |", "| --- " * 5 + "|"]
    for row in found.of_part("variants"):
        if "variant" not in row.data or "this" not in row.data:
            continue
        own, this = ([median(pair[i] for pair in row.data[key]) for i in (0, 1)] for key in ("variant", "this"))
        told = [f"{own[i]:.3f} **{own[i] / this[i]:.2f}**" for i in (0, 1)]
        lines.append(f"| {row.name} | {' | '.join(told)} | {this[0]:.3f} | {this[1]:.3f} |")
    return lines if len(lines) > 4 else []

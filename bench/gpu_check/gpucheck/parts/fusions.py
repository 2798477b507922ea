"""A small and a large image end to end, and without each thing that is done for speed, in turn: `--without graphs`, `moments` (the
statistics of a norm, gathered by the convolution before) and `together` (convolutions of one input started as one)."""
from statistics import median

from gpucheck import programs

TITLE, SECONDS = "What is done for speed, and what it brings", 60
NEXT = "The same as `ours`, with one thing left out: if only that fails, it is in the path that stands in for it."
WITHOUT = ("nothing", "graphs", "moments", "together")


def cases(o):
    return [o.cases[name] for name in (("single",) if o.tiny else ("single", "image"))]


def rows(o):
    return [str(case) for case in cases(o)]


def run(o, say):
    for case in cases(o):
        row = str(case)
        say.running(row)
        try:
            for _ in range(o.rounds):
                for without in WITHOUT:
                    halves = programs.time_network(o, case, runs=10, without=without)
                    say.add(row, **{without: [halves["encode"]["median_ms"], halves["decode"]["median_ms"]]})
            say.good(row, f"{o.rounds} rounds")
        except programs.ProgramFailed as failure:
            say.failed(row, f"without {without}: {failure}", NEXT)


def tell(found):
    lines = ["Milliseconds, medians of the rounds; bold: over the first. What is under 1.00 makes it slower and goes.", "",
             "| case | as it is | without graphs | without moments | without together |", "| --- " * 5 + "|"]
    for row in found.of_part("fusions"):
        for i, half in enumerate(("encode", "decode")):
            times = [median(pair[i] for pair in row.data[without]) if without in row.data else None for without in WITHOUT]
            if times[0]:
                told = [f"{t:.3f} **{t / times[0]:.2f}**" if t else "cut off" for t in times[1:]]
                lines.append(f"| {row.name} {half} | {times[0]:.3f} | {' | '.join(told)} |")
    return lines if len(lines) > 4 else []

"""End to end, ours alone: an image, a video and a batch, and an image of the batch's size by itself. From pixels in the host's
memory to tokens there, or back, on the engine's thread."""
from gpucheck import programs

TITLE, SECONDS = "End to end", 45
NEXT = "If the goldens are green, it is this size: the text has the layer or the memory that was wanted; log.txt has the command."
HALVES = ("encode", "decode")


def rows(o):
    return [str(o.cases[name]) for name in ("image", "video", "batch", "single")]


def run(o, say):
    for case in o.cases.values():
        say.running(str(case))
        try:
            halves = programs.time_network(o, case)
        except programs.ProgramFailed as failure:
            say.failed(str(case), str(failure), NEXT)
            continue
        say.good(str(case), ", ".join(f"{half} {halves[half]['median_ms']:.2f} ms" for half in HALVES), batch=case.batch, **halves)


def tell(found):
    lines = ["Milliseconds, median (least to most) of the runs after two that warm up; memory is weights and arena as planned.", "",
             "| case | encode ms | decode ms | both, of one image or clip | MiB |", "| --- | --- | --- | --- | --- |"]
    for row in found.of_part("ours"):
        if row.state != "good":
            continue
        halves = [row.data[half] for half in HALVES]
        times = [f"{h['median_ms']:.2f} ({h['min_ms']:.2f} to {h['max_ms']:.2f})" for h in halves]
        both, mib = sum(h["median_ms"] for h in halves) / row.data["batch"], max(h["arena_mib"] + h["weight_mib"] for h in halves)
        lines.append(f"| {row.name}, {halves[0]['precision']} | {times[0]} | {times[1]} | {both:.2f} | {mib:.0f} |")
    return lines if len(lines) > 4 else []

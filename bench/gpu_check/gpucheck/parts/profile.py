"""Each op of two networks alone (bin/gpu_ops), a line as each is measured: what there is when the deadline passes is kept. Each
convolution also in every tile that takes it, beside the one that csrc/backends/cuda/heuristics.c picks."""
import json

from gpucheck import programs

TITLE, SECONDS = "Each op alone", 60
MOST_ROWS = 24


def cases(o):
    return [o.cases[name] for name in (("image",) if o.tiny else ("image", "video"))]


def rows(o):
    return [str(case) for case in cases(o)]


def add_step(say, row, line):
    try:
        step = json.loads(line)
    except ValueError:
        return
    if "us" in step:
        say.add(row, steps=step)


def run(o, say):
    for i, case in enumerate(cases(o)):
        row = str(case)
        say.running(row)
        command = [o.bin / "gpu_ops", case.model, case.height, case.width, "--frames", case.frames, "--precision", o.precision]
        command += ["--device", o.device, "--tiles", *(["--small"] if o.tiny else [])]
        seconds = o.part_left() / (len(cases(o)) - i)
        ended = programs.run(o, command, seconds, on_line=lambda line: add_step(say, row, line))
        count = sum("us" in r for r in programs.json_lines(ended.out))
        if ended.is_late:
            why = f"its deadline passed after {count} ops, which are told below"
            say.cut_off(row, why, "`--only profile --deadline profile=200` has the rest.")
        elif ended.code != 0 or not count:
            say.failed(row, f"after {count} ops, which are told below:\n{programs.what_it_said(ended)}",
                       "The op after the last in results.json: `compute-sanitizer bin/gpu_ops ...` (log.txt has the line).")
        else:
            say.good(row, f"{count} ops")


def tell(found):
    lines, roof = [], found.get("peer", "roof")
    roof = roof.data if roof and roof.state == "good" else {}
    if roof:
        lines += [f"Measured roof: {roof['tflops']:.0f} TFLOPS (bf16 product 8192 x 8192 x 8192), {roof['gb_per_s']:.0f} GB/s (copy of 1 GiB, "
                  "both ways).", ""]
    for row in found.of_part("profile"):
        if row.data.get("steps"):
            lines += tell_network(row, roof)
    return lines


def tell_network(row, roof):
    steps = row.data["steps"]
    total = {half: sum(s["us"] * s["count"] for s in steps if s["half"] == half) for half in ("encode", "decode")}
    partial = "" if row.state == "good" else " **Partial: the op behind the last was not measured.**"
    lines = [f"{row.name}; a part is of its half's sum ({total['encode'] / 1e3:.2f} and {total['decode'] / 1e3:.2f} ms).{partial}", "",
             "| half | op | shape (out) | steps | us each | of the half | rate | of the roof | us in each tile |", "| --- " * 9 + "|"]
    for s in sorted(steps, key=lambda s: -s["us"] * s["count"])[:MOST_ROWS]:
        is_heavy = s["tflops"] > 0
        rate = f"{s['tflops']:.1f} TFLOPS" if is_heavy else f"{s['gb_per_s']:.0f} GB/s"
        of_roof = "" if not roof else f"{100 * (s['tflops'] / roof['tflops'] if is_heavy else s['gb_per_s'] / roof['gb_per_s']):.0f} %"
        tiles = ", ".join(f"{tile}: {us}" for tile, us in s.get("tiles_us", {}).items())
        of_half = f"{100 * s['us'] * s['count'] / total[s['half']]:.0f} %"
        lines.append(f"| {s['half']} | {s['op']} | {s['shape']} | {s['count']} | {s['us']:.1f} | {of_half} | {rate} | {of_roof} | {tiles} |")
    return lines + [""]

"""The GPU's own counters of three kernels, by Nsight Compute (ncu): the largest convolution, attention and norm of the image. What
keeps the tensor pipe from being full: shared memory, the L2 or what warps wait for."""
import csv
import io
import re

from gpucheck import programs

TITLE, SECONDS = "Counters of three kernels (ncu)", 60
KERNELS = {"conv": "_conv_kernel", "attention": "_attention_kernel", "norm": "norm_apply"}  # what their names hold
SECTIONS = ("SpeedOfLight", "ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis", "WarpStateStats", "SchedulerStats", "Occupancy",
            "LaunchStats")
METRICS = ("gpu__time_duration.sum", "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
           "sm__inst_executed_pipe_tensor.sum", "smsp__inst_executed.sum", "smsp__issue_active.avg.pct_of_peak_sustained_active",
           "l1tex__data_pipe_lsu_wavefronts_mem_shared.avg.pct_of_peak_sustained_elapsed",
           "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum", "lts__t_sectors.avg.pct_of_peak_sustained_elapsed",
           "lts__t_sector_hit_rate.pct", "dram__throughput.avg.pct_of_peak_sustained_elapsed")
# What the report shows: a title, and the counter by any of the names that generations of GPUs give it.
SHOWN = {
    "us": r"gpu__time_duration\.sum",
    "tensor pipe %": r"sm__pipe_tensor(_op_hmma)?_cycles_active\.avg\.pct.*active|sm__inst_executed_pipe_tensor.*pct.*active",
    "issue slots %": r"smsp__issue_active\.avg\.pct.*|smsp__issue_active\.avg\.per_cycle_active",
    "shared memory %": r"l1tex__data_pipe_lsu_wavefronts_mem_shared\.avg\.pct.*",
    "bank conflicts": r"l1tex__data_bank_conflicts_pipe_lsu_mem_shared\.sum",
    "L2 %": r"lts__t_sectors\.avg\.pct.*",
    "L2 hits %": r"lts__t_sector_hit_rate\.pct",
    "DRAM %": r"dram__throughput.*pct.*|gpu__dram_throughput.*pct.*",
    "registers": r"launch__registers_per_thread$",
    "warps %": r"sm__warps_active\.avg\.pct_of_peak_sustained_active",
}
STALL = re.compile(r"smsp__average_warps?_(?:issue_stalled|latency_issue_stalled)_(\w+?)(?:_per_issue_active)?\.(?:ratio|pct)")
NEXT = "log.txt has the command and what ncu said. It needs the right to read counters (root, or NVreg_RestrictProfilingToAdminUsers=0)."


def rows(o):
    return list(KERNELS)


def counters_of(text):
    """The kernel's row of `--page raw --csv`: a line of names, one of units, and one a kernel. Other lines are the program's."""
    lines = text.splitlines()
    head = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    table = list(csv.reader(io.StringIO("\n".join(lines[head:])))) if head is not None else []
    if len(table) < 3:
        return "", {}
    found, kernel = {}, table[2][table[0].index("Kernel Name")]
    for name, unit, value in zip(table[0], table[1], table[2]):
        try:
            found[name] = [float(value.replace(",", "")), unit]
        except ValueError:
            pass  # a name, a date
    return kernel, found


def attempts(o, kind, ncu):
    """With the counters by name; where this ncu knows one of them by another name, with its sections alone."""
    case = o.cases["image"]
    profile = [ncu, "--csv", "--page", "raw", "--clock-control", "none"]
    profile += ["--kernel-name", f"regex:{KERNELS[kind]}", "--launch-skip", 2, "--launch-count", 1]
    sections = [word for section in SECTIONS for word in ("--section", section)]
    program = [o.bin / "gpu_ops", case.model, case.height, case.width, "--precision", "bf16", "--largest", kind, "--launches", 4]
    program += ["--small"] if o.tiny else []
    return [[*profile, *sections, "--metrics", ",".join(METRICS), *program], [*profile, *sections, *program]]


def run(o, say):
    ncu = programs.tool("ncu")
    for i, kind in enumerate(KERNELS):
        say.running(kind)
        if o.device == "cpu" or not ncu:
            say.left_out(kind, "it asks a GPU" if o.device == "cpu" else "there is no ncu")
            continue
        for command in attempts(o, kind, ncu):
            ended = programs.run(o, command, o.part_left() / (len(KERNELS) - i))
            kernel, found = counters_of(ended.out)
            if found or ended.is_late:
                break
        if found:
            say.good(kind, f"{len(found)} counters", kernel=kernel, counters=found)
        elif ended.is_late:
            say.cut_off(kind, "its part of the deadline passed", "`--only counters --deadline counters=120`.")
        else:
            say.failed(kind, programs.what_it_said(ended), NEXT)


def shown(counters):
    for pattern in SHOWN.values():
        value, unit = next((counters[name] for name in counters if re.fullmatch(pattern, name)), (None, ""))
        scale = {"nsecond": 1e-3, "ns": 1e-3, "msecond": 1e3, "ms": 1e3}.get(unit, 1)
        yield "" if value is None else f"{value * scale:.4g}"


def stalls(counters):
    """What a warp waits for, the most first."""
    found = {match[1]: value for name, (value, _) in counters.items() if (match := STALL.fullmatch(name))}
    most = sorted(found.items(), key=lambda item: -item[1])[:5]
    return ", ".join(f"{reason} {value:.3g}" for reason, value in most)


def tell(found):
    good = [row for row in found.of_part("counters") if row.data.get("counters")]
    lines = ["All counters are in results.json; what warps wait for is in warps an issue.", "",
             f"| kernel | {' | '.join(SHOWN)} | warps wait for |", "| --- " * (len(SHOWN) + 2) + "|"]
    for row in good:
        kernel, counters = row.data["kernel"].partition("(")[0], row.data["counters"]
        lines.append(f"| {kernel} | {' | '.join(shown(counters))} | {stalls(counters)} |")
    return lines if good else []

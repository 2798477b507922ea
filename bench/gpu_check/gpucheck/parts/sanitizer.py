"""compute-sanitizer over the small op cases: memory, then races in shared memory, then barriers."""
from gpucheck import programs

TITLE, SECONDS = "compute-sanitizer", 90
TOOLS = ("memcheck", "racecheck", "synccheck")
NEXT = ("The first report names the kernel, the block and the thread. The emulator has the same case in build/tests/cuda_test: plant the bug "
        "there too, so that it is seen from now on.")


def rows(o):
    return list(TOOLS)


def run(o, say):
    sanitizer = programs.tool("compute-sanitizer")
    for i, check in enumerate(TOOLS):
        say.running(check)
        if o.device == "cpu" or not sanitizer:
            say.left_out(check, "it asks a GPU" if o.device == "cpu" else "there is no compute-sanitizer")
            continue
        command = [sanitizer, "--tool", check, "--error-exitcode", "9", o.bin / "gpu_test", "small"]
        ended = programs.run(o, command, o.part_left() / (len(TOOLS) - i))
        reports = [line for line in (ended.out + ended.err).splitlines() if line.startswith("=========")]
        summary = next((line.strip("= ") for line in reports if "SUMMARY" in line), "no summary")
        cases = sum(line.startswith(("ok", "not ok")) for line in ended.out.splitlines())
        if ended.is_late and len(reports) < 3:
            why = f"its part of the deadline passed after {cases} cases without a report"
            say.cut_off(check, why, "`--only sanitizer --deadline sanitizer=300`.")
        elif ended.code != 0:
            say.failed(check, "\n".join([f"{cases} cases, it {ended.how}: {summary}", *reports[:60]]), NEXT)
        else:
            say.good(check, f"{cases} cases, {summary}")


def tell(found):
    return [f"- {row.name}: {row.text}" for row in found.of_part("sanitizer") if row.state == "good"]

"""Where the tensor-core instructions keep their operands, against the emulator's answer (layouts/*.txt): the first line that
differs fails."""
from itertools import zip_longest

from gpucheck import programs

TITLE, SECONDS = "Layouts of the instructions, against the emulator's", 15
NEXT = ("The emulator is wrong about this instruction, and so is every kernel that rests on it: mend "
        "tests/native/cuda_emulator/emulated_ptx.h and the wrapper in csrc/backends/cuda/ptx before anything else.")


def rows(o):
    return ["sm80", "sm90"]


def run(o, say):
    for name in rows(o):
        say.running(name)
        if o.device == "cpu":
            say.left_out(name, "it asks a GPU")
            continue
        ended = programs.run(o, [o.bin / f"{name}_layouts"], 10)
        if ended.code == 3:
            say.left_out(name, ended.err.strip() or "no GPU of that kind")
            continue
        found, wanted = ended.out.splitlines(), (o.data / f"layouts/{name}.txt").read_text().splitlines()
        at = next((i for i, (f, w) in enumerate(zip_longest(found, wanted)) if f != w), None)
        if ended.code != 0:
            say.failed(name, programs.what_it_said(ended), NEXT)
        elif at is not None:
            there, here = ((lines + ["nothing"] * len(wanted))[at] for lines in (wanted, found))
            say.failed(name, f"line {at + 1}: expected {there!r}, found {here!r}", NEXT)
        else:
            say.good(name, f"{len(wanted)} lines, all the same")


def tell(found):
    return [f"- {row.name}: {row.text}" for row in found.of_part("layouts") if row.state == "good"]

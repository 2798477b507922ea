"""The programs of bin/ as the parts call them: gpu_run, gpu_ops, make_weights; and the toolkits' own. Everything they print goes to
log.txt."""
import json
import shlex
import shutil
from pathlib import Path

from gpucheck import children


class ProgramFailed(Exception):
    """With the text of what it said, whole."""


def run(o, command, seconds=None, on_line=None):
    """As children.run, at most as long as the part has left."""
    left = max(1, min(seconds or o.part_left(), o.part_left()))
    ended = children.run(command, left, on_line)
    with open(o.out / "log.txt", "a") as log:
        log.write(f"$ {shlex.join(str(c) for c in command)}\n{ended.out}{ended.err}({ended.how})\n\n")
    return ended


def tool(name):
    """On the PATH, or where the toolkits put it."""
    folders = [*Path("/usr/local").glob("cuda*/bin"), *Path("/opt/nvidia/nsight-compute").glob("*")]
    return shutil.which(name) or next((str(f / name) for f in folders if (f / name).exists()), None)


def json_lines(text):
    rows = []
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            pass
    return rows


def what_it_said(ended):
    """Why a program failed: its own error, or how it ended and all that it printed last."""
    errors = [str(row["error"]) for row in json_lines(ended.out) if isinstance(row, dict) and "error" in row]
    return "\n".join(errors + [f"it {ended.how}", (ended.out[-1500:] if not errors else "") + ended.err[-3000:]]).strip()


def weights(o, model, is_small):
    """Synthetic weights, whose file's name tells what the model is; made once."""
    folder = o.weights.with_name(o.weights.name + ("-small" if is_small else ""))
    path = folder / f"{model}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        ended = run(o, [o.bin / "make_weights", partial, model, *(["--small"] if is_small else [])])
        if ended.code != 0:
            raise ProgramFailed(what_it_said(ended))
        partial.replace(path)
    return path


def time_network(o, case, precision=None, runs=5, without="nothing", program=None, seconds=90):
    """What gpu_run says of both halves: {"encode": {"median_ms", "arena_mib", ...}, "decode": ...}."""
    command = [program or o.bin / "gpu_run", "time", weights(o, case.model, o.tiny), case.height, case.width, "--frames", case.frames]
    command += ["--batch", case.batch, "--device", o.device, "--precision", precision or o.precision]
    ended = run(o, [*command, "--runs", 1 if o.tiny else runs, "--without", without], seconds)
    halves = {row["half"]: row for row in json_lines(ended.out) if "half" in row}
    if ended.code != 0 or len(halves) != 2:
        raise ProgramFailed(what_it_said(ended))
    return halves

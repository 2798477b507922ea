"""What machine this is, and whether one network runs at all: whatever is wrong here is told in full before anything else is tried."""
import importlib.metadata
import shutil

from gpucheck import golden, programs

TITLE, SECONDS = "The machine, and a first network", 25


def rows(o):
    return ["machine", *(golden.carried(o).row(precision) for precision in golden.PRECISIONS)]


def version_of(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def look_at_machine(o, say):
    say.running("machine")
    data = {"PyTorch": version_of("torch"), "tools": [t for t in ("nvcc", "ncu", "compute-sanitizer", "cuda-gdb") if shutil.which(t)]}
    if o.device == "cuda":
        fields = ["name", "driver_version", "memory.total", "clocks.max.sm", "clocks.sm", "temperature.gpu", "compute_mode"]
        if not shutil.which("nvidia-smi"):
            return say.failed("machine", "expected nvidia-smi on the PATH, found none", "No NVIDIA driver: take another machine.", **data)
        ended = programs.run(o, ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"], 10)
        if ended.code != 0:
            return say.failed("machine", programs.what_it_said(ended), "The driver does not answer: take another machine.", **data)
        data.update(zip(fields, ended.out.splitlines()[0].split(", ")))
    say.good("machine", ", ".join(f"{name} {value}" for name, value in data.items()), **data)


def run(o, say):
    look_at_machine(o, say)
    for precision in golden.PRECISIONS:
        golden.check(o, say, golden.carried(o), precision)


def tell(found):
    return [found.get("preflight", "machine").text]

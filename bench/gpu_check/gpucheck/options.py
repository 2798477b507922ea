"""What the check was asked for, where things are, and which networks at which sizes. Read by check.py and by every part."""
import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from gpucheck.order import NAMES

HERE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Case:
    """A network at a size: `batch` images, or clips of `frames` frames."""

    model: str
    batch: int
    frames: int
    height: int
    width: int

    def __str__(self):
        clip = f"{self.frames} x " if self.frames > 1 else ""
        return f"{self.model} {f'{self.batch} of ' if self.batch > 1 else ''}{clip}{self.height} x {self.width}"


FULL = {
    "image": Case("DI8x8", 1, 1, 1024, 1024),
    "video": Case("CV4x8x8", 1, 17, 720, 1280),
    "batch": Case("DI8x8", 16, 1, 256, 256),
    "single": Case("DI8x8", 1, 1, 256, 256),
}
TINY = {
    "image": Case("DI8x8", 1, 1, 16, 24),
    "video": Case("CV4x8x8", 1, 5, 16, 16),
    "batch": Case("DI8x8", 2, 1, 8, 16),
    "single": Case("DI8x8", 1, 1, 8, 16),
}


class Options(argparse.Namespace):
    def left(self):
        """Seconds of the whole budget."""
        return self.budget - (time.time() - self.began)

    def part_left(self):
        """Seconds that the part has, in the part's own process."""
        return self.seconds - (time.monotonic() - self.started)

    @property
    def precision(self):
        return "f32" if self.device == "cpu" else "bf16"


def deadline(text):
    part, _, seconds = text.partition("=")
    if part not in NAMES or not seconds:
        raise argparse.ArgumentTypeError(f"expected PART=SECONDS with a part of {', '.join(NAMES)}, found {text}")
    return part, float(seconds)


def parts_of(text):
    wanted = text.split(",")
    for name in wanted:
        if name not in NAMES:
            raise argparse.ArgumentTypeError(f"expected of {', '.join(NAMES)}, found {name}")
    return wanted


def parse(argv):
    parser = argparse.ArgumentParser(description="Checks and times ctok's CUDA backend on this machine.")
    add = parser.add_argument
    add("--budget", type=float, default=470, help="seconds for all parts together (470)")
    add("--only", type=parts_of, default=list(NAMES), help=f"parts, of {','.join(NAMES)}")
    add("--deadline", type=deadline, action="append", default=[], metavar="PART=SECONDS", help="instead of the part's own")
    add("--out", type=Path, default=Path(os.environ.get("OUT") or HERE), help="folder of the report ($OUT, or beside check.py)")
    add("--rounds", type=int, default=2, help="of what is timed in turn (2)")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a trial of the script where there is no GPU")
    add("--tiny", action="store_true", help="small networks and sizes, likewise")
    add("--bin", type=Path, default=HERE / "bin", help="folder of the programs")
    add("--data", type=Path, default=HERE, help="folder of goldens/, layouts/ and reference/")
    for name, kind, default in (("--part", str, None), ("--seconds", float, 0), ("--began", float, time.time())):
        add(name, type=kind, default=default, help=argparse.SUPPRESS)  # check.py to the process of a part
    o = parser.parse_args(argv, Options())
    o.argv, o.started, o.deadlines = [a for a in argv], time.monotonic(), dict(o.deadline)
    o.out.mkdir(parents=True, exist_ok=True)
    o.cases = TINY if o.tiny else FULL
    o.weights = Path(os.environ.get("TMPDIR", "/tmp")) / f"ctok-weights-{os.getuid()}"
    o.python = sys.executable
    return o

"""Programs as child processes with a deadline, whose lines are told as they come; none outlives the check. Linux alone.

A child is killed when the process that started it dies, even by SIGKILL; what a killed program leaves behind (compute-sanitizer
and ncu start others) comes to check.py, which ends it. Called by check.py and, through programs.py, by the parts.
"""
import ctypes
import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
PATIENCE = 5  # seconds that a killed process has to be gone
libc = ctypes.CDLL(None)


@dataclass
class Ended:
    code: int
    out: str
    err: str
    is_late: bool

    @property
    def how(self):
        if self.is_late:
            return "ran past its deadline"
        if self.code < 0:
            return f"was killed by {signal.Signals(-self.code).name}"
        return f"ended with {self.code}"


def say(o, text):
    print(f"[{time.time() - o.began:5.0f} s] {text}", flush=True)


def adopt_orphans():
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)


def descendants(of):
    """Process ids below `of`, children before grandchildren."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            pass  # it has just ended
    found = [of]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found[1:]


def kill(processes):
    for process in processes:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            pass


def end_descendants():
    """Ends all that is left of this process's children, and takes their exit codes. One that a driver holds is left behind."""
    until = time.monotonic() + PATIENCE
    while (left := descendants(os.getpid())) and time.monotonic() < until:
        kill(left)
        for process in left:
            try:
                os.waitpid(process, os.WNOHANG)
            except ChildProcessError:
                pass  # a grandchild: it comes here once its parent is gone
        time.sleep(0.01)


def run(command, seconds, on_line=None):
    """Runs the command. on_line(line) is called for each line of its standard output, as it comes."""
    child = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
    until, texts, rest = time.monotonic() + seconds, {child.stdout: [], child.stderr: []}, b""
    with selectors.DefaultSelector() as waiting:
        for pipe in texts:
            waiting.register(pipe, selectors.EVENT_READ)
        while waiting.get_map() and (left := until - time.monotonic()) > 0:
            has_ended = child.poll() is not None
            ready = waiting.select(0 if has_ended else min(left, 0.2))
            if has_ended and not ready:
                break  # a process that it left behind keeps the pipe open
            for key, _ in ready:
                data = os.read(key.fd, 1 << 16)
                texts[key.fileobj].append(data)
                if not data:
                    waiting.unregister(key.fileobj)
                elif key.fileobj is child.stdout and on_line:
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        on_line(line.decode(errors="replace"))
    is_late = False
    try:
        child.wait(max(0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        is_late = True
        kill([child.pid, *descendants(child.pid)])
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pass  # in the driver's hands: check.py goes on without it
    for pipe in texts:
        pipe.close()
    out, err = (b"".join(parts).decode(errors="replace") for parts in texts.values())
    return Ended(124 if is_late else child.returncode, out, err, is_late)

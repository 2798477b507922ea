"""Checks ctok's CUDA backend on this machine and times it beside PyTorch; writes a report that is whole at any moment. Run by run.sh.

    python3 check.py [--budget 470] [--only layouts,ops,...] [--out FOLDER] [--device cuda|cpu] [--tiny] ...
Parts run in the order of gpucheck/order.py, each in a process of its own with a deadline. What a part says of its rows
is written to FOLDER/results.md and results.json before it goes on, under another name first, so that whatever ends the check,
the files on the disk name every row: good, failed, left out and why, cut off, or not reached. log.txt has what all programs
printed. FOLDER is $OUT where that is set, else this one. Exit code 1 when a row failed.
"""
import json
import signal
import sys
import traceback

from gpucheck import children, options, results
from gpucheck.parts import PARTS


def run_part(o, name):
    """In the part's own process: does its work, and prints an event a line."""
    try:
        PARTS[name].run(o, results.Say(o))
    except Exception:
        print(json.dumps({"crash": traceback.format_exc()}), flush=True)
        sys.exit(1)


def start_part(o, name, found):
    """From the outside: the part as a process, its events into the results, and what is left of it ended."""
    seconds = min(o.deadlines.get(name, PARTS[name].SECONDS), o.left() - 2)
    if seconds < min(5, PARTS[name].SECONDS):
        return found.end(name, "not reached", f"the budget of {o.budget:.0f} s was spent")
    found.begin(name)
    children.say(o, f"{name}: at most {seconds:.0f} s")
    command = [sys.executable, __file__, *o.argv, "--part", name, "--seconds", f"{seconds:.1f}", "--began", repr(o.began)]
    ended = children.run(command, seconds + 1, on_line=found.apply)
    children.end_descendants()
    if ended.is_late:
        found.end(name, "cut off", f"its deadline of {seconds:.0f} s passed")
    else:
        found.end(name, "failed", f"the part {ended.how}\n{ended.err[-2000:]}")


def main():
    o = options.parse(sys.argv[1:])
    if o.part:
        return run_part(o, o.part)
    found = results.Results(o, {name: PARTS[name].rows(o) for name in PARTS if name in o.only})
    children.adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        for name in found.parts:
            if found.of_part(name):
                start_part(o, name, found)
    finally:
        children.end_descendants()
        found.finish()
        children.say(o, found.summary())
    sys.exit(1 if found.of_state("failed") else 0)


if __name__ == "__main__":
    main()

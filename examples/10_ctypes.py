"""A photo to tokens and back from Python, through the C interface, with nothing but the standard library.

The structs below are those of csrc/include/ctok.h, field by field; struct_size tells the library which version it is given.
Reads and writes binary PPM (P6). Needs build/libctok.so (node_modules/.bin/bun build.ts), or CTOK_LIBRARY.
Run: python3 examples/10_ctypes.py [IN.ppm [OUT.ppm]]
"""
import array
import ctypes
import os
import re
import sys
from ctypes import POINTER, Structure, byref, c_char, c_char_p, c_int32, c_int64, c_uint32, c_uint64, c_void_p, sizeof

library = os.environ.get("CTOK_LIBRARY", os.path.join(os.path.dirname(__file__), "../build/libctok.so"))
NOT_READY = 403
ENCODE, DECODE = 1, 2
PIXELS_U8, INDICES = 1, 4


class Error(Structure):
    _fields_ = [("struct_size", c_uint32), ("status", c_int32), ("detail", c_int64), ("message", c_char * 1008)]


class Request(Structure):
    _fields_ = [(name, c_uint32) for name in "struct_size task input outputs chunk num_held".split()] + [
        (name, c_int64)
        for name in "batch frames height width crop_before crop_top crop_left crop_frames crop_height crop_width".split()
    ] + [("state_frames", c_int64), ("max_memory_bytes", c_uint64)]


class Output(Structure):
    _fields_ = [("kind", c_uint32), ("dtype", c_int32), ("rank", c_uint32), ("reserved", c_uint32),
                ("shape", c_int64 * 5), ("bytes", c_uint64)]


class Plan(Structure):
    _fields_ = (
        [("struct_size", c_uint32), ("num_outputs", c_uint32)]
        + [(name, c_uint64) for name in "input_bytes result_bytes arena_bytes weight_bytes".split()]
        + [("num_steps", c_uint32), ("reserved", c_uint32)]
        + [(name, c_uint64) for name in "state_bytes state_bytes_per_frame total_bytes".split()]
        + [(name, c_int64) for name in "padded_frames padded_height padded_width pad_before pad_top pad_left".split()]
        + [("outputs", Output * 4)]
    )


class JobInfo(Structure):
    _fields_ = (
        [("struct_size", c_uint32), ("state", c_uint32), ("status", c_int32)]
        + [(name, c_uint32) for name in "model steps_done num_steps num_outputs reserved".split()]
        + [("run_us", c_uint64)]
        + [(name, c_int64) for name in "pad_before pad_top pad_left".split()]
        + [("outputs", Output * 4)]
    )


ctok = ctypes.CDLL(library)
id_out, error_out = POINTER(c_uint32), POINTER(Error)
for function, arguments in {
    "engine_open": [c_void_p, c_void_p, id_out],
    "engine_close": [c_uint32],
    "model_open": [c_uint32, c_char_p, c_void_p, id_out],
    "plan_query": [c_uint32, POINTER(Plan), POINTER(Request)],
    "job_submit": [c_uint32, c_void_p, c_uint64, POINTER(Request), id_out],
    "job_wait": [c_uint32, c_uint32],
    "job_query": [c_uint32, POINTER(JobInfo)],
    "job_take": [c_uint32, c_void_p, c_uint64, c_uint32],
    "job_release": [c_uint32],
}.items():
    getattr(ctok, f"ctok_{function}").argtypes = [*arguments, error_out]
ctok.ctok_version.restype = ctok.ctok_status_name.restype = c_char_p


class CtokError(Exception):
    """A refusal or a failed job: `status` and `detail` as in ctok.h."""

    def __init__(self, error):
        super().__init__(f"{ctok.ctok_status_name(error.status).decode()}: {error.message.decode()}")
        self.status, self.detail = error.status, error.detail


def call(function, *arguments):
    """Calls ctok_FUNCTION; raises CtokError unless it gives CTOK_OK."""
    error = Error(sizeof(Error))
    if getattr(ctok, f"ctok_{function}")(*arguments, byref(error)):
        raise CtokError(error)


def new_id(function, *arguments):
    """Of a function whose last argument but the error is an id that it writes."""
    out = c_uint32()
    call(function, *arguments, byref(out))
    return out.value


def finish(job):
    """Waits for a job and forgets it; gives its info and its first output's bytes. A failed job raises its own error."""
    try:
        while True:
            try:
                call("job_wait", job, 1_000_000)
                break
            except CtokError as error:
                if error.status != NOT_READY:
                    raise
        info = JobInfo(sizeof(JobInfo))
        call("job_query", job, byref(info))
        data = bytearray(info.outputs[0].bytes)
        if data:
            call("job_take", job, (c_char * len(data)).from_buffer(data), len(data), 0)
        return info, data
    finally:
        call("job_release", job)


def read_ppm(path):
    """Pixels (3 bytes each), height and width. Limit: a header without comments."""
    with open(path, "rb") as file:
        data = file.read()
    header = re.match(rb"P6\s+(\d+)\s+(\d+)\s+255\s", data)
    if not header:
        sys.exit(f"{path}: expected a binary PPM with 8 bits a colour")
    return data[header.end():], int(header[2]), int(header[1])


source, target = [*sys.argv[1:], *["examples/media/cat.ppm", "out/10_cat_again.ppm"][len(sys.argv) - 1:]]
engine = new_id("engine_open", None, None)
opened, _ = finish(new_id("model_open", engine, b"models/nano/DI8x8.safetensors", None))
model = opened.model

pixels, height, width = read_ppm(source)
encode = Request(sizeof(Request), ENCODE, PIXELS_U8, INDICES, height=height, width=width)
plan = Plan(sizeof(Plan))
call("plan_query", model, byref(plan), byref(encode))
print(f"ctok {ctok.ctok_version().decode()}; {source}: {width}x{height} pixels, padded to {plan.padded_width}x{plan.padded_height}")

encoded, data = finish(new_id("job_submit", model, pixels, len(pixels), byref(encode)))
_, rows, columns = encoded.outputs[0].shape[:3]
indices = array.array("i", bytes(data))
print(f"tokens [1, {rows}, {columns}]: {' '.join(map(str, indices[:8]))} ..")

decode = Request(sizeof(Request), DECODE, INDICES, PIXELS_U8, height=rows, width=columns, crop_top=plan.pad_top,
                 crop_left=plan.pad_left, crop_height=height, crop_width=width)
decoded, again = finish(new_id("job_submit", model, indices.tobytes(), len(data), byref(decode)))
os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
with open(target, "wb") as file:
    file.write(b"P6\n%d %d\n255\n" % (width, height) + again)
print(f"{target}: the photo from its tokens, decoded in {decoded.run_us / 1000:.0f} ms")

indices[5] = 64000
try:
    finish(new_id("job_submit", model, indices.tobytes(), len(data), byref(decode)))
except CtokError as error:
    print(f"refused, detail {error.detail}: {error}")
call("engine_close", engine)

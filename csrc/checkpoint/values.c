// A tensor's values, out of its file: to f32, to i64, or as stored. Any strides: axes that follow
// each other in memory are merged first, so that a contiguous tensor is one run. Loads go through
// memcpy, as a file promises no alignment.
// What it leaves out: checks; the readers have made sure that every element lies inside its file.
// Called by open.c, safetensors.c and, through checkpoint.h, by runtime/.
#include <math.h>
#include <stdlib.h>

#include "reader.h"

bool tensor_count(int64_t *num_elements, const checkpoint_tensor *tensor) {
    int64_t n = 1;
    bool is_empty = false;
    for (int32_t i = 0; i < tensor->rank; i++) {
        is_empty |= tensor->shape[i] == 0;
        if (tensor->shape[i] > 0 &&
            (__builtin_mul_overflow(n, tensor->shape[i], &n) || n > INT64_MAX / 8))
            return false;
    }
    *num_elements = is_empty ? 0 : n;
    return true;
}

/* ---------------------------------------------------------------- runs
 * run_start, then run_next until false: each gives `count` elements, `step` bytes apart, the next
 * in row-major order. */
typedef struct {
    const uint8_t *first;
    int64_t count, step;
    int32_t rank;  // of the axes outside the run
    int64_t shape[CHECKPOINT_MAX_RANK], stride[CHECKPOINT_MAX_RANK], index[CHECKPOINT_MAX_RANK];
    bool has_begun;
} run;

static run run_start(const checkpoint_tensor *tensor) {
    run r = {.first = tensor->data, .count = 1};
    int64_t bytes = (int64_t)dtype_bytes(tensor->dtype);
    r.step = bytes;
    for (int32_t i = 0; i < tensor->rank; i++) {
        int64_t size = tensor->shape[i];
        if (size == 0) return (run){0};
        if (size == 1) continue;  // before its stride, which may be any number
        int64_t stride = tensor->stride[i] * bytes;
        int32_t outer = r.rank - 1;
        if (outer >= 0 && r.stride[outer] == stride * size) {
            r.shape[outer] *= size;
            r.stride[outer] = stride;
        } else {
            r.shape[r.rank] = size;
            r.stride[r.rank++] = stride;
        }
    }
    if (r.rank > 0) {
        r.rank--;
        r.count = r.shape[r.rank];
        r.step = r.stride[r.rank];
    }
    return r;
}

static bool run_next(run *r) {
    if (!r->has_begun) return r->has_begun = true, r->count > 0;
    for (int32_t i = r->rank - 1; i >= 0; i--) {
        r->first += r->stride[i];
        if (++r->index[i] < r->shape[i]) return true;
        r->first -= r->stride[i] * r->shape[i];
        r->index[i] = 0;
    }
    return false;
}

bool checkpoint_is_contiguous(const checkpoint_tensor *tensor) {
    run r = run_start(tensor);
    return r.rank == 0 && (r.count <= 1 || r.step == (int64_t)dtype_bytes(tensor->dtype));
}

// `body` once for each element: `p` points at it in the file, `i` counts in `out`. Kept a macro so
// that each dtype's loop stays a plain one that the compiler can vectorize when the step is the
// element's size.
#define EACH_ELEMENT(tensor, element_bytes, body)                                     \
    for (run r_ = run_start(tensor); run_next(&r_);) {                                \
        const uint8_t *p = r_.first;                                                  \
        if (r_.step == (element_bytes)) {                                             \
            for (int64_t k_ = 0; k_ < r_.count; k_++, p += (element_bytes), i++) body \
        } else {                                                                      \
            for (int64_t k_ = 0; k_ < r_.count; k_++, p += r_.step, i++) body         \
        }                                                                             \
    }

static int64_t convert_none(const checkpoint_tensor *tensor, uint8_t *out) {
    int64_t i = 0;
    switch (dtype_bytes(tensor->dtype)) {
        case 1: EACH_ELEMENT(tensor, 1, { out[i] = *p; }) break;
        case 2: EACH_ELEMENT(tensor, 2, { memcpy(out + 2 * i, p, 2); }) break;
        case 4: EACH_ELEMENT(tensor, 4, { memcpy(out + 4 * i, p, 4); }) break;
        case 8: EACH_ELEMENT(tensor, 8, { memcpy(out + 8 * i, p, 8); }) break;
        default: break;
    }
    return 0;
}

/* ---------------------------------------------------------------- f32 */
static inline float float_from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
static inline float load_f32(const uint8_t *p) { return float_from_bits(load_u32(p)); }
static inline float load_bf16(const uint8_t *p) {
    return float_from_bits((uint32_t)load_u16(p) << 16);
}
static inline float load_f64(const uint8_t *p) {
    double d;
    memcpy(&d, p, sizeof d);
    return (float)d;
}

// Exact. A subnormal is its mantissa times 2^-24; the others move their exponent from bias 15 to
// bias 127.
static inline float load_f16(const uint8_t *p) {
    uint32_t half = load_u16(p), sign = (half & 0x8000) << 16, exponent = half >> 10 & 31,
             mantissa = half & 0x3FF;
    if (exponent == 0) {
        float magnitude = (float)mantissa * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    return float_from_bits(sign | (exponent == 31 ? 255 : exponent + 112) << 23 | mantissa << 13);
}

static int64_t convert_f32(const checkpoint_tensor *tensor, uint8_t *bytes) {
    float *out = (float *)bytes;
    int64_t i = 0, num_nonfinite = 0;
    switch (tensor->dtype) {
        case CTOK_F32: EACH_ELEMENT(tensor, 4, { out[i] = load_f32(p); }) break;
        case CTOK_F16: EACH_ELEMENT(tensor, 2, { out[i] = load_f16(p); }) break;
        case CTOK_BF16: EACH_ELEMENT(tensor, 2, { out[i] = load_bf16(p); }) break;
        case CTOK_F64: EACH_ELEMENT(tensor, 8, { out[i] = load_f64(p); }) break;
        default: break;
    }
    for (int64_t k = 0; k < i; k++) num_nonfinite += !isfinite(out[k]);
    return num_nonfinite;
}

/* ---------------------------------------------------------------- i64 */
static int64_t convert_i64(const checkpoint_tensor *tensor, uint8_t *bytes) {
    int64_t *out = (int64_t *)bytes;
    int64_t i = 0;
    switch (tensor->dtype) {
        case CTOK_U8: EACH_ELEMENT(tensor, 1, { out[i] = *p; }) break;
        case CTOK_I8: EACH_ELEMENT(tensor, 1, { out[i] = (int8_t)*p; }) break;
        case CTOK_BOOL: EACH_ELEMENT(tensor, 1, { out[i] = *p != 0; }) break;
        case CTOK_U16: EACH_ELEMENT(tensor, 2, { out[i] = load_u16(p); }) break;
        case CTOK_I16: EACH_ELEMENT(tensor, 2, { out[i] = (int16_t)load_u16(p); }) break;
        case CTOK_I32: EACH_ELEMENT(tensor, 4, { out[i] = (int32_t)load_u32(p); }) break;
        case CTOK_I64: EACH_ELEMENT(tensor, 8, { out[i] = (int64_t)load_u64(p); }) break;
        default: break;
    }
    return 0;
}

/* ---------------------------------------------------------------- reading the file
 * In pieces that stay in the first cache levels, on the stack of the thread that wants them:
 * nothing is mapped, so no page of the file is ever ours, and one that is not there any more is an
 * error. A strided tensor that fills most of what it spans (an axis moved to another place) is read
 * whole, from its first element to its last; any other run by run, as two values at the two ends of
 * a large storage must cost two reads and not the storage. */
enum {
    PIECE_BYTES = 64 << 10,
    MOST_SPAN = 4,          // times its own bytes that a tensor may span to be read whole
    READ_COST_BYTES = 4096  // what one more read costs, in bytes of a longer one
};

typedef int64_t (*conversion)(const checkpoint_tensor *, uint8_t *);

// Elements from the first to the last, of a tensor that has some.
static int64_t span_elements(const checkpoint_tensor *tensor) {
    int64_t last = 0;
    for (int32_t i = 0; i < tensor->rank; i++)
        last += (tensor->shape[i] - 1) * tensor->stride[i];  // checked by the reader
    return last + 1;
}

static bool is_read_whole(const checkpoint_tensor *tensor) {
    return !checkpoint_is_contiguous(tensor) &&
           span_elements(tensor) / MOST_SPAN <= checkpoint_elements(tensor);
}

static int64_t read_whole(const checkpoint_tensor *tensor, uint8_t *out, conversion convert) {
    size_t num_bytes = (size_t)span_elements(tensor) * dtype_bytes(tensor->dtype);
    uint8_t *values = malloc(num_bytes);
    checkpoint_tensor here = *tensor;
    here.data = values;
    int64_t result = values && read_at(tensor->descriptor, values, num_bytes, tensor->offset)
                         ? convert(&here, out)
                         : -1;
    free(values);
    return result;
}

// How many elements of a run lie within one piece: one or more.
static int64_t piece_elements(const run *r) {
    if (r->step == 0) return r->count;
    int64_t n = PIECE_BYTES / r->step;
    return n < 1 ? 1 : n < r->count ? n : r->count;
}

static int64_t read_runs(const checkpoint_tensor *tensor, uint8_t *out, size_t out_bytes,
                         conversion convert) {
    int64_t element_bytes = (int64_t)dtype_bytes(tensor->dtype), sum = 0;
    uint8_t piece[PIECE_BYTES];
    for (run r = run_start(tensor); run_next(&r);) {
        uint64_t first = tensor->offset + (uint64_t)(r.first - tensor->data);
        for (int64_t at = 0, n; at < r.count; at += n) {
            n = piece_elements(&r);
            if (n > r.count - at) n = r.count - at;
            size_t num_bytes = (size_t)((n - 1) * r.step + element_bytes);
            if (!read_at(tensor->descriptor, piece, num_bytes, first + (uint64_t)(at * r.step)))
                return -1;
            checkpoint_tensor part = {.dtype = tensor->dtype,
                                      .rank = 1,
                                      .shape = {n},
                                      .stride = {r.step / element_bytes},
                                      .data = piece};
            sum += convert(&part, out);
            out += (size_t)n * out_bytes;
        }
    }
    return sum;
}

static int64_t read_values(const checkpoint_tensor *tensor, uint8_t *out, size_t out_bytes,
                           conversion convert) {
    if (!tensor->descriptor) return convert(tensor, out);
    return is_read_whole(tensor) ? read_whole(tensor, out, convert)
                                 : read_runs(tensor, out, out_bytes, convert);
}

uint64_t checkpoint_read_cost(const checkpoint_tensor *tensor) {
    uint64_t num_bytes = (uint64_t)checkpoint_elements(tensor) * dtype_bytes(tensor->dtype);
    if (num_bytes == 0 || checkpoint_is_contiguous(tensor)) return num_bytes;
    uint64_t read_bytes = (uint64_t)span_elements(tensor) * dtype_bytes(tensor->dtype);
    if (!is_read_whole(tensor)) {
        run r = run_start(tensor);
        int64_t n = piece_elements(&r),
                piece_bytes = (n - 1) * r.step + (int64_t)dtype_bytes(tensor->dtype);
        uint64_t num_pieces = (uint64_t)((r.count + n - 1) / n);
        for (int32_t i = 0; i < r.rank; i++) num_pieces *= (uint64_t)r.shape[i];
        read_bytes = num_pieces * (uint64_t)(READ_COST_BYTES + piece_bytes);
    }
    return read_bytes > num_bytes ? read_bytes : num_bytes;
}

uint64_t checkpoint_read_memory(const checkpoint_tensor *tensor) {
    bool takes_some = checkpoint_elements(tensor) > 0 && is_read_whole(tensor);
    return takes_some ? (uint64_t)(span_elements(tensor) + checkpoint_elements(tensor)) *
                            dtype_bytes(tensor->dtype)
                      : 0;
}

checkpoint_tensor checkpoint_flat(const checkpoint_tensor *tensor) {
    checkpoint_tensor flat = *tensor;
    flat.shape[0] = checkpoint_elements(tensor);
    flat.stride[0] = 1;
    flat.rank = 1;
    return flat;
}

bool checkpoint_pieces(const checkpoint_tensor *tensor,
                       bool (*take)(void *context, const uint8_t *bytes, size_t num_bytes),
                       void *context) {
    int64_t count = checkpoint_elements(tensor),
            most = PIECE_BYTES / (int64_t)dtype_bytes(tensor->dtype);
    if (count > 0 && !checkpoint_is_contiguous(tensor)) {
        size_t num_bytes = (size_t)count * dtype_bytes(tensor->dtype);
        uint8_t *copy = malloc(num_bytes);
        bool is_done = copy && checkpoint_copy(tensor, copy) && take(context, copy, num_bytes);
        free(copy);
        return is_done;
    }
    checkpoint_tensor flat = checkpoint_flat(tensor);
    uint8_t piece[PIECE_BYTES];
    for (int64_t at = 0, n; at < count; at += n) {
        n = count - at < most ? count - at : most;
        checkpoint_tensor part = checkpoint_rows(&flat, at, n);
        if (!checkpoint_copy(&part, piece) ||
            !take(context, piece, (size_t)n * dtype_bytes(tensor->dtype)))
            return false;
    }
    return true;
}

int64_t checkpoint_read_f32(const checkpoint_tensor *tensor, float *out) {
    return read_values(tensor, (uint8_t *)out, sizeof *out, convert_f32);
}

bool checkpoint_read_i64(const checkpoint_tensor *tensor, int64_t *out) {
    return read_values(tensor, (uint8_t *)out, sizeof *out, convert_i64) == 0;
}

bool checkpoint_copy(const checkpoint_tensor *tensor, uint8_t *out) {
    return read_values(tensor, out, dtype_bytes(tensor->dtype), convert_none) == 0;
}

ctok_status checkpoint_fail_read(const checkpoint_tensor *tensor, ctok_error *error) {
    return ctok_fail(error, CTOK_E_FILE_IO, (int64_t)tensor->offset,
                     "tensor %s: expected its values at byte %llu, found a file that has become "
                     "shorter or cannot be read",
                     string_shown(tensor->name).s, (unsigned long long)tensor->offset);
}

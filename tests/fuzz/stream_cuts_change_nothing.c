// stream_cuts_change_nothing: a clip encoded in chunks of any lengths gives the indices of the clip
// in one chunk, and its tokens decoded in chunks give the pixels of the tokens in one, bit by bit;
// a cancelled chunk ends the stream and nothing else. The input is the plan: 2 bytes of sizes, then
// a length for each chunk, then a seed of pixels. Needs models/nano.
#include "../../csrc/include/ctok.h"
#include "fuzz.h"

enum { MAX_UNITS = 4, MAX_SIDE = 32 };
static uint32_t engine, model;

static uint32_t finish(uint32_t job, ctok_status wanted) {
    ctok_job_info info = {.struct_size = sizeof info};
    ctok_status status = ctok_job_wait(job, 100000000, NULL);
    PROPERTY(status == wanted || status == CTOK_OK);
    PROPERTY(ctok_job_query(job, &info, NULL) == CTOK_OK);
    return info.model;
}

static void open_once(void) {
    uint32_t job = 0;
    ctok_engine_options options = {.struct_size = sizeof options, .num_threads = 1};
    PROPERTY(ctok_engine_open(&options, NULL, &engine, NULL) == CTOK_OK);
    PROPERTY(ctok_model_open(engine, "models/nano/DV4x8x8.safetensors", NULL, &job, NULL) ==
             CTOK_OK);
    model = finish(job, CTOK_OK);
    PROPERTY(model && ctok_job_release(job, NULL) == CTOK_OK);
}

// Runs the units (4 frames, or one frame of tokens; the first is a single frame) through a stream,
// cut at `lengths`.
static void run(uint8_t *out, uint32_t task, const uint8_t *input, int num_units, int h, int w,
                const uint8_t *lengths, size_t num_lengths) {
    uint32_t stream = 0;
    ctok_stream_options options = {.struct_size = sizeof options, .task = task};
    PROPERTY(ctok_stream_open(model, &options, &stream, NULL) == CTOK_OK);
    bool is_encode = task == CTOK_TASK_ENCODE;
    for (int done = 0, chunk = 0; done < num_units; chunk++) {
        int units = num_lengths ? 1 + lengths[chunk % num_lengths] % MAX_UNITS : num_units;
        if (units > num_units - done) units = num_units - done;
        int frames = !is_encode ? units : done == 0 ? 1 + (units - 1) * 4 : units * 4;
        ctok_request request = {.struct_size = sizeof request,
                                .input = is_encode ? CTOK_PIXELS_U8 : CTOK_INDICES,
                                .outputs = is_encode ? CTOK_INDICES : CTOK_PIXELS_F32,
                                .frames = frames,
                                .height = h,
                                .width = w};
        size_t input_bytes = (size_t)(frames * h * w) * (is_encode ? 3 : 4);
        uint32_t job = 0;
        ctok_error error = {.struct_size = sizeof error};
        if (ctok_stream_submit(stream, input, input_bytes, &request, &job, &error) != CTOK_OK)
            fprintf(stderr, "%s\n", error.message), abort();
        finish(job, CTOK_OK);
        ctok_job_info info = {.struct_size = sizeof info};
        PROPERTY(ctok_job_query(job, &info, NULL) == CTOK_OK && info.num_outputs == 1);
        uint64_t bytes = info.outputs[0].bytes;
        uint8_t *part = malloc(bytes);
        PROPERTY(part && ctok_job_take(job, part, bytes, 0, NULL) == CTOK_OK &&
                 ctok_job_release(job, NULL) == CTOK_OK);
        // Pixels are [3, T, H, W]: the frames of a chunk go to their place in each channel.
        int out_frames = is_encode ? units : done == 0 ? 1 + (units - 1) * 4 : units * 4;
        int first = is_encode || done == 0 ? done : 1 + (done - 1) * 4,
            total = is_encode ? num_units : 1 + (num_units - 1) * 4;
        int planes = is_encode ? 1 : 3;
        size_t frame_bytes = bytes / (size_t)(planes * out_frames);
        for (int c = 0; c < planes; c++)
            memcpy(out + (size_t)(c * total + first) * frame_bytes,
                   part + (size_t)(c * out_frames) * frame_bytes, (size_t)out_frames * frame_bytes);
        free(part);
        input += input_bytes;
        done += units;
    }
    PROPERTY(ctok_stream_close(stream, NULL) == CTOK_OK);
}

// A chunk that is cancelled ends its stream: what follows is CLOSED; or it was too late, and what
// follows is well.
static void cancel_midway(const uint8_t *pixels, int side) {
    uint32_t stream = 0, jobs[3] = {0};
    ctok_stream_options options = {.struct_size = sizeof options, .task = CTOK_TASK_ENCODE};
    PROPERTY(ctok_stream_open(model, &options, &stream, NULL) == CTOK_OK);
    for (int i = 0; i < 3; i++) {
        ctok_request request = {.struct_size = sizeof request,
                                .input = CTOK_PIXELS_U8,
                                .frames = i ? 4 : 1,
                                .height = side,
                                .width = side};
        PROPERTY(ctok_stream_submit(stream, pixels, (uint64_t)((i ? 4 : 1) * side * side * 3),
                                    &request, &jobs[i], NULL) == CTOK_OK);
    }
    PROPERTY(ctok_job_cancel(jobs[1], NULL) == CTOK_OK &&
             ctok_stream_close(stream, NULL) == CTOK_OK);
    ctok_status found[3];
    for (int i = 0; i < 3; i++)
        found[i] = ctok_job_wait(jobs[i], 100000000, NULL), ctok_job_release(jobs[i], NULL);
    PROPERTY(found[0] == CTOK_OK);
    PROPERTY((found[1] == CTOK_OK && found[2] == CTOK_OK) ||
             (found[1] == CTOK_E_CANCELLED && found[2] == CTOK_E_CLOSED));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t num_bytes) {
    if (num_bytes < 4) return -1;
    if (!engine) open_once();
    int units = 1 + bytes[0] % MAX_UNITS, h = 16 * (1 + (bytes[1] & 1)),
        w = 16 * (1 + (bytes[1] >> 1 & 1)), frames = 1 + (units - 1) * 4;
    size_t num_lengths = 1 + (num_bytes - 3) % 4, pixel_bytes = (size_t)(frames * h * w * 3);
    uint32_t seed = 1;
    for (size_t i = 2; i < num_bytes; i++) seed = seed * 31 + bytes[i];
    static uint8_t pixels[(1 + (MAX_UNITS - 1) * 4) * MAX_SIDE * MAX_SIDE * 3];
    for (size_t i = 0; i < pixel_bytes; i++)
        pixels[i] = (uint8_t)((seed = seed * 1664525 + 1013904223) >> 24);

    static int32_t whole[MAX_UNITS * 16], cut[MAX_UNITS * 16];
    run((uint8_t *)whole, CTOK_TASK_ENCODE, pixels, units, h, w, NULL, 0);
    run((uint8_t *)cut, CTOK_TASK_ENCODE, pixels, units, h, w, bytes + 2, num_lengths);
    int tokens = units * (h / 8) * (w / 8);
    PROPERTY(memcmp(whole, cut, (size_t)tokens * sizeof *whole) == 0);
    static float whole_pixels[sizeof pixels], cut_pixels[sizeof pixels];
    run((uint8_t *)whole_pixels, CTOK_TASK_DECODE, (uint8_t *)whole, units, h / 8, w / 8, NULL, 0);
    run((uint8_t *)cut_pixels, CTOK_TASK_DECODE, (uint8_t *)whole, units, h / 8, w / 8, bytes + 2,
        num_lengths);
    PROPERTY(memcmp(whole_pixels, cut_pixels, pixel_bytes * sizeof(float)) == 0);
    if (bytes[1] & 4) cancel_midway(pixels, 16);
    return 0;
}

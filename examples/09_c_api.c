/* The C interface alone: a photo to tokens and back, on the library that TypeScript uses. The
 * program waits for each job; a program with other work to do would poll (timeout_us 0), or hand
 * ctok_engine_open a function that wakes it. Reads and writes binary PPM (P6), which needs no
 * library. See csrc/include/ctok.h, the manual.
 *
 * Build: mkdir -p out && cc -std=c11 -Wall -Icsrc/include examples/09_c_api.c -o out/09_c_api \
 *        build/libctok.so -Wl,-rpath,$PWD/build
 * Run:   out/09_c_api [IN.ppm [OUT.ppm]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctok.h"

static ctok_error error = {.struct_size = sizeof error};

static void check(ctok_status status, const char *doing) {
    if (status == CTOK_OK) return;
    fprintf(stderr, "%s: %s: %s\n", doing, ctok_status_name(status), error.message);
    exit(1);
}

static void fail(const char *path, const char *wanted) {
    fprintf(stderr, "%s: expected %s\n", path, wanted);
    exit(1);
}

/* How a job ended; a failed one left its own error in `error`. */
static ctok_status end_of(uint32_t job) {
    ctok_status status;
    do status = ctok_job_wait(job, 1000000, &error);
    while (status == CTOK_E_NOT_READY);
    return status;
}

/* Waits for a job to end well. */
static ctok_job_info finish(uint32_t job, const char *doing) {
    ctok_job_info info = {.struct_size = sizeof info};
    check(end_of(job), doing);
    check(ctok_job_query(job, &info, &error), doing);
    return info;
}

/* Output `index` of a job, in memory that the caller frees. */
static void *take(uint32_t job, const ctok_job_info *info, uint32_t index) {
    const uint64_t bytes = info->outputs[index].bytes;
    void *data = malloc(bytes);
    if (!data) fail("memory", "some");
    check(ctok_job_take(job, data, bytes, index, &error), "taking a result");
    return data;
}

/* uint8 [height, width, 3]; the caller frees it. Limit: a header without comments. */
static uint8_t *read_ppm(const char *path, int *height, int *width) {
    FILE *file = fopen(path, "rb");
    if (!file) fail(path, "a file");
    if (fscanf(file, "P6 %d %d 255", width, height) != 2 || fgetc(file) == EOF)
        fail(path, "a binary PPM with 8 bits a colour");
    const size_t bytes = (size_t)*height * *width * 3;
    uint8_t *pixels = malloc(bytes);
    if (!pixels || fread(pixels, 1, bytes, file) != bytes)
        fail(path, "as many pixels as its header says");
    fclose(file);
    return pixels;
}

static void write_ppm(const char *path, const uint8_t *pixels, int64_t height, int64_t width) {
    FILE *file = fopen(path, "wb");
    if (!file) fail(path, "a folder to write in");
    fprintf(file, "P6\n%d %d\n255\n", (int)width, (int)height);
    if (fwrite(pixels, 1, (size_t)(height * width * 3), file) != (size_t)(height * width * 3) ||
        fclose(file))
        fail(path, "room");
}

int main(int argc, char **argv) {
    const char *in = argc > 1 ? argv[1] : "examples/media/cat.ppm",
               *out = argc > 2 ? argv[2] : "out/09_cat_again.ppm";
    uint32_t engine, job;
    check(ctok_engine_open(NULL, NULL, &engine, &error), "engine");
    check(ctok_model_open(engine, "models/nano/DI8x8.safetensors", NULL, &job, &error), "model");
    const uint32_t model = finish(job, "opening the model").model;
    check(ctok_job_release(job, &error), "release");

    int height, width;
    uint8_t *pixels = read_ppm(in, &height, &width);
    ctok_request encode = {
        .struct_size = sizeof encode,
        .task = CTOK_TASK_ENCODE,
        .input = CTOK_PIXELS_U8,
        .outputs = CTOK_INDICES,
        .height = height,
        .width = width,
    };
    ctok_plan plan = {.struct_size = sizeof plan};
    check(ctok_plan_query(model, &plan, &encode, &error), "plan");
    printf("ctok %s; %s: %dx%d pixels, padded to %dx%d\n", ctok_version(), in, width, height,
           (int)plan.padded_width, (int)plan.padded_height);

    /* submit copies the pixels: they are free again at once */
    check(ctok_job_submit(model, pixels, plan.input_bytes, &encode, &job, &error), "encode");
    free(pixels);
    ctok_job_info info = finish(job, "encoding");
    const int64_t *grid = info.outputs[0].shape; /* [1, h, w] */
    const uint64_t index_bytes = info.outputs[0].bytes;
    int32_t *indices = take(job, &info, 0);
    check(ctok_job_release(job, &error), "release");
    printf("tokens [1, %d, %d]:", (int)grid[1], (int)grid[2]);
    for (int i = 0; i < 8; i++) printf(" %d", (int)indices[i]);
    printf(" ..\n");

    ctok_request decode = {
        .struct_size = sizeof decode,
        .task = CTOK_TASK_DECODE,
        .input = CTOK_INDICES,
        .outputs = CTOK_PIXELS_U8,
        .height = grid[1],
        .width = grid[2],
        .crop_top = plan.pad_top,
        .crop_left = plan.pad_left,
        .crop_height = height,
        .crop_width = width,
    };
    check(ctok_job_submit(model, indices, index_bytes, &decode, &job, &error), "decode");
    info = finish(job, "decoding");
    uint8_t *again = take(job, &info, 0);
    check(ctok_job_release(job, &error), "release");
    write_ppm(out, again, height, width);
    printf("%s: the photo from its tokens\n", out);

    /* an index outside the codebook ends its job with an error that names the position */
    indices[5] = 64000;
    check(ctok_job_submit(model, indices, index_bytes, &decode, &job, &error), "decode");
    const ctok_status status = end_of(job);
    printf("%s, detail %d: %s\n", ctok_status_name(status), (int)error.detail, error.message);
    check(ctok_job_release(job, &error), "release");

    free(again);
    free(indices);
    check(ctok_engine_close(engine, &error), "close"); /* frees the model too */
    return 0;
}

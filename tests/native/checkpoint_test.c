// Tests csrc/checkpoint through its header: archives and safetensors files are written here byte by
// byte, whole and damaged, and opened. A case prints one TAP line; the program exits non-zero when
// one fails. Runs alone, from the repository's root; where ../shared/fixtures lies beside the
// checkout, the archives that PyTorch wrote are opened as well.
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../csrc/checkpoint/output.h"
#include "checkpoint_support.h"

/* ---------------------------------------------------------------- safetensors */
static buffer safetensors_bytes(const char *header, const void *data, size_t data_bytes) {
    buffer b = {0};
    put_integer(&b, strlen(header), 8);
    put_text(&b, header);
    put(&b, data, data_bytes);
    return b;
}

static void test_safetensors_headers(void) {
    static const struct {
        const char *what, *header;
        size_t data_bytes;
        const char *part;
    } cases[] = {
        {"overlap",
         "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\","
         "\"shape\":[4],\"data_offsets\":[2,6]}}",
         6, "a and b overlap"},
        {"hole between",
         "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\","
         "\"shape\":[2],\"data_offsets\":[6,8]}}",
         8, "hole of 2 bytes before tensor b"},
        {"hole before", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}", 8,
         "hole of 4 bytes before tensor a"},
        {"bytes after", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 5,
         "1 bytes after the last tensor"},
        {"offsets out of range", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
         3, "tensor a: data_offsets 0 to 4"},
        {"begin after end", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,0]}}", 4,
         "in order"},
        {"size and shape differ",
         "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "shape and dtype"},
        {"negative size", "{\"a\":{\"dtype\":\"U8\",\"shape\":[-4],\"data_offsets\":[0,4]}}", 4,
         "whole number"},
        {"fraction", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4.0],\"data_offsets\":[0,4]}}", 4,
         ", or ]"},
        {"number past 2^63",
         "{\"a\":{\"dtype\":\"U8\",\"shape\":[9223372036854775808],\"data_offsets\":[0,4]}}", 4,
         "below 2^63"},
        {"product past 2^63",
         "{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296,4294967296],\"data_offsets\":["
         "0,4]}}",
         4, "shape and dtype"},
        {"product past 2^63, then 0",
         "{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296,0],\"data_offsets\":[0,0]}}", 0,
         "shape and dtype"},
        {"rank 7", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,4],\"data_offsets\":[0,4]}}", 4,
         "more than 6"},
        {"F8", "{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4,
         "dtype F8_E4M3 is not supported"},
        {"duplicate tensor",
         "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"a\":{\"dtype\":\"U8\","
         "\"shape\":[2],\"data_offsets\":[2,4]}}",
         4, "two tensors have the name a"},
        {"duplicate tensor, one escaped",
         "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"\\u0061\":{\"dtype\":"
         "\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}}",
         4, "two tensors"},
        {"duplicate key",
         "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4,
         "a second key dtype"},
        {"unknown key", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"offsets\":[0,4]}}", 4,
         "an unknown key offsets"},
        {"missing key", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4]}}", 4,
         "expected dtype, shape and two data_offsets"},
        {"three offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4,4]}}", 4,
         "more than 2"},
        {"deeper nesting", "{\"a\":{\"dtype\":\"U8\",\"shape\":[[4]],\"data_offsets\":[0,4]}}", 4,
         "whole number"},
        {"second __metadata__", "{\"__metadata__\":{},\"__metadata__\":{}}", 0,
         "second __metadata__"},
        {"duplicate metadata", "{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0,
         "two metadata entries have the key k"},
        {"metadata not a string", "{\"__metadata__\":{\"k\":1}}", 0,
         "expected a string, found 1}}"},
        {"trailing text", "{}  x", 0, "expected nothing but space, found x"},
        {"trailing comma", "{\"__metadata__\":{},}", 0, "expected a string"},
        {"no end", "{\"a\":{", 0, "found its end"},
        {"string without end", "{\"abc", 0, "a string that ends"},
        {"unknown escape", "{\"\\q\":{}}", 0, "a known escape"},
        {"half a surrogate pair", "{\"\\ud83d\":{}}", 0, "a known escape"},
        {"NUL in a name", "{\"\\u0000\":{}}", 0, "a known escape"},
        {"not UTF-8", "{\"\xC0\xAF\":{}}", 0, "UTF-8"},
        {"not an object", "[]", 0, "neither"},
    };
    static const uint8_t data[16];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        buffer b = safetensors_bytes(cases[i].header, data, cases[i].data_bytes);
        char what[96];
        snprintf(what, sizeof what, "safetensors: %s", cases[i].what);
        expect_bytes(&b, "a.safetensors", cases[i].part, what);
        release(&b);
    }
    static const struct {
        const char *what;
        uint64_t header_bytes;
        const char *part;
    } lengths[] = {
        {"header past the end", 3, "a safetensors header of 3 bytes"},
        {"header of 2^64 - 1", UINT64_MAX, "a safetensors header of 18446744073709551615"},
        {"header past 32 MiB", (32 << 20) + 1, "at most 33554432"},
        {"header of 0", 0, "found its end"},
    };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        buffer b = {0};
        put_integer(&b, lengths[i].header_bytes, 8);
        put_text(&b, "{}");
        char what[96];
        snprintf(what, sizeof what, "safetensors: %s", lengths[i].what);
        expect_bytes(&b, "a.safetensors", lengths[i].part, what);
        release(&b);
    }
}

static void test_safetensors_good(void) {
    const float data[] = {1, 2, 3};
    buffer b = safetensors_bytes(
        "{ \"__metadata__\" : {\"k\":\"v \\u00e9\\ud83d\\ude00\\n\"},\n "
        "\"z\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[4,12]},"
        "\"a\":{\"data_offsets\":[0,4],\"dtype\":\"F32\",\"shape\":[]},\"e\":{\"dtype\":\"I64\","
        "\"shape\":[0,3],\"data_offsets\":[4,4]}}   ",
        data, sizeof data);
    save("good.safetensors", b.bytes, b.n);
    checkpoint *c =
        expect_open(path_of("good.safetensors"),
                    "safetensors: whitespace, any order, scalar, empty tensor, padding");
    if (c) {
        const checkpoint_tensor *a = checkpoint_find(c, "a"), *z = checkpoint_find(c, "z"),
                                *e = checkpoint_find(c, "e");
        float values[2] = {0};
        report(c->num_tensors == 3 && strcmp(c->tensors[0].name, "a") == 0 &&
                   strcmp(c->tensors[2].name, "z") == 0,
               "tensors are sorted");
        report(a && a->rank == 0 && checkpoint_read_f32(a, values) == 0 && values[0] == 1,
               "a scalar is read");
        report(z && z->stride[0] == 2 && z->stride[1] == 1 && checkpoint_read_f32(z, values) == 0 &&
                   values[1] == 3,
               "a row is read");
        report(e && checkpoint_elements(e) == 0 && !checkpoint_find(c, "b"),
               "an empty tensor is found, an absent one is not");
        const char *value = checkpoint_metadata_find(c, "k");
        report(value && strcmp(value, "v \xC3\xA9\xF0\x9F\x98\x80\n") == 0 &&
                   !checkpoint_metadata_find(c, "x"),
               "metadata escapes");
        report(z && checkpoint_read_f32(z, values) == 0 && values[0] == 2,
               "a tensor is read again");
    }
    checkpoint_close(c);
    expect_robust(&b, "cut.safetensors", "safetensors");
    release(&b);
    clear_folder();
}

/* ---------------------------------------------------------------- archives */
static void pickle_begin(buffer *b) { put_text(b, "c__torch__.a.b\nModule\n)\x81}("); }
static void pickle_end(buffer *b) { put_text(b, "ub"); }

// Every opcode of the subset, beside the tensors layer.weight [2, 3] and layer.bias [2], which
// shares a view of its storage.
static buffer plain_pickle(void) {
    buffer b = {0};
    put(&b, "\x80\x02", 2);
    pickle_begin(&b);
    pickle_string(&b, "training");
    put_text(&b, "q\x01\x88");
    pickle_string(&b, "none");
    put(&b, "r\x02\x00\x00\x00N", 6);
    pickle_string(&b, "number");
    put(&b, "G\x40\x09\x21\xfb\x54\x44\x2d\x18", 9);
    pickle_string(&b, "ints");
    put_text(&b,
             "ctorch.jit._pickle\nbuild_intlist\n(](J\xff\xff\xff\xffK\x01M\x01\x02"
             "etR");
    pickle_string(&b, "tagged");
    put_text(&b, "ctorch.jit._pickle\nrestore_type_tag\n]Na");
    pickle_string(&b, "List[int]");
    put_text(&b, "\x86R");
    pickle_string(&b, "tuples");
    put_text(&b, "N\x85NN\x86NNN\x87\x87");
    pickle_string(&b, "dict");
    put_text(&b, "}NNs");
    pickle_string(&b, "device");
    put_text(&b, "ctorch\ndevice\n");
    pickle_string(&b, "cpu");
    put_text(&b, "\x85R");
    pickle_string(&b, "layer");
    pickle_begin(&b);
    put_text(&b, "h\x01\x89");
    put(&b, "j\x02\x00\x00\x00N", 6);
    pickle_string(&b, "weight");
    pickle_tensor(&b, "FloatStorage", "0", 6, 0, 2, shape_23, stride_31);
    pickle_string(&b, "bias");
    pickle_tensor(&b, "FloatStorage", "0", 6, 4, 1, shape_2, stride_1);
    pickle_end(&b);
    pickle_end(&b);
    put_text(&b, ".");
    return b;
}

// An archive of `pickle` and one storage, six floats unless said otherwise.
static buffer jit_bytes(const buffer *pickle, int form) {
    const record records[] = {
        {"root/data.pkl", pickle->bytes, pickle->n, 0, 3},
        {"root/data/0", six, sizeof six, 0, 13},
        {"root/byteorder", "little", 6, 0, 0},
        {"root/code/a.py", "\x03\x00", 2, 8, 0},
        {"root/constants.pkl", "\x03\x00", 2, 8, 0},
        {"root/extra/data.pkl", "x", 1, 0, 0},
    };
    return zip_bytes(records, sizeof records / sizeof *records, form);
}

// One attribute "w" whose pickle is given; "%" in `part` is no format.
static void expect_attribute(const buffer *attribute, const char *part, const char *what) {
    buffer pickle = {0};
    put(&pickle, "\x80\x02", 2);
    pickle_begin(&pickle);
    pickle_string(&pickle, "w");
    put(&pickle, attribute->bytes, attribute->n);
    pickle_end(&pickle);
    put_text(&pickle, ".");
    buffer jit = jit_bytes(&pickle, ZIP_PLAIN);
    expect_bytes(&jit, "bad.jit", part, what);
    release(&jit);
    release(&pickle);
}

static void expect_opcodes(const char *opcodes, size_t n, const char *part, const char *what) {
    buffer b = {0};
    put(&b, opcodes, n);
    expect_attribute(&b, part, what);
    release(&b);
}
#define EXPECT_OPCODES(literal, part, what) expect_opcodes(literal, sizeof literal - 1, part, what)

static void test_archives(void) {
    buffer pickle = plain_pickle();
    static const char *const names[] = {"plain", "zip64", "comment", "zip64 and comment"};
    for (int form = 0; form < 4; form++) {
        buffer jit = jit_bytes(&pickle, form);
        save("good.jit", jit.bytes, jit.n);
        char what[96];
        snprintf(what, sizeof what, "TorchScript: %s", names[form]);
        checkpoint *c = expect_open(path_of("good.jit"), what);
        const checkpoint_tensor *weight = c ? checkpoint_find(c, "layer.weight") : NULL,
                                *bias = c ? checkpoint_find(c, "layer.bias") : NULL;
        float w[6] = {0}, v[2] = {0};
        if (weight && bias) checkpoint_read_f32(weight, w), checkpoint_read_f32(bias, v);
        report(
            c && c->num_tensors == 2 && memcmp(w, six, sizeof six) == 0 && v[0] == 4 && v[1] == 5,
            "its two tensors share one storage");
        checkpoint_close(c);
        snprintf(what, sizeof what, "TorchScript (%s)", names[form]);
        if (form < 2) expect_robust(&jit, "cut.jit", what);
        release(&jit);
    }
    clear_folder();

    static const struct {
        const char *what;
        record records[4];
        size_t count;
        const char *part;
    } cases[] = {
        {"deflated data.pkl",
         {{"root/data.pkl", NULL, 0, 8, 0}},
         1,
         "record root/data.pkl is deflated"},
        {"deflated data/0",
         {{"root/data.pkl", NULL, 0, 0, 0}, {"root/data/0", six, 24, 8, 0}},
         2,
         "record root/data/0 is deflated"},
        {"missing data/0",
         {{"root/data.pkl", NULL, 0, 0, 0}, {"root/data/1", six, 24, 0, 0}},
         2,
         "no record root/data/0"},
        {"short data/0",
         {{"root/data.pkl", NULL, 0, 0, 0}, {"root/data/0", six, 20, 0, 0}},
         2,
         "has 20 bytes, expected 6 elements of 4"},
        {"duplicate record",
         {{"root/data.pkl", NULL, 0, 0, 0},
          {"root/data/0", six, 24, 0, 0},
          {"root/data/0", six, 24, 0, 0}},
         3,
         "two zip entries have the name root/data/0"},
        {"two roots",
         {{"root/data.pkl", NULL, 0, 0, 0}, {"other/data.pkl", NULL, 0, 0, 0}},
         2,
         "2 records named <root>/data.pkl"},
        {"no data.pkl", {{"root/data/0", six, 24, 0, 0}}, 1, "0 records named <root>/data.pkl"},
        {"big-endian",
         {{"root/data.pkl", NULL, 0, 0, 0},
          {"root/data/0", six, 24, 0, 0},
          {"root/byteorder", "big", 3, 0, 0}},
         3,
         "byteorder says big"},
        {"an empty data.pkl",
         {{"root/data.pkl", "", 0, 0, 0}},
         1,
         "expected a pickle of protocol 2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        record records[4];
        memcpy(records, cases[i].records, sizeof records);
        for (size_t k = 0; k < cases[i].count; k++)
            if (!records[k].bytes) records[k].bytes = pickle.bytes, records[k].n = pickle.n;
        buffer jit = zip_bytes(records, cases[i].count, ZIP_PLAIN);
        char what[96];
        snprintf(what, sizeof what, "TorchScript: %s", cases[i].what);
        expect_bytes(&jit, "bad.jit", cases[i].part, what);
        release(&jit);
    }
    release(&pickle);
}

static void test_pickles(void) {
    EXPECT_OPCODES("\x8c\x01x", "opcode 0x8c is not one", "pickle: an opcode outside the subset");
    EXPECT_OPCODES("cos\nsystem\n", "the name os system", "pickle: a name outside the subset");
    EXPECT_OPCODES("c__torch__x\nA\n", "the name __torch__x A",
                   "pickle: a name that only begins like __torch__");
    EXPECT_OPCODES("ctorch\nQInt8Storage\n", "the name torch QInt8Storage",
                   "pickle: an unknown storage type");
    EXPECT_OPCODES("ctorch\nFloatStorage\n)\x81", "expected a __torch__ class",
                   "pickle: an object of no module's class");
    EXPECT_OPCODES("c__torch__\nA\n)R", "cannot be called", "pickle: a class is called");
    EXPECT_OPCODES("h\x09", "memo entry 9 is read before", "pickle: an unset memo entry");
    EXPECT_OPCODES("Nr\xff\xff\xff\xff", "memo entry 4294967295",
                   "pickle: a memo entry of 2^32 - 1");
    EXPECT_OPCODES(
        "X\xff\xff\xff\xff"
        "a",
        "needs 4294967295 more bytes", "pickle: a string past the end");
    EXPECT_OPCODES(
        "\x8a\x09"
        "123456789",
        "an int of 9 bytes", "pickle: an int of 9 bytes");
    EXPECT_OPCODES("ttttttt", "needs a mark", "pickle: a tuple without a mark");
    EXPECT_OPCODES("\x87\x87\x87\x87", "expected 3 values on the stack",
                   "pickle: a tuple that takes a mark");
    EXPECT_OPCODES("NNa", "expected a list to fill, found None", "pickle: append to None");
    EXPECT_OPCODES("}(N", "a dict entry has a key without a value",
                   "pickle: an odd number of dict values");
    EXPECT_OPCODES("\x80\x04", "pickle protocol 4", "pickle: another protocol");
    EXPECT_OPCODES(".", "STOP with", "pickle: STOP too early");
    EXPECT_OPCODES("(NtQ", "expected (\"storage\"", "pickle: another persistent id");

    static const struct {
        const char *what, *type;
        int64_t num_stored, offset;
        int rank;
        int64_t shape[7], stride[7];
        const char *part;
    } cases[] = {
        {"rank 7",
         "FloatStorage",
         6,
         0,
         7,
         {1, 1, 1, 1, 1, 1, 1},
         {1, 1, 1, 1, 1, 1, 1},
         "7 sizes"},
        {"negative stride", "FloatStorage", 6, 0, 1, {2}, {-1}, "tensor w: a negative stride (-1)"},
        {"negative size", "FloatStorage", 6, 0, 1, {-2}, {1}, "tensor w: a negative size (-2)"},
        {"negative offset", "FloatStorage", 6, -1, 1, {2}, {1}, "offset -1"},
        {"offset past the end",
         "FloatStorage",
         6,
         5,
         1,
         {2},
         {1},
         "offset 5 and strides reach past"},
        {"empty, offset past the end", "FloatStorage", 6, 7, 1, {0}, {1}, "offset 7"},
        {"strides past the end",
         "FloatStorage",
         6,
         0,
         2,
         {2, 3},
         {4, 1},
         "reach past its storage of 6"},
        {"strides past 2^63",
         "FloatStorage",
         6,
         0,
         2,
         {3, 3},
         {INT64_MAX, INT64_MAX},
         "reach past"},
        {"shape past 2^63",
         "FloatStorage",
         6,
         0,
         3,
         {1ll << 32, 1ll << 32, 2},
         {0, 0, 0},
         "more elements"},
        {"a value repeated 2^40 times", "FloatStorage", 6, 0, 1, {1ll << 40}, {0}, "more elements"},
        {"another element count",
         "FloatStorage",
         5,
         0,
         1,
         {2},
         {1},
         "expected 5 elements of 4 bytes"},
        {"another type", "DoubleStorage", 6, 0, 1, {2}, {1}, "expected 6 elements of 8 bytes"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        buffer b = {0};
        pickle_tensor(&b, cases[i].type, "0", cases[i].num_stored, cases[i].offset, cases[i].rank,
                      cases[i].shape, cases[i].stride);
        char what[96];
        snprintf(what, sizeof what, "tensor: %s", cases[i].what);
        expect_attribute(&b, cases[i].part, what);
        release(&b);
    }

    buffer bomb = {0};
    put(&bomb, "\x80\x02)\x85.", 5);
    buffer jit = jit_bytes(&bomb, ZIP_PLAIN);
    expect_bytes(&jit, "bomb.jit", "data.pkl holds a tuple", "pickle: a tuple at the top");
    release(&jit);
    release(&bomb);

    // 60 modules, each in the one before; each finished one is there twice.
    put(&bomb, "\x80\x02", 2);
    for (int i = 0; i < 60; i++)
        put_text(&bomb, "c__torch__\nA\n)\x81}("), pickle_string(&bomb, "a");
    pickle_tensor(&bomb, "FloatStorage", "0", 6, 0, 1, shape_2, stride_1);
    for (int i = 0; i < 60; i++) {
        put_text(&bomb, "ubq");
        put_integer(&bomb, (uint64_t)i, 1);
        if (i == 59) break;
        pickle_string(&bomb, "b");
        put_text(&bomb, "h");
        put_integer(&bomb, (uint64_t)i, 1);
    }
    put_text(&bomb, ".");
    jit = jit_bytes(&bomb, ZIP_PLAIN);
    expect_bytes(&jit, "bomb.jit", "share each other so often",
                 "pickle: 2^59 paths to one tensor end soon");
    release(&jit);
    release(&bomb);

    put_text(&bomb, "c__torch__\nA\n)\x81q\x05}");
    pickle_string(&bomb, "self");
    put_text(&bomb, "h\x05sb");
    expect_attribute(&bomb, "nest deeper than 64", "pickle: a module that holds itself");
    release(&bomb);
    pickle_begin(&bomb);
    for (int i = 0; i < 2; i++) {
        pickle_string(&bomb, "x");
        pickle_tensor(&bomb, "FloatStorage", "0", 6, 0, 1, shape_2, stride_1);
    }
    pickle_end(&bomb);
    expect_attribute(&bomb, "two tensors have the name w.x", "pickle: one attribute twice");
    release(&bomb);
    pickle_begin(&bomb);
    pickle_string(&bomb, "\xff\xfe");
    put_text(&bomb, "N");
    pickle_end(&bomb);
    expect_attribute(&bomb, "a string of UTF-8", "pickle: a name that is not UTF-8");
    release(&bomb);
}

/* ---------------------------------------------------------------- values */
static checkpoint_tensor tensor_of(const char *name, ctok_dtype dtype, int32_t rank,
                                   const int64_t *shape, const int64_t *stride, const void *data) {
    checkpoint_tensor t = {.name = name, .dtype = dtype, .rank = rank, .data = data};
    memcpy(t.shape, shape, (size_t)rank * sizeof *shape);
    memcpy(t.stride, stride, (size_t)rank * sizeof *stride);
    return t;
}

static void test_conversions(void) {
    static uint16_t halves[65536];
    static float got[65536];
    const int64_t shape[] = {65536}, stride[] = {1};
    for (int i = 0; i < 65536; i++) halves[i] = (uint16_t)i;
    checkpoint_tensor t = tensor_of("t", CTOK_F16, 1, shape, stride, halves);
    int64_t num_nonfinite = checkpoint_read_f32(&t, got);
    int num_wrong = 0;
    for (int i = 0; i < 65536; i++) {
        int exponent = i >> 10 & 31, mantissa = i & 1023;
        double want = exponent == 31 ? (mantissa ? (double)NAN : (double)INFINITY)
                      : exponent     ? ldexp(1024 + mantissa, exponent - 25)
                                     : ldexp(mantissa, -24);
        if (i & 0x8000) want = -want;
        num_wrong += isnan(want) ? !isnan(got[i])
                                 : !((double)got[i] == want && !signbit(got[i]) == !signbit(want));
    }
    report(num_wrong == 0 && num_nonfinite == 2048,
           "F16: all 65536 values (%d wrong, %d not finite)", num_wrong, (int)num_nonfinite);
    t.dtype = CTOK_BF16;
    num_nonfinite = checkpoint_read_f32(&t, got);
    num_wrong = 0;
    for (uint32_t i = 0; i < 65536; i++) {
        uint32_t bits;
        memcpy(&bits, &got[i], 4);
        num_wrong += bits != i << 16;
    }
    report(num_wrong == 0 && num_nonfinite == 256,
           "BF16: all 65536 values (%d wrong, %d not finite)", num_wrong, (int)num_nonfinite);

    const double doubles[] = {1 + 0x1p-24,       1 + 0x1p-24 + 0x1p-50,
                              1 + 0x3p-24,       1e300,
                              (double)-INFINITY, 0x1p-149,
                              0x1p-150,          0.1};
    const float wanted[] = {1, 1 + 0x1p-23f, 1 + 0x1p-22f, INFINITY, -INFINITY, 0x1p-149f, 0, 0.1f};
    const int64_t shape_8[] = {8};
    t = tensor_of("t", CTOK_F64, 1, shape_8, stride, doubles);
    num_nonfinite = checkpoint_read_f32(&t, got);
    report(num_nonfinite == 2 && memcmp(got, wanted, sizeof wanted) == 0,
           "F64: ties to even, overflow, subnormals");

    static const uint8_t bytes[8] = {0xFF, 0xFE, 0xFD, 0xFC, 0xFB, 0xFA, 0xF9, 0x80};
    static const struct {
        ctok_dtype dtype;
        int64_t first;
    } integers[] = {{CTOK_U8, 0xFF},
                    {CTOK_I8, -1},
                    {CTOK_BOOL, 1},
                    {CTOK_U16, 0xFEFF},
                    {CTOK_I16, -257},
                    {CTOK_I32, -50462977},
                    {CTOK_I64, (int64_t)0x80F9FAFBFCFDFEFFull}};
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        int64_t value;
        t = tensor_of("t", integers[i].dtype, 0, shape_8, stride, bytes);
        checkpoint_read_i64(&t, &value);
        report(value == integers[i].first, "integers of dtype %d: %lld, expected %lld",
               integers[i].dtype, (long long)value, (long long)integers[i].first);
    }
}

static void test_strides(void) {
    float data[64];
    for (int i = 0; i < 64; i++) data[i] = (float)i;
    static const struct {
        const char *what;
        int32_t rank;
        int64_t shape[6], stride[6];
    } cases[] = {
        {"contiguous", 3, {2, 3, 4}, {12, 4, 1}},
        {"channels last", 4, {2, 3, 2, 2}, {12, 1, 6, 3}},
        {"transposed", 2, {4, 5}, {1, 4}},
        {"every second", 1, {20}, {2}},
        {"stride 0", 3, {3, 2, 2}, {0, 5, 1}},
        {"outer stride 0", 2, {2, 4}, {0, 1}},
        {"any stride on size 1", 4, {1, 3, 1, 4}, {INT64_MAX, 4, INT64_MAX, 1}},
        {"rank 6", 6, {2, 2, 2, 2, 2, 2}, {1, 2, 4, 8, 16, 32}},
        {"empty", 3, {2, 0, 3}, {1, 1, 1}},
        {"scalar", 0, {0}, {0}},
        {"overlapping windows", 2, {5, 3}, {1, 1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        checkpoint_tensor t =
            tensor_of("t", CTOK_F32, cases[i].rank, cases[i].shape, cases[i].stride, data);
        float got[64];
        int64_t n = checkpoint_elements(&t);
        bool is_ok = checkpoint_read_f32(&t, got) == 0;
        for (int64_t k = 0; k < n; k++) {
            int64_t rest = k, at = 0;
            for (int32_t axis = t.rank - 1; axis >= 0; axis--) {
                if (t.shape[axis] > 1) at += rest % t.shape[axis] * t.stride[axis];
                rest /= t.shape[axis];
            }
            is_ok &= got[k] == data[at];
        }
        report(is_ok, "strides: %s", cases[i].what);
    }
}

/* ---------------------------------------------------------------- writing */
static void test_writing(void) {
    const float floats[] = {1, 2, 3, 4, 5, 6};
    const uint16_t halves[] = {0x3C00, 0x4000};
    const int64_t shape_32[] = {3, 2}, stride_13[] = {1, 3}, shape_0[] = {0}, longs[] = {-5};
    const checkpoint_tensor tensors[] = {
        tensor_of("z \"quoted\"\\\n\xC3\xA9", CTOK_F32, 2, shape_32, stride_13, floats),
        tensor_of("m", CTOK_BF16, 1, shape_2, stride_1, halves),
        tensor_of("a", CTOK_I64, 0, shape_2, stride_1, longs),
        tensor_of("empty", CTOK_F16, 1, shape_0, stride_1, halves)};
    const checkpoint_metadata metadata[] = {
        {"ctok.levels", "8,8,8,5,5,5"}, {"b", "\t\"\x01"}, {"n", "a\xff\xc3\xa9\xc3"}};
    ctok_error error = {0};
    ctok_status status =
        safetensors_write(path_of("out.safetensors"), tensors, 4, metadata, 3, NULL, &error);
    report(status == CTOK_OK && count_files() == 1, "writing: one file and no other %s",
           error.message);
    checkpoint *c = expect_open(path_of("out.safetensors"), "writing: the file opens again");
    if (c) {
        const checkpoint_tensor *z = checkpoint_find(c, tensors[0].name),
                                *a = checkpoint_find(c, "a"), *m = checkpoint_find(c, "m");
        float got[6] = {0};
        int64_t value = 0;
        const float transposed[] = {1, 4, 2, 5, 3, 6};
        if (z) checkpoint_read_f32(z, got);
        report(z && z->stride[0] == 2 && memcmp(got, transposed, sizeof transposed) == 0,
               "writing: a strided tensor becomes contiguous");
        if (a) checkpoint_read_i64(a, &value);
        report(
            a && a->dtype == CTOK_I64 && a->rank == 0 && value == -5 && m && m->dtype == CTOK_BF16,
            "writing: dtypes are kept");
        const char *levels = checkpoint_metadata_find(c, "ctok.levels"),
                   *b = checkpoint_metadata_find(c, "b");
        report(levels && strcmp(levels, "8,8,8,5,5,5") == 0 && b && strcmp(b, "\t\"\x01") == 0,
               "writing: metadata comes back");
        const char *name = checkpoint_metadata_find(c, "n");
        report(name && strcmp(name, "a?\xc3\xa9?") == 0,
               "writing: what is no UTF-8 is written as what can be read");
        report((a ? a->data - c->maps[0].bytes : 1) % 8 == 0,
               "writing: data begins at a multiple of 8");
    }
    checkpoint_close(c);
    report(safetensors_write(path_of("none.safetensors"), NULL, 0, metadata, 1, NULL, &error) ==
               CTOK_OK,
           "writing: metadata alone");
    checkpoint_close(
        expect_open(path_of("none.safetensors"), "writing: metadata alone opens again"));
    remove(path_of("none.safetensors"));

    static float large[4096];
    const int64_t shape_4096[] = {4096};
    const checkpoint_tensor big = tensor_of("big", CTOK_F32, 1, shape_4096, stride_1, large);
    struct rlimit before, small;
    getrlimit(RLIMIT_FSIZE, &before);
    small = (struct rlimit){4096, before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    fflush(stdout);
    setrlimit(RLIMIT_FSIZE, &small);
    status = safetensors_write(path_of("out.safetensors"), &big, 1, NULL, 0, NULL, &error);
    ctok_status fresh = safetensors_write(path_of("new.safetensors"), &big, 1, NULL, 0, NULL, NULL);
    setrlimit(RLIMIT_FSIZE, &before);
    report(status == CTOK_E_FILE_IO && error.detail == EFBIG && fresh == CTOK_E_FILE_IO &&
               count_files() == 1,
           "writing: a full disk leaves nothing behind");
    checkpoint_close(
        expect_open(path_of("out.safetensors"), "writing: a full disk leaves the old file whole"));
    status =
        safetensors_write(path_of("no/such/folder.safetensors"), &big, 1, NULL, 0, NULL, &error);
    report(status == CTOK_E_FILE_IO && error.detail == ENOENT, "writing: into no folder");
    mkdir(path_of("taken"), 0777);
    status = safetensors_write(path_of("taken"), &big, 1, NULL, 0, NULL, &error);
    report(status == CTOK_E_FILE_IO && count_files() == 2,
           "writing: over a folder leaves nothing beside it");
    rmdir(path_of("taken"));
    for (int i = 0; i < 2; i++) {
        pid_t child = fork();
        if (child == 0) {  // dies in the middle of a file
            signal(SIGXFSZ, SIG_DFL);
            setrlimit(RLIMIT_FSIZE, &small);
            safetensors_write(path_of("out.safetensors"), &big, 1, NULL, 0, NULL, NULL);
            _exit(0);
        }
        int ended = 0;
        waitpid(child, &ended, 0);
        report(WIFSIGNALED(ended) && count_files() == 2,
               "writing: a process killed midway leaves a file of another name, and takes over "
               "that of an earlier one");
    }
    checkpoint_close(expect_open(path_of("out.safetensors"), "writing: and the old file whole"));
    status = safetensors_write(path_of("out.safetensors"), &big, 1, NULL, 0, NULL, &error);
    report(status == CTOK_OK && count_files() == 1,
           "writing: the next writer of that file removes what they left");
    clear_folder();
}

// What stands at the name before.
static void test_targets(void) {
    const float value = 1;
    const checkpoint_tensor one = tensor_of("one", CTOK_F32, 0, shape_2, stride_1, &value);
    ctok_error error = {.struct_size = sizeof error};
    struct stat info;
    if (mkfifo(path_of("pipe"), 0666) != 0) stop("pipe");
    ctok_status status = safetensors_write(path_of("pipe"), &one, 1, NULL, 0, NULL, &error);
    report(status == CTOK_E_FILE_IO &&
               strstr(error.message,
                      "expected a regular file or nothing there yet, found a device or pipe") &&
               lstat(path_of("pipe"), &info) == 0 && S_ISFIFO(info.st_mode) && count_files() == 1,
           "target: a pipe stays");
    if (symlink("/dev/null", path_of("null")) != 0) stop("null");
    status = safetensors_write(path_of("null"), &one, 1, NULL, 0, NULL, &error);
    report(status == CTOK_E_FILE_IO && strstr(error.message, "a device or pipe") &&
               lstat(path_of("null"), &info) == 0 && S_ISLNK(info.st_mode),
           "target: a link to a device stays, and the device is not replaced");
    clear_folder();

    save("file", "older", 5);
    if (mkdir(path_of("sub"), 0777) != 0 || symlink("../file", path_of("sub/first")) != 0 ||
        symlink("sub/first", path_of("second")) != 0)
        stop("second");
    status = safetensors_write(path_of("second"), &one, 1, NULL, 0, NULL, &error);
    report(status == CTOK_OK && lstat(path_of("second"), &info) == 0 && S_ISLNK(info.st_mode) &&
               lstat(path_of("sub/first"), &info) == 0 && S_ISLNK(info.st_mode),
           "target: links stay links");
    checkpoint_close(
        expect_open(path_of("file"), "target: and the file that they lead to is written"));
    remove(path_of("file"));
    status = safetensors_write(path_of("second"), &one, 1, NULL, 0, NULL, &error);
    checkpoint_close(expect_open(path_of("file"), "target: a link to nothing leads to a new file"));
    report(status == CTOK_OK && count_files() == 3, "target: and nothing else is left");
    remove(path_of("sub/first"));
    if (symlink("../second", path_of("sub/first")) != 0) stop("sub/first");
    status = safetensors_write(path_of("second"), &one, 1, NULL, 0, NULL, &error);
    report(status == CTOK_E_FILE_IO && error.detail == ELOOP,
           "target: a loop of links is an error");
    remove(path_of("sub/first"));
    clear_folder();
}

// Writers that meet: see output.c.
static void test_meeting(void) {
    ctok_error error = {.struct_size = sizeof error};
    output_file a = {0}, b = {0}, c = {0};
    char target[600];
    snprintf(target, sizeof target, "%s", path_of("out"));
    report(output_open(&a, target, &error) == CTOK_OK &&
               output_write(&a, "first", 5, &error) == CTOK_OK &&
               output_open(&b, target, &error) == CTOK_OK &&
               output_write(&b, "second", 6, &error) == CTOK_OK,
           "meeting: two writers of one target");
    report(output_publish(&b, &error) == CTOK_OK && count_files() == 2,
           "meeting: one ends, and the other's file is not taken for abandoned");
    output_close(&b);
    report(output_open(&c, target, &error) == CTOK_OK && strcmp(c.temporary, a.temporary) != 0,
           "meeting: nor is its name taken anew");
    report(output_publish(&a, &error) == CTOK_OK, "meeting: it ends later");
    output_close(&a);
    output_close(&c);
    FILE *file = fopen(path_of("out"), "rb");
    char found[8] = "";
    report(
        file && fread(found, 1, 7, file) == 5 && strcmp(found, "first") == 0 && count_files() == 1,
        "meeting: the target is all its own, and nothing else is left");
    if (file) fclose(file);

    if (output_open(&a, target, &error) != CTOK_OK ||
        output_write(&a, "third", 5, &error) != CTOK_OK)
        stop(target);
    save("victim", "precious", 8);
    unlink(a.temporary);
    if (symlink("victim", a.temporary) != 0) stop(a.temporary);
    ctok_status status = output_publish(&a, &error);
    report(status == CTOK_E_FILE_IO && strstr(error.message, "somebody has removed or replaced it"),
           "meeting: a temporary file that is another one by now is not published");
    struct stat info;
    report(lstat(path_of("out"), &info) == 0 && S_ISREG(info.st_mode) && info.st_size == 5,
           "meeting: and the target is untouched");
    output_close(&a);
    clear_folder();

    if (output_open(&a, target, &error) != CTOK_OK) stop(target);
    int name_bytes = (int)(strrchr(a.temporary, '-') - a.temporary);
    char name[600];
    for (int i = 100; i >= 0; i--) {  // as a hundred and one killed writers leave them
        snprintf(name, sizeof name, "%.*s-%d.tmp", name_bytes, a.temporary, i);
        if (i == 0) output_close(&a);
        FILE *left = fopen(name, "wb");
        if (!left || fclose(left) != 0) stop(name);
    }
    status = output_open(&a, target, &error);
    report(status == CTOK_OK && output_publish(&a, &error) == CTOK_OK,
           "meeting: 101 leftovers do not close a target");
    output_close(&a);
    report(count_files() == 2, "meeting: and go, but for the one whose number no writer takes");
    clear_folder();
}

// A hundred rounds of three writers, of which some are killed: the target is always one whole file,
// of one who said so.
static void test_storm(void) {
    enum { ROUNDS = 100, WRITERS = 3, BYTES = 100000 };
    static uint8_t content[BYTES];
    int num_torn = 0, num_false = 0;
    for (int round = 0; round < ROUNDS; round++) {
        pid_t children[WRITERS];
        fflush(stdout);
        for (int i = 0; i < WRITERS; i++) {
            children[i] = fork();
            if (children[i] != 0) continue;
            output_file out;
            memset(content, 1 + i, BYTES);
            if (output_open(&out, path_of("out"), NULL) != CTOK_OK) _exit(1);
            for (int at = 0; at < BYTES; at += 1000) {
                if (output_write(&out, content + at, 1000, NULL) != CTOK_OK) _exit(1);
                if (round % WRITERS == i && at == 1000 * (round % 90)) raise(SIGKILL);
            }
            _exit(output_publish(&out, NULL) == CTOK_OK ? 0 : 1);
        }
        bool has_published[WRITERS];
        for (int i = 0; i < WRITERS; i++) {
            int ended = 0;
            waitpid(children[i], &ended, 0);
            has_published[i] = WIFEXITED(ended) && WEXITSTATUS(ended) == 0;
        }
        FILE *file = fopen(path_of("out"), "rb");
        size_t n = file ? fread(content, 1, BYTES, file) : 0;
        if (file) fclose(file);
        bool is_whole = n == BYTES;
        for (size_t i = 1; i < n; i++) is_whole &= content[i] == content[0];
        num_torn += !is_whole;
        num_false += n > 0 && !has_published[content[0] - 1];
        for (int i = 0; i < WRITERS; i++) num_false += !has_published[i] && round % WRITERS != i;
    }
    report(num_torn == 0 && num_false == 0,
           "storm: %d rounds of %d writers, one killed in each: %d torn, %d not as reported",
           ROUNDS, WRITERS, num_torn, num_false);
    report(count_files() <= 2, "storm: at most the last one's leftover stays");
    clear_folder();
}

/* ---------------------------------------------------------------- paths */
static void write_one(const char *file, const char *name, float value, const char *metadata_value) {
    const checkpoint_tensor tensors[] = {tensor_of(name, CTOK_F32, 0, shape_2, stride_1, &value),
                                         tensor_of("both", CTOK_F32, 1, shape_2, stride_1, six)};
    const checkpoint_metadata metadata = {"key", metadata_value};
    if (safetensors_write(path_of(file), tensors, 2, &metadata, 1, NULL, NULL) != CTOK_OK)
        stop(file);
}

static void write_two(const char *file, const char *a, const char *b, float value) {
    const checkpoint_tensor tensors[] = {tensor_of(a, CTOK_F32, 0, shape_2, stride_1, &value),
                                         tensor_of(b, CTOK_F32, 0, shape_2, stride_1, &value)};
    if (safetensors_write(path_of(file), tensors, 2, NULL, 0, NULL, NULL) != CTOK_OK) stop(file);
}

// A module whose one attribute `half` holds one tensor, HALF.weight.
static buffer module_bytes(const char *half) {
    buffer pickle = {0};
    put(&pickle, "\x80\x02", 2);
    pickle_begin(&pickle);
    pickle_string(&pickle, half);
    pickle_begin(&pickle);
    pickle_string(&pickle, "weight");
    pickle_tensor(&pickle, "FloatStorage", "0", 6, 0, 2, shape_23, stride_31);
    pickle_end(&pickle);
    pickle_end(&pickle);
    put_text(&pickle, ".");
    buffer jit = jit_bytes(&pickle, ZIP_PLAIN);
    release(&pickle);
    return jit;
}

// As torch.jit.freeze leaves it: a module with a flag, and the parameters as constants of the code.
static buffer frozen_bytes(void) {
    buffer pickle = {0};
    put(&pickle, "\x80\x02", 2);
    pickle_begin(&pickle);
    pickle_string(&pickle, "training");
    put_text(&pickle, "\x89");
    pickle_end(&pickle);
    put_text(&pickle, ".");
    const record records[] = {{"root/data.pkl", pickle.bytes, pickle.n, 0, 0},
                              {"root/constants/0", six, sizeof six, 0, 0},
                              {"root/constants/1", six, sizeof six, 0, 0},
                              {"root/constants.pkl", "\x80\x02N.", 4, 0, 0}};
    buffer jit = zip_bytes(records, sizeof records / sizeof *records, ZIP_PLAIN);
    release(&pickle);
    return jit;
}

static void test_paths(void) {
    expect_failure(path_of("absent.jit"), CTOK_E_FILE_MISSING,
                   "absent.jit: cannot be opened: No such file", "path: no such file");
    expect_failure("/dev/null", CTOK_E_FILE_FORMAT, "expected a file or a folder",
                   "path: a device");
    expect_failure(folder, CTOK_E_FILE_MISSING, "looked for encoder.jit, decoder.jit",
                   "path: an empty folder says what it looked for");
    save("empty.jit", "", 0);
    expect_failure(path_of("empty.jit"), CTOK_E_FILE_FORMAT, "the file is empty",
                   "path: an empty file");
    save("readme.md", "version https://git-lfs.github.com/spec/v1\n", 43);
    expect_failure(path_of("readme.md"), CTOK_E_FILE_FORMAT, "git lfs pull",
                   "path: a git-lfs pointer");
    expect_failure(folder, CTOK_E_FILE_MISSING, "holds 2 files: empty.jit, readme.md",
                   "path: a folder without a checkpoint says what it holds");
    save("text.jit", "hello, world", 12);
    expect_failure(path_of("text.jit"), CTOK_E_FILE_FORMAT,
                   "neither an archive of PyTorch nor safetensors: begins with 68 65",
                   "path: some text");
    ctok_status status = checkpoint_open(&(checkpoint *){NULL}, path_of("text.jit"), NULL, NULL);
    report(status == CTOK_E_FILE_FORMAT, "path: the error may be NULL");
    clear_folder();

    write_one("other.safetensors", "o", 1, "other");
    checkpoint *c = expect_open(folder, "folder: one .safetensors of any name");
    report(c && checkpoint_find(c, "o"), "folder: it is that one");
    checkpoint_close(c);
    write_one("another.safetensors", "o", 1, "other");
    expect_failure(folder, CTOK_E_FILE_MISSING, "(there are 2)",
                   "folder: two .safetensors of any name");
    write_one("autoencoder.safetensors", "auto", 1, "auto");
    c = expect_open(folder, "folder: autoencoder.safetensors goes before others");
    report(c && checkpoint_find(c, "auto"), "folder: it is that one");
    checkpoint_close(c);
    write_one("encoder.safetensors", "encoder.e", 2, "first");
    write_one("decoder.safetensors", "decoder.d", 3, "second");
    c = expect_open(folder, "folder: encoder and decoder go before autoencoder");
    report(c && c->num_tensors == 3 && checkpoint_find(c, "encoder.e") &&
               checkpoint_find(c, "decoder.d") && checkpoint_find(c, "both"),
           "folder: equal tensors of both become one");
    report(c && c->num_metadata == 1 && strcmp(checkpoint_metadata_find(c, "key"), "first") == 0,
           "folder: the first file's metadata stays");
    checkpoint_close(c);
    write_one("decoder.safetensors", "encoder.e", 3, "second");
    expect_failure(
        folder, CTOK_E_FILE_NETWORK,
        "decoder.safetensors: expected tensors named decoder.*, found 2 others, such as both",
        "folder: a decoder that holds none");
    write_one("decoder.safetensors", "decoder.d", 3, "second");
    write_two("decoder.safetensors", "decoder.d", "encoder.e", 3);
    expect_failure(folder, CTOK_E_FILE_FORMAT, "tensor encoder.e is also in the other file",
                   "folder: two tensors of one name that differ");
    write_two("encoder.safetensors", "model.quant_conv.bias", "model.encoder.e", 2);
    write_two("decoder.safetensors", "module._orig_mod.decoder.d",
              "module._orig_mod.post_quant_conv.bias", 3);
    c = expect_open(folder, "folder: what wraps all names of a file is taken off");
    report(c && c->num_tensors == 4 && checkpoint_find(c, "quant_conv.bias") &&
               checkpoint_find(c, "decoder.d") && checkpoint_find(c, "post_quant_conv.bias"),
           "folder: of each file what it has");
    checkpoint_close(c);
    write_two("encoder.safetensors", "model.encoder.e", "ema.encoder.e", 2);
    expect_failure(folder, CTOK_E_FILE_NETWORK,
                   "encoder.safetensors: expected tensors named encoder.*, found 2 others, such as "
                   "ema.encoder.e",
                   "folder: two wrappers are none");
    write_one("encoder.safetensors", "encoder.e", 2, "first");
    buffer jit = module_bytes("decoder");
    save("decoder.jit", jit.bytes, jit.n);
    c = expect_open(folder, "folder: .jit goes before .safetensors, one half alone");
    report(c && checkpoint_find(c, "decoder.weight") && c->num_maps == 1, "folder: it is that one");
    checkpoint_close(c);
    buffer frozen = frozen_bytes();
    save("encoder.jit", frozen.bytes, frozen.n);
    expect_failure(folder, CTOK_E_FILE_FORMAT,
                   "encoder.jit: an archive whose module has no parameters, and 2 constants: "
                   "expected one that was not frozen",
                   "folder: a frozen encoder beside a good decoder");
    release(&frozen);
    release(&jit);
    clear_folder();
}

// ---------------------------------------------------------------- cancelling
static void test_cancelling(void) {
    atomic_bool cancel = true;
    atomic_uint steps = 0;
    ctok_error error = {.struct_size = sizeof error};
    write_one("a.safetensors", "a", 1, "x");
    checkpoint *c = NULL;
    report(checkpoint_open(&c, path_of("a.safetensors"), &cancel, &error) == CTOK_E_CANCELLED && !c,
           "cancelling: a checkpoint that opens");
    save("old", "older", 5);
    const checkpoint_tensor tensor = tensor_of("six", CTOK_F32, 1, shape_2, stride_1, six);
    const checkpoint_watch watch = {&cancel, &steps};
    report(safetensors_write(path_of("old"), &tensor, 1, NULL, 0, &watch, &error) ==
                   CTOK_E_CANCELLED &&
               count_files() == 2,
           "cancelling: a file that is written");
    report(safetensors_write(path_of("old"), NULL, 0, NULL, 0, &watch, &error) == CTOK_E_CANCELLED,
           "cancelling: right before it gets its name");
    FILE *file = fopen(path_of("old"), "rb");
    char found[8] = "";
    report(file && fread(found, 1, 7, file) == 5 && strcmp(found, "older") == 0,
           "cancelling: the older file is untouched");
    if (file) fclose(file);
    cancel = false;
    report(safetensors_write(path_of("old"), &tensor, 1, NULL, 0, &watch, &error) == CTOK_OK &&
               steps == 1,
           "cancelling: not cancelled, it is written, and the step counted");
    clear_folder();
}

// ---------------------------------------------------------------- tensors that share a storage
// Attributes "0x", "1x", ... of one storage of `num_stored` bytes, all zeros but the first and the
// last.
static void save_sharing(const char *file, int count, int64_t num_stored, int32_t rank,
                         const int64_t *shape, const int64_t *stride) {
    buffer pickle = {0};
    put(&pickle, "\x80\x02", 2);
    pickle_begin(&pickle);
    for (int i = 0; i < count; i++) {
        char name[16];
        snprintf(name, sizeof name, "%dx", i);
        pickle_string(&pickle, name);
        pickle_tensor(&pickle, "ByteStorage", "0", num_stored, 0, rank, shape, stride);
    }
    pickle_end(&pickle);
    put_text(&pickle, ".");
    uint8_t *data = calloc((size_t)num_stored, 1);
    if (!data) stop("calloc");
    data[0] = 7, data[num_stored - 1] = 9;
    const record records[] = {{"root/data.pkl", pickle.bytes, pickle.n, 0, 0},
                              {"root/data/0", data, (size_t)num_stored, 0, 0}};
    buffer jit = zip_bytes(records, 2, ZIP_PLAIN);
    save(file, jit.bytes, jit.n);
    free(data);
    release(&jit);
    release(&pickle);
}

static uint64_t bytes_read(void) {
    FILE *file = fopen("/proc/self/io", "r");
    unsigned long long n = 0;
    if (file && fscanf(file, "rchar: %llu", &n) != 1) n = 0;
    if (file) fclose(file);
    return n;
}

static void test_sharing(void) {
    enum { STORED = 8 << 20 };
    const int64_t two[] = {2}, ends[] = {STORED - 1}, all[] = {STORED}, one[] = {1},
                  grid[] = {STORED / 2 / 8, 8}, moved[] = {1, STORED / 2 / 8}, few[] = {1000, 2},
                  rows[] = {8000, 4000};
    save_sharing("ends.jit", 1000, STORED, 1, two, ends);
    uint64_t before = bytes_read();
    checkpoint *c =
        expect_open(path_of("ends.jit"),
                    "sharing: 1000 tensors, each the first and the last byte of one storage");
    bool is_right = c && c->num_tensors == 1000;
    int64_t values[2] = {0};
    for (int32_t i = 0; is_right && i < c->num_tensors; i++)
        is_right = checkpoint_read_i64(&c->tensors[i], values) && values[0] == 7 && values[1] == 9;
    report(is_right, "sharing: their values");
    uint64_t read = bytes_read() - before;
    report(before == 0 || (read > 0 && read < STORED),
           "sharing: %llu bytes are read for all, where the storage has %d",
           (unsigned long long)read, STORED);
    report(c && checkpoint_read_memory(&c->tensors[0]) == 0,
           "sharing: and none of them takes memory");
    checkpoint_close(c);

    save_sharing("strided.jit", 1, STORED, 2, few, rows);
    c = expect_open(path_of("strided.jit"), "sharing: rows that lie far apart");
    uint8_t *bytes = malloc(STORED);
    if (!bytes) stop("malloc");
    memset(bytes, 1, 2000);
    bool is_copied = c && checkpoint_copy(&c->tensors[0], bytes);
    for (int i = 1; i < 2000; i++) is_copied &= bytes[i] == 0;
    report(is_copied && bytes[0] == 7, "sharing: their values");
    checkpoint_close(c);
    save_sharing("moved.jit", 1, STORED / 2, 2, grid, moved);
    c = expect_open(path_of("moved.jit"),
                    "sharing: two axes that lie in the file the other way round");
    is_copied = c && checkpoint_copy(&c->tensors[0], bytes);
    for (int i = 1; i < STORED / 2 - 1; i++) is_copied &= bytes[i] == 0;
    report(is_copied && bytes[0] == 7 && bytes[STORED / 2 - 1] == 9 &&
               checkpoint_read_memory(&c->tensors[0]) == STORED,
           "sharing: are read whole, which takes memory");
    checkpoint_close(c);
    free(bytes);

    save_sharing("often.jit", 400, STORED, 1, all, one);
    before = bytes_read();
    expect_failure(path_of("often.jit"), CTOK_E_FILE_FORMAT, "share their storages so often",
                   "sharing: 400 times the whole storage");
    report(before == 0 || bytes_read() - before < STORED, "sharing: and none is read to find that");
    const int64_t much[] = {1 << 20}, none[] = {0};
    save_sharing("repeated.jit", 100, 64, 1, much, none);
    expect_failure(path_of("repeated.jit"), CTOK_E_FILE_FORMAT, "share their storages so often",
                   "sharing: one value, a million times a tensor");
    clear_folder();

    // The same file under both names: every tensor is there twice, as one.
    buffer header = {0};
    put_text(&header,
             "{\"decoder.a\":{\"dtype\":\"U8\",\"shape\":[8388608],\"data_offsets\":[0,8388608]},"
             "\"encoder.a\":{\"dtype\":\"U8\",\"shape\":[8388608],\"data_offsets\":[8388608,"
             "16777216]}}");
    put(&header, "", 1);
    uint8_t *data = calloc(2, STORED);
    if (!data) stop("calloc");
    buffer file = safetensors_bytes((const char *)header.bytes, data, 2 * STORED);
    save("encoder.safetensors", file.bytes, file.n);
    if (link(path_of("encoder.safetensors"), path_of("decoder.safetensors")) != 0)
        stop("decoder.safetensors");
    before = bytes_read();
    c = expect_open(folder, "sharing: one file under two names");
    report(c && c->num_tensors == 2, "sharing: its tensors are one each");
    report(before == 0 || bytes_read() - before < STORED,
           "sharing: which nothing had to be read for");
    checkpoint_close(c);
    remove(path_of("decoder.safetensors"));
    save("decoder.safetensors", file.bytes, file.n);
    c = expect_open(folder, "sharing: a copy under the other name");
    report(c && c->num_tensors == 2, "sharing: equal values are one each");
    checkpoint_close(c);
    free(data);
    release(&file);
    release(&header);
    clear_folder();
}

/* ---------------------------------------------------------------- what PyTorch wrote */
static bool are_equal(const checkpoint *a, const checkpoint *b, const char **name) {
    *name = "(number of tensors)";
    if (a->num_tensors != b->num_tensors) return false;
    for (int32_t i = 0; i < a->num_tensors; i++) {
        const checkpoint_tensor *x = &a->tensors[i], *y = &b->tensors[i];
        *name = x->name;
        if (strcmp(x->name, y->name) != 0 || x->rank != y->rank ||
            memcmp(x->shape, y->shape, (size_t)x->rank * 8) != 0)
            return false;
        if (dtype_is_float(x->dtype) != dtype_is_float(y->dtype)) return false;
        size_t n = (size_t)checkpoint_elements(x);
        void *p = calloc(n + 1, 8), *q = calloc(n + 1, 8);
        if (!p || !q) stop("calloc");
        if (dtype_is_float(x->dtype)) checkpoint_read_f32(x, p), checkpoint_read_f32(y, q);
        else checkpoint_read_i64(x, p), checkpoint_read_i64(y, q);
        bool is_same = memcmp(p, q, n * 8) == 0;
        free(p);
        free(q);
        if (!is_same) return false;
    }
    return true;
}

static bool ends_with(const char *text, const char *end) {
    return strlen(text) >= strlen(end) && strcmp(text + strlen(text) - strlen(end), end) == 0;
}

static void test_fixtures(void) {
    static const char root[] = "../shared/fixtures";
    struct dirent **folders;
    int num_folders = scandir(root, &folders, NULL, alphasort), num_variants = 0;
    if (num_folders < 0) {
        report(true,
               "archives that PyTorch wrote # SKIP no ../shared/fixtures beside the checkout");
        return;
    }
    checkpoint *plain = expect_open("../shared/fixtures/Cosmos-Tokenizer-DI8x8/encoder.jit",
                                    "fixtures: Cosmos-Tokenizer-DI8x8/encoder.jit");
    const checkpoint_tensor *weight =
        plain ? checkpoint_find(plain, "encoder.down.0.block.0.conv1.weight") : NULL;
    report(weight && weight->rank == 4, "fixtures: encoder.down.0.block.0.conv1.weight is there");
    for (int i = 0; i < num_folders; i++) {
        struct dirent **files;
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", root, folders[i]->d_name);
        int num_files = folders[i]->d_name[0] == '.' ? -1 : scandir(path, &files, NULL, alphasort);
        for (int k = 0; k < num_files; k++) {
            snprintf(path, sizeof path, "%s/%s/%s", root, folders[i]->d_name, files[k]->d_name);
            if (ends_with(path, ".jit") || ends_with(path, ".safetensors")) {
                checkpoint *c = expect_open(path, path);
                if (c) read_all(c);
                const char *name = NULL;
                if (c && plain && strcmp(folders[i]->d_name, "variants") == 0) {
                    num_variants++;
                    bool is_equal = are_equal(plain, c, &name);
                    report(is_equal, "fixtures: %s holds the same values%s%s", files[k]->d_name,
                           is_equal ? "" : ", not ", is_equal ? "" : name);
                }
                checkpoint_close(c);
            }
            free(files[k]);
        }
        if (num_files >= 0) free(files);
        free(folders[i]);
    }
    free(folders);
    report(num_variants == 5, "fixtures: %d variants, expected 5", num_variants);
    checkpoint_close(plain);
    checkpoint *both = expect_open("../shared/fixtures/Cosmos-Tokenizer-DI8x8",
                                   "fixtures: a folder with both halves and an autoencoder");
    report(both && both->num_maps == 2, "fixtures: the halves are taken");
    checkpoint_close(both);
}

// A file that somebody cuts while it is open: reading says so, where a mapped file would end the
// process with SIGBUS.
static void test_shrinking(void) {
    enum { COUNT = 1 << 16 };
    char header[160];
    buffer b = {0};
    snprintf(header, sizeof header,
             "{\"row\":{\"dtype\":\"F32\",\"shape\":[%d],\"data_offsets\":[0,%d]},\"whole\":{"
             "\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[%d,%d]}}",
             COUNT, COUNT * 4, COUNT * 4, COUNT * 4 + 8);
    put_integer(&b, strlen(header), 8);
    put_text(&b, header);
    for (int i = 0; i < COUNT; i++) put_integer(&b, 0x3F800000, 4);
    put_integer(&b, 7, 8);
    save("shrinks.safetensors", b.bytes, b.n);
    checkpoint *c = expect_open(path_of("shrinks.safetensors"), "shrinking: the whole file opens");
    const checkpoint_tensor *row = c ? checkpoint_find(c, "row") : NULL,
                            *whole = c ? checkpoint_find(c, "whole") : NULL;
    float *values = calloc(COUNT, sizeof *values);
    int64_t number = 0;
    if (!values || !row || !whole) stop("shrinks.safetensors");
    report(checkpoint_read_f32(row, values) == 0 && values[COUNT - 1] == 1 &&
               checkpoint_read_i64(whole, &number) && number == 7,
           "shrinking: it is read");
    if (truncate(path_of("shrinks.safetensors"), 4096) != 0) stop("truncate");
    ctok_error error = {.struct_size = sizeof error};
    report(checkpoint_read_f32(row, values) < 0 && !checkpoint_read_i64(whole, &number),
           "shrinking: cut, it cannot be read");
    report(
        checkpoint_fail_read(row, &error) == CTOK_E_FILE_IO && strstr(error.message, "tensor row"),
        "shrinking: and the error names the tensor");
    ctok_status status =
        safetensors_write(path_of("copy.safetensors"), row, 1, NULL, 0, NULL, &error);
    report(status == CTOK_E_FILE_IO && count_files() == 1,
           "shrinking: writing it fails and leaves nothing");
    free(values);
    checkpoint_close(c);
    release(&b);
    clear_folder();
}

int main(void) {
    snprintf(folder, sizeof folder, "/tmp/ctok-checkpoint-XXXXXX");
    if (!mkdtemp(folder)) stop(folder);
    test_conversions();
    test_strides();
    test_safetensors_headers();
    test_safetensors_good();
    test_archives();
    test_pickles();
    test_writing();
    test_targets();
    test_meeting();
    test_storm();
    test_paths();
    test_cancelling();
    test_sharing();
    test_shrinking();
    test_fixtures();
    rmdir(folder);
    return report_end();
}

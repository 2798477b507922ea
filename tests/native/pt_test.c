// Tests what csrc/checkpoint reads of torch.save: archives written here byte by byte, whole,
// hostile and damaged, and ones that PyTorch 2 wrote: tests/fixtures/torch/trainer.pt (a trainer's
// dict with everything that may lie beside the weights) and, where ../shared lies beside the
// checkout, the families' checkpoints. The numbers of tensors and the checksums of those come from
// torch.load. A case prints one TAP line; the program exits non-zero when one fails. Runs from the
// root.
#include "checkpoint_support.h"

/* ---------------------------------------------------------------- pickles of state dicts */
#define PUT(b, literal) put(b, literal, sizeof literal - 1)
#define ORDERED_DICT "ccollections\nOrderedDict\n)R"

static void put_tensor(buffer *b) {
    pickle_tensor(b, "FloatStorage", "0", 6, 0, 2, shape_23, stride_31);
}

static void put_entry(buffer *b, const char *name) {
    pickle_string(b, name);
    put_tensor(b);
}

// torch.save of an OrderedDict of one tensor, with the _metadata that its BUILD gives it.
static void put_state_dict(buffer *b, const char *name) {
    PUT(b, ORDERED_DICT "(");
    put_entry(b, name);
    PUT(b, "u}");
    pickle_string(b, "_metadata");
    PUT(b, ORDERED_DICT "sb");
}

static buffer archive_of(const buffer *pickle) {
    const record records[] = {{"m/data.pkl", pickle->bytes, pickle->n, 0, 0},
                              {"m/byteorder", "little", 6, 0, 0},
                              {"m/data/0", six, sizeof six, 0, 17},
                              {"m/version", "3\n", 2, 0, 0}};
    return zip_bytes(records, sizeof records / sizeof *records, ZIP_PLAIN);
}

// The pickle of `body`, a top value without PROTO and STOP, as an archive.
static buffer archive_of_body(const buffer *body) {
    buffer pickle = {0};
    PUT(&pickle, "\x80\x02");
    put(&pickle, body->bytes, body->n);
    PUT(&pickle, ".");
    buffer archive = archive_of(&pickle);
    release(&pickle);
    return archive;
}

// Consumes `body`. name: of the one tensor that it must give.
static void expect_one(buffer *body, const char *name, const char *what) {
    buffer archive = archive_of_body(body);
    save("one.pt", archive.bytes, archive.n);
    checkpoint *c = expect_open(path_of("one.pt"), what);
    const checkpoint_tensor *t = c ? checkpoint_find(c, name) : NULL;
    float values[6] = {0};
    bool is_read = t && t->rank == 2 && t->shape[1] == 3 && checkpoint_read_f32(t, values) == 0;
    report(c && c->num_tensors == 1 && is_read && memcmp(values, six, sizeof six) == 0,
           "%s: its one tensor is %s", what, name);
    checkpoint_close(c);
    release(&archive);
    release(body);
    clear_folder();
}

static void refuse_body(buffer *body, const char *part, const char *what) {
    buffer archive = archive_of_body(body);
    expect_bytes(&archive, "bad.pt", part, what);
    release(&archive);
    release(body);
}

static void refuse_opcodes(const char *opcodes, size_t n, const char *part, const char *what) {
    buffer body = {0};
    put(&body, opcodes, n);
    refuse_body(&body, part, what);
}
#define REFUSE(literal, part, what) refuse_opcodes(literal, sizeof literal - 1, part, what)

/* ---------------------------------------------------------------- which dict holds the weights */
static void test_forms(void) {
    buffer b = {0};
    put_state_dict(&b, "bare");
    expect_one(&b, "bare", "a state dict itself");
    PUT(&b, "}");
    put_entry(&b, "plain");
    PUT(&b, "s");
    expect_one(&b, "plain", "a plain dict");

    static const struct {
        const char *what, *keys[4], *wanted;
    } cases[] = {
        {"model", {"model"}, "model"},
        {"state_dict", {"epoch", "state_dict", "loops"}, "state_dict"},
        {"ema after model", {"model", "ema"}, "ema"},
        {"ema before model", {"ema", "optimizer", "model"}, "ema"},
        {"model and state_dict", {"state_dict", "model"}, "model"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        PUT(&b, "}(");
        for (int k = 0; k < 4 && cases[i].keys[k]; k++) {
            pickle_string(&b, cases[i].keys[k]);
            put_state_dict(&b, cases[i].keys[k]);
        }
        PUT(&b, "u");
        expect_one(&b, cases[i].wanted, cases[i].what);
    }

    PUT(&b, "}(");
    pickle_string(&b, "ema");
    PUT(&b, "N");
    pickle_string(&b, "model");
    put_state_dict(&b, "kept");
    PUT(&b, "u");
    expect_one(&b, "kept", "an ema of None is none");

    PUT(&b, "}(");
    pickle_string(&b, "model");
    PUT(&b, "}(");
    pickle_string(&b, "weight");
    PUT(&b, "ctorch._utils\n_rebuild_parameter\n");
    put_tensor(&b);
    PUT(&b, "\x88" ORDERED_DICT "\x87Ruu");
    expect_one(&b, "weight", "a parameter is its tensor");
}

// Values under other keys: opaque, and tensors whose records are not there.
static void test_passed_over(void) {
    buffer b = {0};
    PUT(&b, "}(K\x01Ncos\nsystem\n");  // keys that are no strings, one of them a name
    PUT(&b, "N");
    pickle_string(&b, "args");
    PUT(&b, "cargparse\nNamespace\n)\x81q\x01}(NNub");
    pickle_string(&b, "again");
    PUT(&b, "h\x01");
    pickle_string(&b, "call");
    PUT(&b, "cos\nsystem\n");
    pickle_string(&b, "true");
    PUT(&b, "\x85R(NNu](NNeb");  // filled as a dict, then given a list as its state
    pickle_string(&b, "qint");
    pickle_tensor(&b, "QInt8Storage", "9", 6, 0, 2, shape_23, stride_31);
    pickle_string(&b, "optimizer");
    pickle_tensor(&b, "FloatStorage", "no such record", 6, -1, 1, shape_2, stride_1);
    pickle_string(&b, "self");
    PUT(&b, "h\x01");
    pickle_string(&b, "model");
    put_state_dict(&b, "kept");
    PUT(&b, "u");
    expect_one(&b, "kept", "what lies beside the weights");
}

/* ---------------------------------------------------------------- refused */
static void test_unknown_names(void) {
    static const struct {
        const char *what, *opcodes;
    } cases[] = {
        {"as a tensor", "cos\nsystem\n"},
        {"called", "cos\nsystem\n(NtR"},
        {"made an object of", "cos\nsystem\n)\x81"},
        {"given a state", "cos\nsystem\n)R}b"},
        {"as an argument of a known one", "ctorch\ndevice\ncos\nsystem\n\x85R"},
        {"as a callee of many arguments", "cos\nsystem\n(NNNNNNNNNtR"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        buffer b = {0};
        char what[96];
        snprintf(what, sizeof what, "an unknown name %s", cases[i].what);
        PUT(&b, "}");
        pickle_string(&b, "w");
        put_text(&b, cases[i].opcodes);
        PUT(&b, "s");
        refuse_body(&b, "the name os system is not one", what);
    }
    REFUSE("cos\nsystem\n(NtR", "the name os system is not one", "an unknown call at the top");
    REFUSE("}X\x05\0\0\0modelcos\nsystem\n)Rs", "the name os system is not one",
           "an unknown call under model");
    REFUSE("}X\x03\0\0\0emacos\nsystem\n)RsX\x05\0\0\0model}s", "the name os system is not one",
           "an ema that is unknown, beside a model");
    REFUSE("X\x02\0\0\0osX\x06\0\0\0system\x93", "opcode 0x93", "STACK_GLOBAL");
    REFUSE("\x8c\x02os\x8c\x06system\x93", "opcode 0x8c", "STACK_GLOBAL with short strings");
    REFUSE("ios\nsystem\n", "opcode 0x69", "INST");
    REFUSE("(cos\nsystem\no", "opcode 0x6f", "OBJ");
    REFUSE("\x82\x01", "opcode 0x82", "EXT1");
    REFUSE("cos\nsystem", "a name without its line end", "half a name");
}

static void test_wrong_opcodes(void) {
    REFUSE("}}b", "expected a new object", "BUILD on a plain dict");
    REFUSE("]}b", "expected a new object", "BUILD on a list");
    REFUSE("N}b", "expected a new object", "BUILD on None");
    REFUSE(ORDERED_DICT "Nb", "expected a new object", "BUILD of an OrderedDict with None");
    REFUSE("}b", "expected a new object", "BUILD on nothing");
    REFUSE("u", "needs a mark", "SETITEMS without a mark");
    REFUSE("}NNu", "needs a mark", "SETITEMS with a dict and no mark");
    REFUSE("(NNu", "expected a dict to fill, found nothing", "SETITEMS without a dict");
    REFUSE("](NNu", "expected a dict to fill, found a list", "SETITEMS of a list");
    REFUSE("](NNt(NNu", "expected a dict to fill, found a tuple", "SETITEMS of a tuple");
    REFUSE("ccollections\nOrderedDict\nN\x85R", "cannot be called with 1 arguments",
           "an OrderedDict of something");
    REFUSE("ctorch._utils\n_rebuild_parameter\nN\x88}\x87R", "_rebuild_parameter expects",
           "a parameter of None");
    REFUSE("ctorch._utils\n_rebuild_parameter\n)R", "_rebuild_parameter expects",
           "a parameter of nothing");
    REFUSE("\x80\x03}", "pickle protocol 3: expected 2", "protocol 3");
}

static void test_wrong_values(void) {
    REFUSE("}", "a state dict without a tensor", "an empty dict");
    REFUSE("}X\x05\0\0\0model}s", "a state dict without a tensor", "an empty model");
    REFUSE("}X\x05\0\0\0modelK\x05s", "model: expected a state dict, found an int",
           "a model that is a number");
    REFUSE("}X\x05\0\0\0model]s", "model: expected a state dict, found a list",
           "a model that is a list");
    REFUSE("}(X\x05\0\0\0model}X\x05\0\0\0model}u", "the key model is there twice", "two models");
    REFUSE("}NNs", "must be a string of UTF-8, found None", "a key that is None");
    REFUSE("}X\x01\0\0\0\xffNs", "must be a string of UTF-8", "a key that is not UTF-8");
    REFUSE("}X\x02\0\0\0a\0Ns", "must be a string of UTF-8", "a key with a NUL");
    REFUSE("}X\x01\0\0\0aG\0\0\0\0\0\0\0\0s", "a: expected a tensor, found a float",
           "a number among the weights");
    REFUSE("}X\x01\0\0\0a}s", "a: expected a tensor, found a dict", "a dict among the weights");
    REFUSE("}q\x01X\x05\0\0\0modelh\x01s", "model: expected a tensor, found a dict",
           "a dict that holds itself");
    REFUSE("]", "data.pkl holds a list, expected a module or a state dict", "a list");

    buffer b = {0};
    PUT(&b, "}(");
    put_entry(&b, "twice");
    put_entry(&b, "twice");
    PUT(&b, "u");
    refuse_body(&b, "two tensors have the name twice", "a name twice");
    static const struct {
        const char *what;
        int64_t num_stored, offset, size, stride;
        const char *part;
    } cases[] = {
        {"past its storage", 6, 5, 2, 1, "tensor w: offset 5 and strides reach past"},
        {"before its storage", 6, -1, 2, 1, "offset -1"},
        {"of a storage that says more than its record", 7, 0, 2, 1,
         "expected 7 elements of 4 bytes"},
        {"of strides past 2^63", 6, 1, INT64_MAX, INT64_MAX, "more elements than its storage"},
        {"of one value without end", 6, 0, 1ll << 40, 0, "more elements than its storage"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char what[96];
        snprintf(what, sizeof what, "a tensor %s", cases[i].what);
        PUT(&b, "}");
        pickle_string(&b, "w");
        pickle_tensor(&b, "FloatStorage", "0", cases[i].num_stored, cases[i].offset, 1,
                      &cases[i].size, &cases[i].stride);
        PUT(&b, "s");
        refuse_body(&b, cases[i].part, what);
    }
}

// Files whose reading could take far more than their bytes.
static void test_bombs(void) {
    buffer b = {0};
    PUT(&b, ")");
    static uint8_t nested[1000000];
    memset(nested, 0x85, sizeof nested);
    put(&b, nested, sizeof nested);
    refuse_body(&b, "data.pkl holds a tuple", "10^6 tuples, each in the next");

    // One name of 1000 bytes and one tensor, 9000 times by the memo.
    static char name[1001];
    memset(name, 'n', sizeof name - 1);
    PUT(&b, "}(");
    pickle_string(&b, name);
    PUT(&b, "q\x01");
    put_tensor(&b);
    PUT(&b, "q\x02");
    for (int i = 0; i < 9000; i++) PUT(&b, "h\x01h\x02");
    PUT(&b, "u");
    refuse_body(&b, "pass 16 times", "one name of 1000 bytes, 9000 times");

    // A tuple of 2^16 values as the arguments of as many calls.
    PUT(&b, "](cos\nsystem\nq\x01(");
    for (int i = 0; i < 1 << 16; i++) PUT(&b, "N");
    PUT(&b, "tq\x02");
    for (int i = 0; i < 1 << 16; i++) PUT(&b, "h\x01h\x02R");
    PUT(&b, "e");
    refuse_body(&b, "data.pkl holds a list", "2^16 calls of 2^16 arguments");

    PUT(&b, "}");
    static char longest[1100];
    memset(longest, 'n', sizeof longest - 1);
    put_entry(&b, longest);
    PUT(&b, "s");
    refuse_body(&b, "a tensor's name has 1099 bytes: expected at most 1023",
                "a name that is too long");
}

static void test_damage(void) {
    buffer b = {0}, pickle = {0};
    PUT(&pickle, "\x80\x02}(");
    pickle_string(&pickle, "args");
    PUT(&pickle, "cargparse\nNamespace\n)\x81}(NNub");
    pickle_string(&pickle, "model");
    put_state_dict(&pickle, "w");
    PUT(&pickle, "u.");
    b = archive_of(&pickle);
    expect_robust(&b, "cut.pt", "a trainer's archive");
    release(&b);
    const record records[] = {{"m/data.pkl", pickle.bytes, pickle.n, 0, 0},
                              {"m/byteorder", "big", 3, 0, 0},
                              {"m/data/0", six, sizeof six, 0, 0}};
    b = zip_bytes(records, 3, ZIP_PLAIN);
    expect_bytes(&b, "big.pt", "byteorder says big: expected little", "a big-endian archive");
    release(&b);
    release(&pickle);
}

/* ---------------------------------------------------------------- files */
static void test_old_forms(void) {
    static const uint8_t pickled[] =
        "\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";
    buffer b = {0};
    put(&b, pickled, sizeof pickled - 1);
    expect_bytes(&b, "old.pt", "before PyTorch 1.6", "torch.save's bare pickles");
    release(&b);
    char tar[1024] = "sys_info";
    memcpy(tar + 257, "ustar", 5);
    put(&b, tar, sizeof tar);
    expect_bytes(&b, "older.pt", "before PyTorch 1.6", "torch.save's tar");
    release(&b);
}

static void test_folders(void) {
    buffer b = {0};
    put_state_dict(&b, "one");
    buffer archive = archive_of_body(&b);
    static const char *const names[] = {"a.pt", "a.pth", "a.ckpt"};
    for (int i = 0; i < 3; i++) {
        save(names[i], archive.bytes, archive.n);
        checkpoint *c = expect_open(folder, names[i]);
        report(c && checkpoint_find(c, "one"), "a folder with one %s", names[i]);
        checkpoint_close(c);
        clear_folder();
    }
    save("a.pt", archive.bytes, archive.n);
    save("b.ckpt", archive.bytes, archive.n);
    expect_failure(folder, CTOK_E_FILE_MISSING,
                   ".pt, .pth or .ckpt where there is no .safetensors (2)",
                   "a folder with two of them");
    remove(path_of("b.ckpt"));
    const float value = 7;
    const checkpoint_tensor other = {
        .name = "other", .dtype = CTOK_F32, .data = (const uint8_t *)&value};
    ctok_error error = {.struct_size = sizeof error};
    ctok_status status =
        safetensors_write(path_of("a.safetensors"), &other, 1, NULL, 0, NULL, &error);
    checkpoint *c = expect_open(folder, "a folder with a .safetensors beside a .pt");
    report(status == CTOK_OK && c && checkpoint_find(c, "other") && !checkpoint_find(c, "one"),
           "the .safetensors is taken");
    checkpoint_close(c);
    release(&archive);
    release(&b);
    clear_folder();
}

static uint32_t crc32_of(uint32_t crc, const void *bytes, size_t n) {
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= ((const uint8_t *)bytes)[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    return ~crc;
}

// "name dtype 2,3\n" and the row-major bytes of each tensor, in the order of their names.
static void expect_contents(const char *path, int num_tensors, uint32_t wanted) {
    checkpoint *c = expect_open(path, path);
    uint32_t crc = 0;
    for (int32_t i = 0; c && i < c->num_tensors; i++) {
        const checkpoint_tensor *t = &c->tensors[i];
        char line[2048];
        int n = snprintf(line, sizeof line, "%s %s ", t->name, checkpoint_dtype_name(t->dtype));
        for (int32_t k = 0; k < t->rank; k++)
            n += snprintf(line + n, sizeof line - (size_t)n, "%s%lld", k ? "," : "",
                          (long long)t->shape[k]);
        crc = crc32_of(crc, line, (size_t)n);
        crc = crc32_of(crc, "\n", 1);
        size_t num_bytes = (size_t)checkpoint_elements(t) * dtype_bytes(t->dtype);
        uint8_t *values = malloc(num_bytes + 1);
        if (!values || !checkpoint_copy(t, values)) stop(path);
        crc = crc32_of(crc, values, num_bytes);
        free(values);
    }
    bool is_equal = c && c->num_tensors == num_tensors && crc == wanted;
    report(is_equal, "%s: names, types, shapes and values are those that PyTorch reads", path);
    if (c && !is_equal)
        printf("# %d tensors, %08x: expected %d, %08x\n", c->num_tensors, crc, num_tensors, wanted);
    checkpoint_close(c);
}

static void test_fixtures(void) {
    expect_contents("tests/fixtures/torch/trainer.pt", 21, 0x8fa67fc2);
    checkpoint *c = expect_open("tests/fixtures/torch/trainer.pt", "trainer.pt opens");
    ctok_error error = {.struct_size = sizeof error};
    if (c) {
        ctok_status status = safetensors_write(path_of("out.safetensors"), c->tensors,
                                               c->num_tensors, NULL, 0, NULL, &error);
        report(status == CTOK_OK, "trainer.pt is written as safetensors %s", error.message);
        expect_contents(path_of("out.safetensors"), 21, 0x8fa67fc2);
    }
    checkpoint_close(c);
    clear_folder();

    static const struct {
        const char *file;
        int num_tensors;
        uint32_t crc;
    } files[] = {
        {"llamagen/vq_ds8_c2i.pt", 208, 0x091077d9},
        {"open_magvit2/imagenet_128_L.ckpt", 202, 0x3c112d77},
        {"vidtok/vidtok_fsq_causal_488_32768/vidtok_fsq_causal_488_32768.ckpt", 286, 0x4889b4ae},
        {"vidtok/vidtok_fsq_causal_888_32768_v1_1/vidtok_fsq_causal_888_32768_v1_1.ckpt", 286,
         0x6e0fa841},
        {"vidtok/vidtok_kl_causal_444_4chn/vidtok_kl_causal_444_4chn.ckpt", 278, 0xf23f273d},
        {"vidtok/vidtok_kl_noncausal_41616_16chn/vidtok_kl_noncausal_41616_16chn.ckpt", 334,
         0x953a887a},
        {"wan2.1/Wan2.1_VAE.pth", 146, 0xfedc9575},
        {"wan2.2/Wan2.2_VAE.pth", 144, 0x4056a203},
    };
    static const char root[] = "../shared/fixtures/families";
    if (access(root, R_OK) != 0) {
        report(true, "checkpoints of the families # SKIP no %s beside the checkout", root);
        return;
    }
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", root, files[i].file);
        expect_contents(path, files[i].num_tensors, files[i].crc);
    }
}

int main(void) {
    snprintf(folder, sizeof folder, "/tmp/ctok-pt-XXXXXX");
    if (!mkdtemp(folder)) stop(folder);
    test_forms();
    test_passed_over();
    test_unknown_names();
    test_wrong_opcodes();
    test_wrong_values();
    test_bombs();
    test_damage();
    test_old_forms();
    test_folders();
    test_fixtures();
    rmdir(folder);
    return report_end();
}

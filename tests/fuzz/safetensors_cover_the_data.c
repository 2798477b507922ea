// safetensors_cover_the_data: any bytes as a safetensors file are refused with a pinned code, or
// give tensors whose bytes, together, are exactly the data: nothing outside is read, nothing is
// hidden in a hole, nothing is read twice.
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t num_bytes) {
    ctok_error error = {.struct_size = sizeof error};
    checkpoint *c = calloc(1, sizeof *c);
    PROPERTY(c);
    ctok_status status =
        safetensors_read(c, (checkpoint_map){.bytes = bytes, .num_bytes = num_bytes}, &error);
    if (status != CTOK_OK) {
        expect_file_error(status, &error);
    } else {
        uint64_t covered = 0, header_bytes = load_u64(bytes);
        for (int32_t i = 0; i < c->num_tensors; i++) {
            const checkpoint_tensor *t = &c->tensors[i];
            PROPERTY(checkpoint_is_contiguous(t) && t->data == bytes + 8 + header_bytes + covered);
            covered += (uint64_t)checkpoint_elements(t) * dtype_bytes(t->dtype);
        }
        PROPERTY(8 + header_bytes + covered == num_bytes);
        read_all(c);
    }
    checkpoint_close(c);
    return 0;
}

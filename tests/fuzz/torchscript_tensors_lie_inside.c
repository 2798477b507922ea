// torchscript_tensors_lie_inside: any bytes as a TorchScript archive are refused with a pinned
// code, or give tensors whose every element can be read.
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t num_bytes) {
    ctok_error error = {.struct_size = sizeof error};
    checkpoint *c = calloc(1, sizeof *c);
    PROPERTY(c);
    ctok_status status =
        torch_read(c, (checkpoint_map){.bytes = bytes, .num_bytes = num_bytes}, &error);
    if (status != CTOK_OK) expect_file_error(status, &error);
    else read_all(c);
    checkpoint_close(c);
    return 0;
}

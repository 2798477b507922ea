// zip_records_lie_inside: any bytes as an archive are refused with a pinned code, or every record
// lies inside them, before the directory, under a name that finds it again.
#include "../../csrc/checkpoint/zip.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t num_bytes) {
    ctok_error error = {.struct_size = sizeof error};
    zip_archive archive;
    ctok_status status =
        zip_open(&archive, (checkpoint_map){.bytes = bytes, .num_bytes = num_bytes}, &error);
    if (status != CTOK_OK) return expect_file_error(status, &error), 0;
    for (size_t i = 0; i < archive.num_entries; i++) {
        const zip_entry *entry = &archive.entries[i];
        PROPERTY(zip_find(&archive, entry->name) == entry);
        const uint8_t *data = NULL;
        status = zip_record(&data, &archive, entry, &error);
        if (status != CTOK_OK) {
            expect_file_error(status, &error);
            continue;
        }
        PROPERTY(data >= bytes && data <= bytes + num_bytes &&
                 entry->num_bytes <= (uint64_t)(bytes + archive.directory_offset - data));
    }
    zip_close(&archive);
    return 0;
}

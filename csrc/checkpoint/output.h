// A file that appears under its name whole or not at all. Its bytes go to a temporary file in the
// same folder, reach the disk, and only then take the name; through symbolic links, the name that
// they lead to. What is no regular file is never replaced. The rules are those of src/files.ts. Who
// calls it: safetensors_write.c.
#ifndef CTOK_CHECKPOINT_OUTPUT_H
#define CTOK_CHECKPOINT_OUTPUT_H

#include <stddef.h>

#include "../base/status.h"

typedef struct {
    const char *path;  // as the caller calls it; the caller's, for messages
    char *target;      // where links lead from there
    char *temporary;   // beside the target: .ctok-HASH-N.tmp, of its name and a number
    int descriptor;    // of the temporary file, locked for as long as it is open
} output_file;

// Errors of each: CTOK_E_FILE_IO (detail: errno) naming the path; CTOK_E_MEMORY. On failure of
// _open there is nothing to close.
ctok_status output_open(output_file *out, const char *path, ctok_error *error);
ctok_status output_write(output_file *out, const void *bytes, size_t num_bytes, ctok_error *error);
ctok_status output_flush(output_file *out, ctok_error *error);  // to the disk

// Gives the file its name, if what stands under the temporary name is still this file, and removes
// what killed writers of the same target have left.
ctok_status output_publish(output_file *out, ctok_error *error);
void output_close(output_file *out);  // removes the file unless it was published

#endif

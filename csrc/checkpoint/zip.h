// The directory of a zip archive in memory: names, sizes and places of its records, zip64 included.
// Every number is checked against the archive's size before it is used. What it leaves out:
// inflating, encryption, checksums, archives in several parts or with bytes before the first
// record. Called by torch.c.
#ifndef CTOK_CHECKPOINT_ZIP_H
#define CTOK_CHECKPOINT_ZIP_H

#include "reader.h"

typedef struct {
    text name;               // inside the mapped file
    uint16_t flags, method;  // method 0: stored, 8: deflated
    uint64_t stored_bytes, num_bytes;
    uint64_t header_offset;  // of the record's local header
} zip_entry;

typedef struct {
    checkpoint_map map;
    uint64_t directory_offset;  // records end here
    zip_entry *entries;         // sorted by name, names unique; owned
    size_t num_entries;
} zip_archive;

// *out is the caller's: zip_close. On failure there is nothing to close. `map` stays the caller's
// and must outlive *out.
ctok_status zip_open(zip_archive *out, checkpoint_map map, ctok_error *error);
void zip_close(zip_archive *archive);

const zip_entry *zip_find(const zip_archive *archive, text name);  // NULL where there is none

// Finds where a stored record's num_bytes lie; they are not fetched. Errors: a deflated or
// encrypted record.
ctok_status zip_record(const uint8_t **data, const zip_archive *archive, const zip_entry *entry,
                       ctok_error *error);

#endif

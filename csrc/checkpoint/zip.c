// Reads a zip archive's central directory. Ref: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7 (local
// header), 4.3.12 (central header), 4.3.14 to 4.3.16 (zip64 end record, its locator, end record),
// 4.5.3 (zip64 extra field).
// What it leaves out: see zip.h. Called by torch.c.
#include "zip.h"

#include <stdlib.h>

enum {
    END_BYTES = 22,
    END64_BYTES = 56,
    LOCATOR_BYTES = 20,
    CENTRAL_BYTES = 46,
    LOCAL_BYTES = 30,
    MAX_ENTRIES = 1 << 16,
    MAX_COMMENT_BYTES = 65535
};
static const uint32_t END_MARK = 0x06054b50, END64_MARK = 0x06064b50, LOCATOR_MARK = 0x07064b50,
                      CENTRAL_MARK = 0x02014b50, LOCAL_MARK = 0x04034b50;

typedef struct {
    uint64_t num_entries, num_bytes, offset, limit;  // the directory must end at or before `limit`
    uint32_t disk;
} directory;

#define FAIL(offset, ...) ctok_fail(error, CTOK_E_FILE_FORMAT, (int64_t)(offset), __VA_ARGS__)

static ctok_status find_directory(directory *out, checkpoint_map map, ctok_error *error) {
    const uint8_t *bytes = map.bytes;
    size_t num_bytes = map.num_bytes;
    size_t at = num_bytes, lowest = num_bytes > END_BYTES + MAX_COMMENT_BYTES
                                        ? num_bytes - END_BYTES - MAX_COMMENT_BYTES
                                        : 0;
    bool is_found = false;
    uint64_t tail = lowest > LOCATOR_BYTES ? lowest - LOCATOR_BYTES : 0;
    CTOK_TRY(map_fetch(map, tail, num_bytes - tail, error));
    if (num_bytes >= END_BYTES) {
        for (at = num_bytes - END_BYTES + 1; at > lowest && !is_found;) {
            at--;
            is_found = load_u32(bytes + at) == END_MARK &&
                       load_u16(bytes + at + 20) == num_bytes - END_BYTES - at;
        }
    }
    if (!is_found)
        return FAIL(
            num_bytes,
            "a zip archive without its end record: the file is cut short, or not a zip archive");

    const uint8_t *end = bytes + at;
    *out = (directory){load_u16(end + 10), load_u32(end + 12), load_u32(end + 16), at,
                       load_u16(end + 4)};
    bool is_zip64 =
        out->num_entries == UINT16_MAX || out->num_bytes == UINT32_MAX || out->offset == UINT32_MAX;
    if (is_zip64 && at >= LOCATOR_BYTES && load_u32(end - LOCATOR_BYTES) == LOCATOR_MARK) {
        uint64_t at64 = load_u64(end - LOCATOR_BYTES + 8), last = at - LOCATOR_BYTES;
        bool is_inside = last >= END64_BYTES && at64 <= last - END64_BYTES;
        if (is_inside) CTOK_TRY(map_fetch(map, at64, END64_BYTES, error));
        if (!is_inside || load_u32(bytes + at64) != END64_MARK)
            return FAIL(at - LOCATOR_BYTES,
                        "the zip64 locator does not lead to a zip64 end record");
        const uint8_t *end64 = bytes + at64;
        *out = (directory){load_u64(end64 + 32), load_u64(end64 + 40), load_u64(end64 + 48), at64,
                           load_u32(end64 + 16)};
    }
    if (out->disk != 0) return FAIL(at, "a zip archive in several parts is not supported");
    if (out->offset > out->limit || out->num_bytes > out->limit - out->offset)
        return FAIL(
            at, "the zip directory (%llu bytes at %llu) does not fit before its end record at %llu",
            (unsigned long long)out->num_bytes, (unsigned long long)out->offset,
            (unsigned long long)out->limit);
    if (out->num_entries > MAX_ENTRIES || out->num_entries > out->num_bytes / CENTRAL_BYTES)
        return FAIL(
            at,
            "%llu zip entries: expected at most %d, and a directory of %d bytes or more for each",
            (unsigned long long)out->num_entries, MAX_ENTRIES, CENTRAL_BYTES);
    return CTOK_OK;
}

// The 64-bit fields stand in a fixed order, each only where its 32-bit field is all ones.
static bool read_zip64_extra(zip_entry *entry, const uint8_t *extra, size_t num_bytes) {
    uint64_t *fields[] = {&entry->num_bytes, &entry->stored_bytes, &entry->header_offset};
    size_t needed = 0;
    for (int i = 0; i < 3; i++) needed += *fields[i] == UINT32_MAX ? 8 : 0;
    if (needed == 0) return true;
    while (num_bytes >= 4) {
        size_t field_bytes = load_u16(extra + 2);
        if (field_bytes > num_bytes - 4) return false;
        if (load_u16(extra) == 1) {
            if (field_bytes < needed) return false;
            extra += 4;
            for (int i = 0; i < 3; i++) {
                if (*fields[i] != UINT32_MAX) continue;
                *fields[i] = load_u64(extra);
                extra += 8;
            }
            return true;
        }
        extra += 4 + field_bytes;
        num_bytes -= 4 + field_bytes;
    }
    return false;
}

static int compare_text(text a, text b) {
    size_t n = a.num_bytes < b.num_bytes ? a.num_bytes : b.num_bytes;
    int order = memcmp(a.bytes, b.bytes, n);
    return order ? order : (a.num_bytes > b.num_bytes) - (a.num_bytes < b.num_bytes);
}

static int compare_entries(const void *a, const void *b) {
    return compare_text(((const zip_entry *)a)->name, ((const zip_entry *)b)->name);
}

static ctok_status read_entries(zip_archive *out, const directory *where, ctok_error *error) {
    uint64_t at = where->offset, end = at + where->num_bytes;
    for (size_t i = 0; i < out->num_entries; i++) {
        const uint8_t *p = out->map.bytes + at;
        if (end - at < CENTRAL_BYTES || load_u32(p) != CENTRAL_MARK)
            return FAIL(at, "zip entry %zu of %zu: expected a directory header at %llu", i,
                        out->num_entries, (unsigned long long)at);
        size_t name_bytes = load_u16(p + 28), extra_bytes = load_u16(p + 30),
               comment_bytes = load_u16(p + 32);
        if (end - at - CENTRAL_BYTES < name_bytes + extra_bytes + comment_bytes)
            return FAIL(at, "zip entry %zu of %zu runs past the end of the directory", i,
                        out->num_entries);
        zip_entry *entry = &out->entries[i];
        *entry = (zip_entry){{(const char *)p + CENTRAL_BYTES, name_bytes},
                             load_u16(p + 8),
                             load_u16(p + 10),
                             load_u32(p + 20),
                             load_u32(p + 24),
                             load_u32(p + 42)};
        if (!read_zip64_extra(entry, p + CENTRAL_BYTES + name_bytes, extra_bytes))
            return FAIL(at, "zip entry %s: its zip64 field is missing or cut short",
                        text_shown(entry->name).s);
        at += CENTRAL_BYTES + name_bytes + extra_bytes + comment_bytes;
    }
    qsort(out->entries, out->num_entries, sizeof *out->entries, compare_entries);
    for (size_t i = 1; i < out->num_entries; i++)
        if (text_equal(out->entries[i - 1].name, out->entries[i].name))
            return FAIL(where->offset, "two zip entries have the name %s",
                        text_shown(out->entries[i].name).s);
    return CTOK_OK;
}

ctok_status zip_open(zip_archive *out, checkpoint_map map, ctok_error *error) {
    directory where = {0};
    CTOK_TRY(find_directory(&where, map, error));
    CTOK_TRY(map_fetch(map, where.offset, where.num_bytes, error));
    *out = (zip_archive){map, where.offset, NULL, where.num_entries};
    size_t entries_bytes = (out->num_entries + 1) * sizeof *out->entries;
    out->entries = malloc(entries_bytes);
    if (!out->entries)
        return ctok_fail(error, CTOK_E_MEMORY, (int64_t)entries_bytes,
                         "no memory for %zu zip entries", out->num_entries);
    ctok_status status = read_entries(out, &where, error);
    if (status != CTOK_OK) zip_close(out);
    return status;
}

void zip_close(zip_archive *archive) {
    free(archive->entries);
    *archive = (zip_archive){0};
}

const zip_entry *zip_find(const zip_archive *archive, text name) {
    zip_entry key = {.name = name};
    return bsearch(&key, archive->entries, archive->num_entries, sizeof key, compare_entries);
}

ctok_status zip_record(const uint8_t **data, const zip_archive *archive, const zip_entry *entry,
                       ctok_error *error) {
    shown name = text_shown(entry->name);
    uint64_t at = entry->header_offset, end = archive->directory_offset;
    if (entry->method != 0)
        return FAIL(at,
                    "record %s is %s: ctok reads stored records only (repack the archive without "
                    "compression)",
                    name.s, entry->method == 8 ? "deflated" : "compressed");
    if (entry->flags & 1) return FAIL(at, "record %s is encrypted", name.s);
    if (entry->stored_bytes != entry->num_bytes)
        return FAIL(at, "record %s is stored, but with two sizes: %llu and %llu bytes", name.s,
                    (unsigned long long)entry->stored_bytes, (unsigned long long)entry->num_bytes);
    bool is_inside =
        at <= end && end - at >= LOCAL_BYTES && end - at - LOCAL_BYTES >= entry->name.num_bytes;
    if (is_inside)
        CTOK_TRY(map_fetch(archive->map, at, LOCAL_BYTES + entry->name.num_bytes, error));
    if (!is_inside || load_u32(archive->map.bytes + at) != LOCAL_MARK)
        return FAIL(at, "record %s: expected its header at %llu", name.s, (unsigned long long)at);
    const uint8_t *p = archive->map.bytes + at;
    size_t name_bytes = load_u16(p + 26), extra_bytes = load_u16(p + 28);
    uint64_t left = end - at - LOCAL_BYTES;
    if (left < name_bytes + extra_bytes || left - name_bytes - extra_bytes < entry->num_bytes)
        return FAIL(at, "record %s: %llu bytes at %llu run into the directory at %llu", name.s,
                    (unsigned long long)entry->num_bytes, (unsigned long long)at,
                    (unsigned long long)end);
    if (!text_equal((text){(const char *)p + LOCAL_BYTES, name_bytes}, entry->name))
        return FAIL(at, "record %s: its header at %llu has another name", name.s,
                    (unsigned long long)at);
    *data = p + LOCAL_BYTES + name_bytes + extra_bytes;
    return CTOK_OK;
}

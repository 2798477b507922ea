// Tests csrc/base/sha256: answers that others published, at every length around the padding's
// edges, in pieces of every size; and the processor's instructions against the scalar reference. A
// case prints one TAP line.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/base/sha256.h"
#include "tap.h"

static void hash(char hex[65], sha256_blocks blocks, const void *bytes, size_t num_bytes,
                 size_t piece_bytes) {
    sha256 h;
    uint8_t out[SHA256_BYTES];
    sha256_start(&h, blocks);
    for (size_t at = 0; at < num_bytes; at += piece_bytes)
        sha256_add(&h, (const uint8_t *)bytes + at,
                   num_bytes - at < piece_bytes ? num_bytes - at : piece_bytes);
    sha256_end(&h, out);
    sha256_hex(hex, out);
}

// Ref: FIPS 180-2, appendix B; the empty message and the two of NESSIE's set 1 as in RFC 6234's
// tests.
static void test_known(const char *name, sha256_blocks blocks) {
    static uint8_t million[1000000];
    memset(million, 'a', sizeof million);
    const struct {
        const char *what;
        const void *bytes;
        size_t n;
        const char *want;
    } cases[] = {
        {"nothing", "", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"two blocks", "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56,
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {"a million of a", million, sizeof million,
         "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char hex[65], what[96];
        hash(hex, blocks, cases[i].bytes, cases[i].n, 1 << 20);
        snprintf(what, sizeof what, "%s: %s", name, cases[i].what);
        report(strcmp(hex, cases[i].want) == 0, "%s", what);
    }
}

int main(void) {
    static uint8_t bytes[1024];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(i * 151 + (i >> 3));
    test_known("reference", sha256_reference);
    int are_pieces_equal = 1;
    for (size_t n = 0; n < 200; n++) {
        char whole[65], pieces[65];
        hash(whole, sha256_reference, bytes, n, sizeof bytes);
        for (size_t piece = 1; piece < 130; piece++) {
            hash(pieces, sha256_reference, bytes, n, piece);
            are_pieces_equal &= strcmp(whole, pieces) == 0;
        }
    }
    report(are_pieces_equal, "reference: 0 to 199 bytes in pieces of 1 to 129");
    sha256_blocks own = sha256_best();
    if (own != sha256_reference) {
        test_known("instructions", own);
        int are_equal = 1;
        for (size_t n = 0; n < sizeof bytes; n++) {
            char want[65], got[65];
            hash(want, sha256_reference, bytes, n, sizeof bytes);
            hash(got, own, bytes, n, 100 + n);
            are_equal &= strcmp(want, got) == 0;
        }
        report(are_equal, "instructions: 0 to 1023 bytes, as the reference");
    } else {
        report_skip("instructions", "this processor has none for SHA-256");
    }
    return report_end();
}

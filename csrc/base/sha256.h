// SHA-256 (FIPS 180-4) of bytes that come in pieces. Blocks of 64 bytes go through the scalar
// reference, or through the processor's own instructions where it has them (shani_sha256.c,
// armsha_sha256.c); both give the same bits. Who calls it: runtime/digest.
#ifndef CTOK_BASE_SHA256_H
#define CTOK_BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { SHA256_BYTES = 32, SHA256_BLOCK_BYTES = 64 };

// Updates the state with whole blocks of 64 bytes.
typedef void (*sha256_blocks)(uint32_t state[8], const uint8_t *bytes, size_t num_blocks);

typedef struct {
    sha256_blocks blocks;
    uint32_t state[8];
    uint64_t num_bytes;                // so far
    uint8_t held[SHA256_BLOCK_BYTES];  // the last num_bytes % 64 of them
} sha256;

void sha256_start(sha256 *h, sha256_blocks blocks);
void sha256_add(sha256 *h, const void *bytes, size_t num_bytes);
void sha256_end(sha256 *h, uint8_t out[SHA256_BYTES]);
void sha256_hex(char out[2 * SHA256_BYTES + 1], const uint8_t hash[SHA256_BYTES]);  // lower case,
                                                                                    // with a NUL

sha256_blocks sha256_best(void);  // that this processor runs
void sha256_reference(uint32_t state[8], const uint8_t *bytes, size_t num_blocks);

extern const uint32_t sha256_constants[64];  // of the rounds

// The block functions that use SHA instructions, in the files of those names: NULL where the
// processor has no such instructions.
sha256_blocks shani_sha256(void);   // x86-64
sha256_blocks armsha_sha256(void);  // arm64

#endif

// The scalar reference, and what is the same for all: pieces put together to blocks, and the
// padding at the end.
#include "sha256.h"

#include <string.h>

// Ref: FIPS 180-4, 4.2.2: the first 32 bits of the fractions of the cube roots of the first 64
// primes.
const uint32_t sha256_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate(uint32_t x, int bits) { return x >> bits | x << (32 - bits); }

static uint32_t load_big_endian(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void store_big_endian(uint8_t *p, uint32_t x) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(x >> (24 - 8 * i));
}

// Ref: FIPS 180-4, 6.2.2.
void sha256_reference(uint32_t state[8], const uint8_t *bytes, size_t num_blocks) {
    for (; num_blocks > 0; num_blocks--, bytes += SHA256_BLOCK_BYTES) {
        uint32_t w[64];
        for (int i = 0; i < 16; i++) w[i] = load_big_endian(bytes + 4 * i);
        for (int i = 16; i < 64; i++) {
            uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
            uint32_t s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
            w[i] = w[i - 16] + s0 + w[i - 7] + s1;
        }
        uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5],
                 g = state[6], h = state[7];
        for (int i = 0; i < 64; i++) {
            uint32_t s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25), choice = (e & f) ^ (~e & g);
            uint32_t s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22),
                     majority = (a & b) ^ (a & c) ^ (b & c);
            uint32_t t = h + s1 + choice + sha256_constants[i] + w[i];
            h = g, g = f, f = e, e = d + t;
            d = c, c = b, b = a, a = t + s0 + majority;
        }
        const uint32_t rounds[8] = {a, b, c, d, e, f, g, h};
        for (int i = 0; i < 8; i++) state[i] += rounds[i];
    }
}

sha256_blocks sha256_best(void) {
    sha256_blocks own = NULL;
#if defined(__x86_64__)
    own = shani_sha256();
#elif defined(__aarch64__)
    own = armsha_sha256();
#endif
    return own ? own : sha256_reference;
}

void sha256_start(sha256 *h, sha256_blocks blocks) {
    *h = (sha256){blocks,
                  {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c,
                   0x1f83d9ab, 0x5be0cd19},
                  0,
                  {0}};
}

void sha256_add(sha256 *h, const void *bytes, size_t num_bytes) {
    const uint8_t *p = bytes;
    size_t num_held = h->num_bytes % SHA256_BLOCK_BYTES;
    h->num_bytes += num_bytes;
    if (num_held > 0) {
        size_t n =
            SHA256_BLOCK_BYTES - num_held < num_bytes ? SHA256_BLOCK_BYTES - num_held : num_bytes;
        memcpy(h->held + num_held, p, n);
        if (num_held + n < SHA256_BLOCK_BYTES) return;
        h->blocks(h->state, h->held, 1);
        p += n;
        num_bytes -= n;
    }
    h->blocks(h->state, p, num_bytes / SHA256_BLOCK_BYTES);
    size_t num_left = num_bytes % SHA256_BLOCK_BYTES;
    if (num_left > 0) memcpy(h->held, p + num_bytes - num_left, num_left);
}

// A one bit, zeros, and the number of bits in the last eight bytes of a block.
void sha256_end(sha256 *h, uint8_t out[SHA256_BYTES]) {
    uint64_t num_bits = h->num_bytes * 8;
    uint8_t padding[SHA256_BLOCK_BYTES] = {0x80}, length[8];
    store_big_endian(length, (uint32_t)(num_bits >> 32));
    store_big_endian(length + 4, (uint32_t)num_bits);
    size_t num_held = h->num_bytes % SHA256_BLOCK_BYTES;
    sha256_add(h, padding, (num_held < 56 ? 56 : 120) - num_held);
    sha256_add(h, length, sizeof length);
    for (int i = 0; i < 8; i++) store_big_endian(out + 4 * i, h->state[i]);
}

void sha256_hex(char out[2 * SHA256_BYTES + 1], const uint8_t hash[SHA256_BYTES]) {
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < SHA256_BYTES; i++) {
        out[2 * i] = digits[hash[i] >> 4];
        out[2 * i + 1] = digits[hash[i] & 15];
    }
    out[2 * SHA256_BYTES] = 0;
}

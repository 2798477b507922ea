// Blocks of SHA-256 by the SHA extensions of x86-64: four rounds at a time, the state as two
// vectors, (a, b, e, f) and (c, d, g, h). Called through shani_sha256 alone, which asks the
// processor first.
// Ref: Intel, "Intel SHA Extensions: New Instructions Supporting the Secure Hash Algorithm on Intel
// Architecture Processors", 2013.
#include <cpuid.h>
#include <immintrin.h>

#include "sha256.h"

static void blocks(uint32_t state[8], const uint8_t *bytes, size_t num_blocks) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);  // bytes of each
                                                                                  // word
    __m128i dcba = _mm_loadu_si128((const __m128i *)state),
            hgfe = _mm_loadu_si128((const __m128i *)(state + 4));
    __m128i cdab = _mm_shuffle_epi32(dcba, 0xB1), efgh = _mm_shuffle_epi32(hgfe, 0x1B);
    __m128i abef = _mm_alignr_epi8(cdab, efgh, 8), cdgh = _mm_blend_epi16(efgh, cdab, 0xF0);
    for (; num_blocks > 0; num_blocks--, bytes += SHA256_BLOCK_BYTES) {
        __m128i abef_before = abef, cdgh_before = cdgh, w[4];
        for (int i = 0; i < 4; i++)
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(bytes + 16 * i)), swap);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {  // rounds 4i to 4i + 3
            __m128i sum = _mm_add_epi32(
                w[i & 3], _mm_loadu_si128((const __m128i *)(sha256_constants + 4 * i)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0E));
            if (i >= 12) continue;
            // Words 4i + 16 to 4i + 19: sigma0 of the next vector, the word seven before, sigma1 of
            // the last.
            __m128i next = w[(i + 1) & 3], last = w[(i + 3) & 3];
            __m128i grown = _mm_add_epi32(_mm_sha256msg1_epu32(w[i & 3], next),
                                          _mm_alignr_epi8(last, w[(i + 2) & 3], 4));
            w[i & 3] = _mm_sha256msg2_epu32(grown, last);
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    __m128i feba = _mm_shuffle_epi32(abef, 0x1B), dchg = _mm_shuffle_epi32(cdgh, 0xB1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(feba, dchg, 0xF0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

sha256_blocks shani_sha256(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSSE3) || !(c & bit_SSE4_1)) return NULL;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_SHA)) return NULL;
    return blocks;
}

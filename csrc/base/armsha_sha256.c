// Blocks of SHA-256 by the SHA2 instructions of arm64: four rounds at a time, the state as two
// vectors, (a, b, c, d) and (e, f, g, h). Called through armsha_sha256 alone, which asks Linux
// first; every Mac on arm64 has them.
// Ref: Arm Architecture Reference Manual, SHA256H, SHA256H2, SHA256SU0, SHA256SU1.
#include <arm_neon.h>
#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "sha256.h"

static void blocks(uint32_t state[8], const uint8_t *bytes, size_t num_blocks) {
    uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);
    for (; num_blocks > 0; num_blocks--, bytes += SHA256_BLOCK_BYTES) {
        uint32x4_t abcd_before = abcd, efgh_before = efgh, w[4];
        for (int i = 0; i < 4; i++)
            w[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(bytes + 16 * i)));
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {  // rounds 4i to 4i + 3
            uint32x4_t sum = vaddq_u32(w[i & 3], vld1q_u32(sha256_constants + 4 * i)),
                       before = abcd;
            abcd = vsha256hq_u32(abcd, efgh, sum);
            efgh = vsha256h2q_u32(efgh, before, sum);
            // Computes words 4i + 16 to 4i + 19 of the message schedule.
            if (i < 12)
                w[i & 3] = vsha256su1q_u32(vsha256su0q_u32(w[i & 3], w[(i + 1) & 3]),
                                           w[(i + 2) & 3], w[(i + 3) & 3]);
        }
        abcd = vaddq_u32(abcd, abcd_before);
        efgh = vaddq_u32(efgh, efgh_before);
    }
    vst1q_u32(state, abcd);
    vst1q_u32(state + 4, efgh);
}

sha256_blocks armsha_sha256(void) {
#if defined(__linux__)
    if (getauxval(AT_HWCAP) & HWCAP_SHA2) return blocks;
#elif defined(__APPLE__)
    return blocks;
#endif
    return NULL;
}

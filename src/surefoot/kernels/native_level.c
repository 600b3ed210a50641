/* The loops of native.c for one instruction set: LEVEL 0 portable, 1 AVX2, 2 AVX-512.
 *
 * GCC's and Clang's vector types carry the arithmetic, so the loops are written once; the few
 * operations they lack or spell slowly are named below per level.
 */

#if LEVEL == 2
#define NAMED(name) name##_avx512
#define TARGET __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")))
#define BYTES 64
#define WIDEN(at) ((NAMED(doubles))_mm512_cvtps_pd(_mm256_loadu_ps((const float *)(at))))
#define LOW(x) ((NAMED(doubles))_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)(x))))
#define HIGH(x) ((NAMED(doubles))_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)(x), 1)))
#define MAX16(a, b) (NAMED(words16))_mm512_max_epi16((__m512i)(a), (__m512i)(b))
#define MAX32(a, b) (NAMED(words32))_mm512_max_epi32((__m512i)(a), (__m512i)(b))
#define MAX64(a, b) (NAMED(words64))_mm512_max_epi64((__m512i)(a), (__m512i)(b))
#define HALVES_LOW(x) ((NAMED(words32))_mm512_cvtph_ps(_mm512_castsi512_si256((__m512i)(x))))
#define HALVES_HIGH(x) ((NAMED(words32))_mm512_cvtph_ps(_mm512_extracti32x8_epi32((__m512i)(x), 1)))
#elif LEVEL == 1
#define NAMED(name) name##_avx2
#define TARGET __attribute__((target("avx2,fma,f16c")))
#define BYTES 32
#define WIDEN(at) ((NAMED(doubles))_mm256_cvtps_pd(_mm_loadu_ps((const float *)(at))))
#define LOW(x) ((NAMED(doubles))_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)(x))))
#define HIGH(x) ((NAMED(doubles))_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)(x), 1)))
#define MAX16(a, b) (NAMED(words16))_mm256_max_epi16((__m256i)(a), (__m256i)(b))
#define MAX32(a, b) (NAMED(words32))_mm256_max_epi32((__m256i)(a), (__m256i)(b))
#define HALVES_LOW(x) ((NAMED(words32))_mm256_cvtph_ps(_mm256_castsi256_si128((__m256i)(x))))
#define HALVES_HIGH(x) ((NAMED(words32))_mm256_cvtph_ps(_mm256_extracti128_si256((__m256i)(x), 1)))
#else
#define NAMED(name) name##_baseline
#define TARGET
#define BYTES 16
#if defined(__x86_64__)
#define LOW(x) ((NAMED(doubles))_mm_cvtps_pd((__m128)(x)))
#define HIGH(x) ((NAMED(doubles))_mm_cvtps_pd(_mm_movehl_ps((__m128)(x), (__m128)(x))))
#define MAX16(a, b) (NAMED(words16))_mm_max_epi16((__m128i)(a), (__m128i)(b))
#elif defined(__aarch64__)
#define LOW(x) ((NAMED(doubles))vcvt_f64_f32(vget_low_f32((float32x4_t)(x))))
#define HIGH(x) ((NAMED(doubles))vcvt_high_f64_f32((float32x4_t)(x)))
#else
#define LOW(x) ((NAMED(doubles)){((NAMED(singles))(x))[0], ((NAMED(singles))(x))[1]})
#define HIGH(x) ((NAMED(doubles)){((NAMED(singles))(x))[2], ((NAMED(singles))(x))[3]})
#endif
#endif

/* A vector register seen as doubles, singles or integers; BYTES wide at every level. */
typedef double NAMED(doubles) __attribute__((vector_size(BYTES)));
typedef float NAMED(singles) __attribute__((vector_size(BYTES)));
typedef int16_t NAMED(words16) __attribute__((vector_size(BYTES)));
typedef int32_t NAMED(words32) __attribute__((vector_size(BYTES)));
typedef int64_t NAMED(words64) __attribute__((vector_size(BYTES)));

/* Maxima that an instruction set lacks. */
#define LARGER(width)                                                                              \
    INLINE TARGET NAMED(words##width)                                                              \
        NAMED(larger##width)(NAMED(words##width) a, NAMED(words##width) b) {                       \
        NAMED(words##width) above = a > b;                                                         \
        return (a & above) | (b & ~above);                                                         \
    }
LARGER(16)
LARGER(32)
LARGER(64)
#undef LARGER
#ifndef MAX16
#define MAX16 NAMED(larger16)
#endif
#ifndef MAX32
#define MAX32 NAMED(larger32)
#endif
#ifndef MAX64
#define MAX64 NAMED(larger64)
#endif

/* What one block has shown so far. The integer lanes are as wide as the array's elements. */
struct NAMED(tally) {
    NAMED(doubles) square[4], sum[4];
    NAMED(words64) top, zeros, nonfinite;
};

INLINE TARGET NAMED(words64) NAMED(load)(const char *at) {
    NAMED(words64) raw;
    memcpy(&raw, at, sizeof raw);
    return raw;
}

/* Count zeros and non-finite elements, keep the largest magnitude; return the bits, masked. */
#define SURVEY(width)                                                                              \
    INLINE TARGET NAMED(words##width)                                                              \
        NAMED(survey##width)(NAMED(words64) raw, enum kind kind, int mode,                   \
                             struct NAMED(tally) *tally) {                                         \
        NAMED(words##width) bits = (NAMED(words##width))raw;                                       \
        NAMED(words##width) top = (NAMED(words##width))tally->top;                                 \
        NAMED(words##width) size = bits & (int##width##_t)FORMATS[kind].magnitude;                 \
        if (mode & MASKED) {                                                                       \
            NAMED(words##width) bad = size > (int##width##_t)(FORMATS[kind].infinite - 1);         \
            tally->nonfinite = (NAMED(words64))((NAMED(words##width))tally->nonfinite - bad);      \
            size &= ~bad;                                                                          \
            bits &= ~bad;                                                                          \
        }                                                                                          \
        tally->zeros = (NAMED(words64))((NAMED(words##width))tally->zeros - (size == 0));          \
        tally->top = (NAMED(words64))MAX##width(size, top);                                        \
        return bits;                                                                               \
    }
SURVEY(16)
SURVEY(32)
SURVEY(64)
#undef SURVEY

/* The single (double) with these bits times 2^raise. Adding to the exponent field does it for
 * normal numbers; a subnormal is given the exponent 1 and the implied one is subtracted again. */
INLINE TARGET NAMED(words32) NAMED(lift32)(NAMED(words32) bits, int32_t raise) {
    NAMED(words32) size = bits & INT32_MAX, normal = size > (1 << 23) - 1;
    NAMED(words32) raised = size + ((raise + 1) << 23) - (normal & (1 << 23));
    NAMED(singles) value = (NAMED(singles))raised - (NAMED(singles))(~normal & ((raise + 1) << 23));
    return (NAMED(words32))value | (bits & INT32_MIN);
}

INLINE TARGET NAMED(doubles) NAMED(lift64)(NAMED(words64) bits, int64_t raise) {
    NAMED(words64) size = bits & INT64_MAX, normal = size > ((int64_t)1 << 52) - 1;
    NAMED(words64) raised = size + ((raise + 1) << 52) - (normal & ((int64_t)1 << 52));
    NAMED(doubles) value = (NAMED(doubles))raised - (NAMED(doubles))(~normal & ((raise + 1) << 52));
    return (NAMED(doubles))((NAMED(words64))value | (bits & INT64_MIN));
}

INLINE TARGET void NAMED(add)(NAMED(doubles) value, int slot, struct NAMED(tally) *tally) {
    tally->square[slot] += value * value;
    tally->sum[slot] += value;
}

INLINE TARGET void NAMED(add_singles)(NAMED(words32) bits, int mode, int slot,
                                      struct NAMED(tally) *tally) {
    if (mode & SCALED) bits = NAMED(lift32)(bits, RAISE_SINGLE);
    NAMED(add)(LOW(bits), slot, tally);
    NAMED(add)(HIGH(bits), slot + 1, tally);
}

/* One step: four registers of doubles, from four of doubles, two of singles or one of halves. */
#define STEP(kind) (int64_t)(BYTES * FORMATS[kind].bytes / 2)

INLINE TARGET void NAMED(step)(const char *at, enum kind kind, int mode,
                               struct NAMED(tally) *tally) {
    if (kind == DOUBLE) {
        for (int slot = 0; slot < 4; slot++) {
            NAMED(words64) bits = NAMED(load)(at + slot * BYTES);
            bits = NAMED(survey64)(bits, kind, mode, tally);
            NAMED(doubles) value = (NAMED(doubles))bits;
            if (mode & SCALED) value = NAMED(lift64)(bits, RAISE_DOUBLE);
            if (mode & SHRUNK) value *= 0x1p-600;
            NAMED(add)(value, slot, tally);
        }
    } else if (kind == SINGLE) {
        for (int slot = 0; slot < 4; slot += 2) {
            const char *here = at + slot / 2 * BYTES;
            NAMED(words32) bits = NAMED(survey32)(NAMED(load)(here), kind, mode, tally);
#ifdef WIDEN
            if (mode == PLAIN) { /* from memory it is one operation, from a register two */
                NAMED(add)(WIDEN(here), slot, tally);
                NAMED(add)(WIDEN(here + BYTES / 2), slot + 1, tally);
                continue;
            }
#endif
            NAMED(add_singles)(bits, mode, slot, tally);
        }
    } else {
        NAMED(words32) pairs =
            (NAMED(words32))NAMED(survey16)(NAMED(load)(at), kind, mode, tally);
#ifdef HALVES_LOW
        if (kind == HALF) {
            NAMED(add_singles)(HALVES_LOW(pairs), mode, 0, tally);
            NAMED(add_singles)(HALVES_HIGH(pairs), mode, 2, tally);
            return;
        }
#endif
        NAMED(words32) even = pairs << 16, odd = pairs & (int32_t)0xffff0000;
        if (kind == HALF) { /* from 5 bits of exponent to 8: shift by 3 and mend the bias */
            even = NAMED(lift32)((even >> 3 & 0x0fffffff) | (even & INT32_MIN), 112);
            odd = NAMED(lift32)((odd >> 3 & 0x0fffffff) | (odd & INT32_MIN), 112);
        }
        NAMED(add_singles)(even, mode, 0, tally);
        NAMED(add_singles)(odd, mode, 2, tally);
    }
}

/* The sum or the largest of a register's lanes, as wide as the array's elements. */
INLINE TARGET int64_t NAMED(fold)(NAMED(words64) raw, int bytes, int largest) {
    int64_t folded = 0;
    union {
        NAMED(words64) raw;
        int16_t words16[BYTES / 2];
        int32_t words32[BYTES / 4];
        int64_t words64[BYTES / 8];
    } lanes = {raw};
    for (int i = 0; i < BYTES / bytes; i++) {
        int64_t lane = bytes == 2   ? lanes.words16[i]
                       : bytes == 4 ? lanes.words32[i]
                                    : lanes.words64[i];
        if (!largest) folded = (int64_t)((uint64_t)folded + (uint64_t)lane); /* may wrap */
        else if (lane > folded) folded = lane;
    }
    return folded;
}

/* Read up to one block in one mode. */
INLINE TARGET struct total NAMED(read_block)(const char *at, int64_t count, enum kind kind,
                                             int mode) {
    struct NAMED(tally) tally = {0};
    struct total part = {0};
    const int bytes = FORMATS[kind].bytes;
    const char *end = at + count * bytes;
    for (; end - at >= STEP(kind); at += STEP(kind)) {
        for (int line = 0; line < STEP(kind); line += 64) __builtin_prefetch(at + AHEAD + line);
        NAMED(step)(at, kind, mode, &tally);
    }
    if (at < end) { /* the rest, followed by zeros that are not counted */
        char rest[4 * BYTES] = {0};
        memcpy(rest, at, (size_t)(end - at));
        NAMED(step)(rest, kind, mode, &tally);
        part.zeros = -(STEP(kind) - (end - at)) / bytes;
    }
    NAMED(doubles) square = (tally.square[0] + tally.square[1]) + (tally.square[2] + tally.square[3]);
    NAMED(doubles) sum = (tally.sum[0] + tally.sum[1]) + (tally.sum[2] + tally.sum[3]);
    for (int i = 0; i < BYTES / 8; i++) part.square += square[i], part.sum += sum[i];
    if (mode & SCALED && kind != DOUBLE) part.square *= 0x1p-128, part.sum *= 0x1p-64;
    if (mode & MASKED) part.nonfinite = NAMED(fold)(tally.nonfinite, bytes, 0);
    part.zeros += NAMED(fold)(tally.zeros, bytes, 0) - part.nonfinite;
    part.top = (uint64_t)NAMED(fold)(tally.top, bytes, 1);
    return part;
}

/* All blocks of an array. A block found unfit for its mode is read again; the mode that fitted
 * is tried first on the next, since vanished or exploded gradients come in long stretches. */
INLINE TARGET void NAMED(walk)(const char *data, int64_t count, enum kind kind, int mode,
                               struct total *total) {
    const struct format *format = &FORMATS[kind];
    const int64_t size = BLOCK_BYTES / format->bytes;
    const int given = mode != PLAIN; /* a second pass over doubles: its mode fits them all */
    *total = (struct total){0};
    while (count > 0) {
        int64_t length = count < size ? count : size;
        struct total part;
        int used = mode;
        switch (used) {
        case PLAIN: part = NAMED(read_block)(data, length, kind, PLAIN); break;
        case MASKED: part = NAMED(read_block)(data, length, kind, MASKED); break;
        case SCALED: part = NAMED(read_block)(data, length, kind, SCALED); break;
        case SCALED | MASKED: part = NAMED(read_block)(data, length, kind, SCALED | MASKED); break;
        default: part = NAMED(read_block)(data, length, kind, SHRUNK | MASKED);
        }
        if (!given) {
            int tiny = kind != DOUBLE && part.top > 0 && part.top < format->tiny;
            int overflown = part.top >= format->infinite; /* only where it was not masked */
            mode = (tiny ? SCALED : 0) | (overflown || part.nonfinite ? MASKED : 0);
            if (overflown || (part.top > 0 && tiny != (used >= SCALED))) continue;
        }
        total->square += part.square;
        total->sum += part.sum;
        total->zeros += part.zeros;
        total->nonfinite += part.nonfinite;
        if (part.top > total->top) total->top = part.top;
        data += length * format->bytes;
        count -= length;
    }
}

static TARGET void NAMED(scan)(enum kind kind, int mode, const char *data, int64_t count,
                               struct total *total) {
    if (kind == SINGLE) NAMED(walk)(data, count, SINGLE, mode, total);
    else if (kind == DOUBLE) NAMED(walk)(data, count, DOUBLE, mode, total);
    else if (kind == BRAIN) NAMED(walk)(data, count, BRAIN, mode, total);
    else NAMED(walk)(data, count, HALF, mode, total);
}

static TARGET uint64_t NAMED(read)(const char *data, int64_t bytes) {
    NAMED(words64) sum[4] = {0};
    int64_t at = 0;
    for (; at + 4 * BYTES <= bytes; at += 4 * BYTES) {
        for (int line = 0; line < 4 * BYTES; line += 64)
            __builtin_prefetch(data + at + AHEAD + line);
        for (int i = 0; i < 4; i++) sum[i] ^= NAMED(load)(data + at + i * BYTES);
    }
    return (uint64_t)NAMED(fold)(sum[0] ^ sum[1] ^ sum[2] ^ sum[3], 8, 0);
}

#undef NAMED
#undef TARGET
#undef BYTES
#undef WIDEN
#undef LOW
#undef HIGH
#undef STEP
#undef MAX16
#undef MAX32
#undef MAX64
#undef HALVES_LOW
#undef HALVES_HIGH

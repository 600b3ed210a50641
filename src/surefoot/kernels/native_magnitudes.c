/* In which octaves magnitudes lie, on a sample of each array: a histogram of exponents.
 *
 * Exponents are read from the bits, so the floating point mode has no part in it. An increment
 * waits for the one before it where both go to one counter, and most do: hence many counters for
 * each exponent, which neighbours take in turn.
 */

enum { OCTAVES = 24, WIDTH = OCTAVES + 2 }; /* a row: top octave, share of each, share of the rest */
enum { STRETCH = 512, STRETCHES = 4 };      /* elements read together; how many times an array */
enum { TURNS = 16, FIELDS = 2048 };

struct tally {
    uint32_t fields[FIELDS][TURNS]; /* how often each exponent field was seen; zeros and subnormals
                                       share the first, non-finite elements have the last */
    int64_t subnormal[64];          /* by their highest bit */
    int64_t zeros;
    uint64_t low, high;             /* bits of the smallest and largest magnitude */
};

#define COUNT(bits)                                                                                \
    static void count##bits(const uint##bits##_t *at, int64_t n, int mantissa,                     \
                            struct tally *tally) {                                                 \
        const uint##bits##_t mask = (uint##bits##_t)-1 >> 1;                                       \
        uint##bits##_t low = mask, high = 0, zeros = 0; /* n fits */                               \
        for (int64_t i = 0; i < n; i++) {                                                          \
            const uint##bits##_t size = at[i] & mask;                                              \
            low = size < low ? size : low;                                                         \
            high = size > high ? size : high;                                                      \
            zeros += size == 0;                                                                    \
        }                                                                                          \
        int64_t done = 0;                                                                          \
        for (; done + TURNS <= n; done += TURNS)                                                   \
            for (int k = 0; k < TURNS; k++)                                                        \
                tally->fields[(at[done + k] & mask) >> mantissa][k]++;                             \
        for (; done < n; done++) tally->fields[(at[done] & mask) >> mantissa][0]++;                \
        if (low >> mantissa == 0) /* the field does not tell the octave of a subnormal */          \
            for (int64_t i = 0; i < n; i++) {                                                      \
                const uint64_t size = at[i] & mask;                                                \
                if (size && !(size >> mantissa)) tally->subnormal[63 - __builtin_clzll(size)]++;   \
            }                                                                                      \
        tally->zeros += zeros;                                                                     \
        if (low < tally->low) tally->low = low;                                                    \
        if (high > tally->high) tally->high = high;                                                \
    }
COUNT(16)
COUNT(32)
COUNT(64)
#undef COUNT

/* Write the row of what was counted and set the counters back. `unit`: exponent of the smallest
 * subnormal, in octaves of which everything is told: field f stands for f - 1 + mantissa. */
static void settle(int mantissa, int unit, struct tally *tally, double *row) {
    const int low = (int)(tally->low >> mantissa), high = (int)(tally->high >> mantissa);
    const int last = mantissa == 52 ? 2047 : mantissa == 10 ? 31 : 255;
    int64_t counts[FIELDS + 64], finite = tally->zeros;
    int top = -1, from = low ? low - 1 + mantissa : 0;
    if (low == 0)
        for (int i = 0; i < mantissa; i++) {
            counts[i] = tally->subnormal[i];
            tally->subnormal[i] = 0;
            if (counts[i]) top = i, finite += counts[i];
        }
    for (int field = low; field <= high; field++) {
        int64_t count = 0;
        for (int k = 0; k < TURNS; k++) count += tally->fields[field][k];
        memset(tally->fields[field], 0, sizeof tally->fields[field]);
        if (field == 0 || field == last) continue;
        counts[field - 1 + mantissa] = count;
        if (count) top = field - 1 + mantissa, finite += count;
    }
    for (int c = 0; c < WIDTH; c++) row[c] = 0.0;
    row[0] = top < 0 ? NAN : (double)(top + unit);
    for (int i = from; i <= top; i++)
        row[1 + (top - i < OCTAVES ? top - i : OCTAVES)] += (double)counts[i] / (double)finite;
    tally->zeros = 0;
    tally->low = UINT64_MAX;
    tally->high = 0;
}

/* Fill out[n][WIDTH] for arrays as surefoot_parameter_pass takes them. */
EXPORT void surefoot_magnitudes(int64_t n, const void *const *data, const int64_t *counts,
                                const int8_t *kinds, double *out) {
    static const int units[KINDS] = {[SINGLE] = -149, [DOUBLE] = -1074, [BRAIN] = -133, [HALF] = -24};
    struct tally tally;
    memset(&tally, 0, sizeof tally);
    tally.low = UINT64_MAX;
    for (int64_t i = 0; i < n; i++, out += WIDTH) {
        if (kinds[i] < 0 || !counts[i]) {
            for (int c = 0; c < WIDTH; c++) out[c] = NAN;
            continue;
        }
        const struct format *format = &FORMATS[kinds[i]];
        const int64_t whole = STRETCH * STRETCHES;
        const int64_t step = counts[i] <= whole ? STRETCH : (counts[i] - STRETCH) / (STRETCHES - 1);
        const int64_t rounds = counts[i] <= whole ? (counts[i] + STRETCH - 1) / STRETCH : STRETCHES;
        for (int64_t round = 0; round < rounds; round++) {
            const int64_t at = round * step, left = counts[i] - at;
            const void *from = (const char *)data[i] + at * format->bytes;
            const int64_t length = left < STRETCH ? left : STRETCH;
            if (format->bytes == 2) count16(from, length, format->mantissa, &tally);
            else if (format->bytes == 4) count32(from, length, format->mantissa, &tally);
            else count64(from, length, format->mantissa, &tally);
        }
        settle(format->mantissa, units[kinds[i]], &tally, out);
    }
}

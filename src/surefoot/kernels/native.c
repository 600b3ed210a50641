/* One-pass statistics over a list of arrays: norm, largest magnitude, mean, non-finite, zeros.
 *
 * Plain C with no Python and no torch in it: `native.py` calls it through ctypes, which releases
 * the GIL. GCC or Clang; any other compiler fails here and the eager kernel serves instead.
 *
 * This file holds the formats, the choice of instruction set and the two entry points; the loops
 * are in native_level.c, included once per instruction set. The caller passes the level it wants
 * and `surefoot_best_level` asks the CPU for the highest.
 *
 * Three habits keep the numbers right whatever the values and whatever the thread's floating
 * point mode. Squares and sums are taken in double: exact products for single, half and bfloat16.
 * Finiteness, zero and magnitude are read from the bits as integers. And a block that holds
 * non-finite or vanishing values is read once more, from cache, with those bits masked or scaled
 * by integer arithmetic, so subnormal operands (slow on some CPUs, zero in flush-to-zero mode)
 * never reach the floating point unit. All of it is vectorised.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif
#define INLINE static inline __attribute__((always_inline, unused))

enum kind { SINGLE, DOUBLE, BRAIN, HALF, KINDS };  /* the dtype codes of native.py */
enum column { NORM, MAXABS, MEAN, NONFINITE, ZEROS, COLUMNS };

/* How a block is read: PLAIN as it is; MASKED with non-finite elements as +0; SCALED multiplied
 * by 2^64 (double: 2^600); SHRUNK (double only) by 2^-600. The last two also combine with MASKED. */
enum { PLAIN = 0, MASKED = 1, SCALED = 2, SHRUNK = 4 };

struct format {
    int bytes, mantissa;    /* bytes of an element; bits of its fraction */
    uint64_t magnitude;     /* all bits but the sign */
    uint64_t infinite;      /* magnitudes from here on are infinite or NaN */
    uint64_t tiny, huge;    /* outside [tiny, huge) squares in double would lose digits or range */
};
/* Single and bfloat16 squares always fit a double: `tiny` there (2^-60) marks blocks that may be
 * all subnormal. Beside a magnitude of 2^-60 a subnormal adds less than double can resolve. Half
 * needs neither, its conversion to single is exact and normal. */
static const struct format FORMATS[KINDS] = {
    [SINGLE] = {4, 23, 0x7fffffff, 0x7f800000, (uint64_t)67 << 23, UINT64_MAX},
    [DOUBLE] = {8, 52, INT64_MAX, (uint64_t)0x7ff << 52, (uint64_t)573 << 52, (uint64_t)1503 << 52},
    [BRAIN] = {2, 7, 0x7fff, 0x7f80, 67 << 7, UINT64_MAX},
    [HALF] = {2, 10, 0x7fff, 0x7c00, 0, UINT64_MAX},
};
#define RAISE_SINGLE 64   /* SCALED multiplies by 2^64: 2^-149 becomes normal, 2^-60 stays small */
#define RAISE_DOUBLE 600  /* and by 2^600: squares of 2^-1074 .. 2^-450 become normal */

/* What is known of one array: square and sum over finite elements, in units of the scale. */
struct total {
    double square, sum;
    uint64_t top;  /* bits of the largest finite magnitude */
    int64_t zeros, nonfinite;
};

enum { BLOCK_BYTES = 16384, AHEAD = 4096 };  /* of the array; of software prefetch */

/* ---- floating point mode: ours while we read, the caller's again on return ------------------ */
#if defined(__x86_64__)
typedef unsigned fpmode;
enum { READING = 0x9fc0, EXACT = 0x1f80 };  /* subnormals as zero without assists; the default */
INLINE fpmode get_mode(void) { return _mm_getcsr(); }
INLINE void set_mode(fpmode mode) { _mm_setcsr(mode); }
#else
enum { READING = 0, EXACT = 0 };
#if defined(__aarch64__)
typedef uint64_t fpmode;
INLINE fpmode get_mode(void) { fpmode m; __asm__ volatile("mrs %0, fpcr" : "=r"(m)); return m; }
INLINE void set_mode(fpmode m) { __asm__ volatile("msr fpcr, %0" : : "r"(m)); }
#else
typedef int fpmode;
INLINE fpmode get_mode(void) { return 0; }
INLINE void set_mode(fpmode m) { (void)m; }
#endif
#endif
/* Compilers take floating point operations for indifferent to the mode: hold a value here. */
#define PIN(value) __asm__ volatile("" : "+m"(value) : : "memory")

/* ---- the instruction sets ------------------------------------------------------------------- */
#define LEVEL 0
#include "native_level.c"
#undef LEVEL
#if defined(__x86_64__)
#define LEVEL 1
#include "native_level.c"
#undef LEVEL
#define LEVEL 2
#include "native_level.c"
#undef LEVEL
#endif

#include "native_exchange.c"
#include "native_magnitudes.c"

typedef void (*scanner)(enum kind, int, const char *, int64_t, struct total *);
typedef uint64_t (*reader)(const char *, int64_t);
#if defined(__x86_64__)
static const scanner SCANNERS[] = {scan_baseline, scan_avx2, scan_avx512};
static const reader READERS[] = {read_baseline, read_avx2, read_avx512};
#else
static const scanner SCANNERS[] = {scan_baseline};
static const reader READERS[] = {read_baseline};
#endif

/* The best level this CPU and its operating system can run: 0 portable, 1 AVX2, 2 AVX-512. */
EXPORT int surefoot_best_level(void) {
#if defined(__x86_64__)
    unsigned a, b, c, d; /* older compilers cannot be asked for f16c by name */
    int f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
    __builtin_cpu_init();
    int wide = f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (wide && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return 2;
    return wide ? 1 : 0;
#else
    return 0;
#endif
}

/* The value of an element's magnitude bits; exact, also for subnormals in flush-to-zero mode. */
static double magnitude(enum kind kind, uint64_t bits) {
    const struct format *format = &FORMATS[kind];
    double value;
    if (kind != DOUBLE) {
        int64_t unit = kind == HALF ? 1023 - 15 : 1023 - 127; /* from its exponent to a double's */
        if (bits >> format->mantissa == 0) /* subnormal: a multiple of the smallest */
            return (double)bits * (kind == HALF ? 0x1p-24 : kind == BRAIN ? 0x1p-133 : 0x1p-149);
        bits = (bits << (52 - format->mantissa)) + ((uint64_t)unit << 52);
    }
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void describe(scanner scan, enum kind kind, const char *data, int64_t count, double *row) {
    struct total total = {0};
    double unit = 1.0; /* square and sum are those of the elements divided by it */
    scan(kind, PLAIN, data, count, &total);
    if (kind == DOUBLE && total.top > 0 && total.top < FORMATS[kind].tiny) {
        unit = 0x1p-600;
        scan(kind, SCALED | MASKED, data, count, &total);
    } else if (kind == DOUBLE && total.top >= FORMATS[kind].huge) {
        unit = 0x1p600;
        scan(kind, SHRUNK | MASKED, data, count, &total);
    }
    const int64_t finite = count - total.nonfinite;
    double norm = sqrt(total.square), mean = finite > 0 ? total.sum / (double)finite : 0.0;
    if (unit != 1.0) { /* the results may be subnormal */
        set_mode(EXACT);
        PIN(norm);
        PIN(mean);
        norm *= unit;
        mean *= unit;
        PIN(norm);
        PIN(mean);
        set_mode(READING);
    }
    row[NORM] = norm;
    row[MEAN] = mean;
    row[MAXABS] = magnitude(kind, total.top);
    row[NONFINITE] = (double)total.nonfinite;
    row[ZEROS] = (double)total.zeros;
}

/* Fill out[n][5]. A negative kind is a missing array: its row becomes NaN. Nothing is written
 * but `out`, nothing is kept. `level` must not exceed surefoot_best_level(). */
EXPORT void surefoot_parameter_pass(int level, int64_t n, const void *const *data,
                                    const int64_t *counts, const int8_t *kinds, double *out) {
    const fpmode callers = get_mode();
    set_mode(READING);
    for (int64_t i = 0; i < n; i++, out += COLUMNS) {
        if (kinds[i] >= 0)
            describe(SCANNERS[level], (enum kind)kinds[i], data[i], counts[i], out);
        else
            for (int c = 0; c < COLUMNS; c++) out[c] = NAN;
    }
    set_mode(callers);
}

/* The floor of any such pass: read all bytes once, as fast as this level can. Benchmarks only. */
EXPORT uint64_t surefoot_read_floor(int level, int64_t n, const void *const *data,
                                    const int64_t *bytes) {
    uint64_t sum = 0;
    for (int64_t i = 0; i < n; i++) sum += READERS[level](data[i], bytes[i]);
    return sum;
}

/* Where tensors lie: asked of PyTorch through the C table of DLPack 1.3, without a Python call each.
 *
 * Runs with the GIL held. Python's list is read through the pointer to its own PyList_GetItem that
 * the caller hands over, so that this file needs no headers of Python's either.
 */

struct exchanged { /* DLTensor of dlpack.h, whose layout is fixed for major version 1 */
    char *data;
    int32_t device, device_number;
    int32_t dimensions;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t offset;
};
enum { ON_CPU = 1, FLOATING = 2, BRAINLIKE = 4 }; /* DLDeviceType and DLDataTypeCode */

typedef int (*describer)(void *object, struct exchanged *out);
typedef void *(*getter)(void *list, intptr_t index);

/* Elements of a tensor that covers a gapless stretch of memory, each place once; else -1. */
INLINE int64_t gapless(const struct exchanged *tensor) {
    int64_t count = 1;
    int rows = 1; /* the usual order: the last dimension runs fastest */
    for (int d = tensor->dimensions - 1; d >= 0; d--) {
        if (tensor->strides && tensor->shape[d] != 1 && tensor->strides[d] != count) rows = 0;
        count *= tensor->shape[d];
    }
    if (rows || count <= 1) return count;
    int64_t covered = 1; /* any other order: each stride spans exactly what runs faster */
    while (covered < count) {
        int d = 0;
        while (d < tensor->dimensions && (tensor->shape[d] == 1 || tensor->strides[d] != covered)) d++;
        if (d == tensor->dimensions) return -1;
        covered *= tensor->shape[d];
    }
    return count;
}

INLINE int8_t kind_of(const struct exchanged *tensor) {
    if (tensor->device != ON_CPU || tensor->lanes != 1) return -1;
    if (tensor->code == BRAINLIKE) return tensor->bits == 16 ? BRAIN : -1;
    if (tensor->code != FLOATING) return -1;
    return tensor->bits == 32 ? SINGLE : tensor->bits == 64 ? DOUBLE : tensor->bits == 16 ? HALF : -1;
}

/* Fill the arrays that surefoot_parameter_pass takes from a list of tensors and `none`, and `bytes`
 * with what they hold together. Returns how many have a single element; -1 at the first that cannot
 * be read as it lies, with Python's error set where it was PyTorch that could not tell. */
EXPORT int64_t surefoot_locate(describer describe, getter item, const void *none, void *list,
                               int64_t n, const void **data, int64_t *counts, int8_t *kinds,
                               int64_t *bytes) {
    int64_t singles = 0;
    *bytes = 0;
    for (int64_t i = 0; i < n; i++) {
        void *object = item(list, (intptr_t)i);
        struct exchanged tensor;
        kinds[i] = -1;
        if (object == none) continue;
        if (!object || describe(object, &tensor)) return -1;
        counts[i] = gapless(&tensor);
        kinds[i] = kind_of(&tensor);
        if (counts[i] < 0 || kinds[i] < 0) return -1;
        data[i] = tensor.data + tensor.offset;
        singles += counts[i] == 1;
        *bytes += counts[i] * FORMATS[kinds[i]].bytes;
    }
    return singles;
}

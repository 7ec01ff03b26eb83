/* Kernels of PTX: their entries and parameters are read from the text, their work is done by the test's callback. */
#define _GNU_SOURCE
#include "standin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PARAMETERS 32

typedef struct {
    char name[128];
    int count;
    size_t offset[PARAMETERS], size[PARAMETERS], bytes;
} Kernel;

static KernelFn work;

EXPORT void standin_kernels(KernelFn function) { work = function; }

EXPORT CUresult cuLibraryLoadData(
    CUlibrary *library, const void *code, CUjit_option *options, void **values, unsigned count,
    CUlibraryOption *library_options, void **library_values, unsigned library_count
) {
    ENTER;
    NEEDS_CONTEXT;
    (void)options, (void)values, (void)count, (void)library_options, (void)library_values, (void)library_count;
    CUresult refused = unsafe_call(__func__);
    if (refused) return refused;
    if (!strstr(code, ".version")) return CUDA_ERROR_INVALID_PTX;
    *library = (CUlibrary)strdup(code);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuLibraryUnload(CUlibrary library) {
    ENTER;
    free(library);
    return CUDA_SUCCESS;
}

/* .param .u64 .ptr .global .align 1 NAME: bits say the size, which is the alignment too. */
EXPORT CUresult cuLibraryGetKernel(CUkernel *made, CUlibrary library, const char *name) {
    ENTER;
    char entry[160];
    snprintf(entry, sizeof entry, ".entry %s(", name);
    const char *at = strstr((const char *)library, entry);
    if (!at) return CUDA_ERROR_NOT_FOUND;
    Kernel *kernel = calloc(1, sizeof *kernel);
    snprintf(kernel->name, sizeof kernel->name, "%s", name);
    const char *end = strchr(at, ')');
    while ((at = strstr(at, ".param .")) && at < end && kernel->count < PARAMETERS) {
        at += strlen(".param .");
        size_t size = strtoul(at + 1, NULL, 10) / 8;
        kernel->bytes = (kernel->bytes + size - 1) / size * size;
        kernel->offset[kernel->count] = kernel->bytes;
        kernel->size[kernel->count++] = size;
        kernel->bytes += size;
    }
    *made = (CUkernel)kernel;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuKernelGetFunction(CUfunction *function, CUkernel kernel) {
    ENTER;
    NEEDS_CONTEXT;
    *function = (CUfunction)kernel;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuKernelGetAttribute(int *value, CUfunction_attribute attribute, CUkernel kernel, CUdevice device) {
    ENTER;
    (void)attribute, (void)kernel, (void)device;
    *value = 128;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction kernel, int threads, size_t shared) {
    ENTER;
    NEEDS_CONTEXT;
    (void)kernel, (void)shared;
    *blocks = threads > 1024 ? 0 : 8;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuKernelGetParamInfo(CUkernel handle, size_t index, size_t *offset, size_t *size) {
    ENTER;
    const Kernel *kernel = (Kernel *)handle;
    if (index >= (size_t)kernel->count) return CUDA_ERROR_INVALID_VALUE;
    *offset = kernel->offset[index];
    if (size) *size = kernel->size[index];
    return CUDA_SUCCESS;
}

/* An 8-byte parameter is a pointer, and Triton compiles for pointers that 16 divides. */
static void check_pointer(const Kernel *kernel, int index, uintptr_t address, int device) {
    char what[192];
    snprintf(what, sizeof what, "parameter %d of %s", index, kernel->name);
    if (!address) return;
    check_range(what, address, 1);
    if (address % 16) breach("%s is not aligned to 16 bytes", what);
    if (device_of(address) != device) breach("%s is no memory of device %d", what, device);
}

EXPORT CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **parameters, void **extra) {
    ENTER;
    NEEDS_CONTEXT;
    (void)extra;
    Stream *stream;
    CUresult result = find_stream(config->hStream, &stream);
    if (result) return result;
    const Kernel *kernel = (Kernel *)function;
    unsigned threads = config->blockDimX * config->blockDimY * config->blockDimZ;
    if (!config->gridDimX || !config->gridDimY || !config->gridDimZ || !threads || threads > 1024 ||
        config->sharedMemBytes > 48 << 10)
        return CUDA_ERROR_INVALID_VALUE;
    if (stream->context != current_context()) {
        breach("%s is launched on a stream of another context", kernel->name);
        return CUDA_ERROR_INVALID_HANDLE;
    }
    Node *node = new_node(KERNEL);
    node->data = calloc(1, kernel->bytes + 1);
    node->name = strdup(kernel->name);
    node->grid = config->gridDimX;
    for (int i = 0; i < kernel->count; i++) {
        memcpy((char *)node->data + kernel->offset[i], parameters[i], kernel->size[i]);
        if (kernel->size[i] == 8) check_pointer(kernel, i, *(uintptr_t *)parameters[i], stream->context->device);
    }
    return queue(stream, node);
}

EXPORT CUresult cuLaunchHostFunc(CUstream on, CUhostFn function, void *data) {
    ENTER;
    Stream *stream;
    CUresult result = find_stream(on, &stream);
    if (result) return result;
    Node *node = new_node(HOST);
    node->host = function;
    node->data = data;
    return queue(stream, node);
}

void run_kernel(Node *node) {
    if (work) work(node->name, node->data, node->grid, NULL);
    else breach("%s runs, and nobody does its work", node->name);
}

void run_node(Node *node) {
    switch (node->kind) {
    case COPY:
        check_alive("a copy", node->source);
        check_alive("a copy", node->target);
        memcpy((void *)node->target, (void *)node->source, node->bytes);
        break;
    case FILL: memset((void *)node->target, node->value, node->bytes); break;
    case FREE: overwrite_freed(node->target); break;
    case WAIT: run_until(node->awaited, node->until); break;
    case HOST: node->host(node->data); break;
    case KERNEL: run_kernel(node); break;
    case GRAPH: run_graph(node->graph); break;
    case MARK: break;
    }
}

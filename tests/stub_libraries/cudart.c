/* CUDA's runtime as far as ONNX Runtime asks it while it opens a session: one GPU, whose memory is the host's. */
#include <stdlib.h>
#include <string.h>

enum { MAJOR = 75, MINOR = 76 }; /* cudaDevAttrComputeCapabilityMajor and -Minor */

static int allocate(void **memory, size_t size) {
    *memory = aligned_alloc(256, (size + 255) / 256 * 256 + 256);
    return *memory == NULL ? 2 : 0; /* cudaErrorMemoryAllocation */
}

int cudaMalloc(void **memory, size_t size) { return allocate(memory, size); }
int cudaMallocHost(void **memory, size_t size) { return allocate(memory, size); }
int cudaHostAlloc(void **memory, size_t size, unsigned flags) { return allocate(memory, size); }
int cudaFree(void *memory) { free(memory); return 0; }
int cudaFreeHost(void *memory) { free(memory); return 0; }
int cudaMemcpy(void *to, const void *from, size_t size, int kind) { memcpy(to, from, size); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) { memcpy(to, from, size); return 0; }
int cudaMemGetInfo(size_t *left, size_t *total) { *left = 8UL << 30; *total = 16UL << 30; return 0; }
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == MAJOR ? 8 : attribute == MINOR ? 9 : 64;
    return 0;
}
int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
int cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
const char *cudaGetErrorString(int error) { return "an error of a stub"; }
const char *cudaGetErrorName(int error) { return "stub"; }

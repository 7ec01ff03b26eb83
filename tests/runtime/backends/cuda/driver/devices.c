/* Devices and contexts: each thread has a current context, and a forked child has no driver. */
#define _GNU_SOURCE
#include "standin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

Context contexts[DEVICES];

static __thread Context *current;
static __thread Context *stack[64];
static __thread int depth;
static pid_t began;
static int shown[DEVICES] = {0, 1}, count = DEVICES; /* by CUDA_VISIBLE_DEVICES: the number of each device shown */

Context *current_context(void) { return current; }

CUresult no_context(const char *name) {
    breach("%s without a current context", name);
    return CUDA_ERROR_INVALID_CONTEXT;
}

static int ready(void) { return began == getpid(); }

#define NEEDS_DRIVER                                    \
    do {                                                \
        if (!ready()) return CUDA_ERROR_NOT_INITIALIZED; \
    } while (0)

EXPORT CUresult cuInit(unsigned flags) {
    ENTER;
    if (flags) return CUDA_ERROR_INVALID_VALUE;
    if (began && !ready()) return CUDA_ERROR_NOT_INITIALIZED; /* as in a child that was forked after the driver began */
    if (began) return CUDA_SUCCESS;
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (visible) {
        count = 0;
        for (; *visible >= '0' && *visible < '0' + DEVICES && count < DEVICES; visible += visible[1] ? 2 : 1)
            shown[count++] = *visible - '0';
    }
    if (!count) return CUDA_ERROR_NO_DEVICE;
    for (int i = 0; i < DEVICES; i++) contexts[i].device = i;
    began = getpid();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDriverGetVersion(int *version) {
    ENTER;
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetCount(int *found) {
    ENTER;
    NEEDS_DRIVER;
    *found = count;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGet(CUdevice *device, int index) {
    ENTER;
    NEEDS_DRIVER;
    if (index < 0 || index >= count) return CUDA_ERROR_INVALID_DEVICE;
    *device = index;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetName(char *name, int size, CUdevice device) {
    ENTER;
    snprintf(name, (size_t)size, "Stand-in %d", shown[device]);
    return CUDA_SUCCESS;
}

/* Device N of the machine is GPU-0000000N-...: nvidia-smi's name for it. */
EXPORT CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) {
    ENTER;
    NEEDS_DRIVER;
    memset(uuid, 0, sizeof *uuid);
    uuid->bytes[3] = (char)shown[device];
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    ENTER;
    (void)device;
    *bytes = (size_t)1 << 34;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    ENTER;
    NEEDS_DRIVER;
    (void)device;
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 4; break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *value = 48 << 10; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING: *value = 1; break;
    default: *value = 0;
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    ENTER;
    NEEDS_DRIVER;
    if (device < 0 || device >= count) return CUDA_ERROR_INVALID_DEVICE;
    contexts[device].retained++;
    *context = (CUcontext)&contexts[device];
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    ENTER;
    if (contexts[device].retained-- <= 0) breach("the context of device %d is released more often than retained", device);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
    ENTER;
    *flags = 0;
    *active = contexts[device].retained > 0;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetCurrent(CUcontext *context) {
    ENTER;
    *context = (CUcontext)current;
    return ready() ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

/* Replaces the top of the stack; NULL takes it away, so that the one below is current again. */
EXPORT CUresult cuCtxSetCurrent(CUcontext context) {
    ENTER;
    NEEDS_DRIVER;
    if (depth) depth--;
    if (context) stack[depth++] = (Context *)context;
    current = depth ? stack[depth - 1] : NULL;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxPushCurrent_v2(CUcontext context) {
    ENTER;
    NEEDS_DRIVER;
    if (!context || depth == 64) return CUDA_ERROR_INVALID_VALUE;
    current = stack[depth++] = (Context *)context;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxPopCurrent_v2(CUcontext *context) {
    ENTER;
    if (!depth) return CUDA_ERROR_INVALID_CONTEXT;
    if (context) *context = (CUcontext)current;
    depth--;
    current = depth ? stack[depth - 1] : NULL;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetDevice_v2(CUdevice *device, CUcontext context) {
    ENTER;
    Context *asked = context ? (Context *)context : current;
    if (!asked) return CUDA_ERROR_INVALID_CONTEXT;
    *device = asked->device;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetDevice(CUdevice *device) { return cuCtxGetDevice_v2(device, NULL); }

EXPORT CUresult cuCtxGetId(CUcontext context, unsigned long long *id) {
    ENTER;
    Context *asked = context ? (Context *)context : current;
    if (!asked) return CUDA_ERROR_INVALID_CONTEXT;
    *id = 1 + (unsigned long long)asked->device;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    ENTER;
    NEEDS_CONTEXT;
    *least = 0;
    *greatest = -5;
    return CUDA_SUCCESS;
}

static const struct { CUresult error; const char *name; } errors[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
    {CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"},
    {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
    {CUDA_ERROR_INVALID_PTX, "CUDA_ERROR_INVALID_PTX"},
    {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"},
    {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
    {CUDA_ERROR_NOT_READY, "CUDA_ERROR_NOT_READY"},
    {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
    {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED"},
    {CUDA_ERROR_ILLEGAL_STATE, "CUDA_ERROR_ILLEGAL_STATE"},
    {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
    {CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
    {CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED"},
    {CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION"},
    {CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"},
    {CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD"},
    {CUDA_ERROR_CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT"},
};

static CUresult error_name(CUresult error, const char **name) {
    *name = "CUDA_ERROR_UNKNOWN";
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].error == error) *name = errors[i].name;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGetErrorName(CUresult error, const char **name) { return error_name(error, name); }
EXPORT CUresult cuGetErrorString(CUresult error, const char **text) { return error_name(error, text); }

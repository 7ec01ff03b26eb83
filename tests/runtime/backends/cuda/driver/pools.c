/* The devices' pools: what they keep from others, and when it goes back. */
#define _GNU_SOURCE
#include "standin.h"

EXPORT CUresult cuMemGetInfo_v2(size_t *unused, size_t *all) {
    ENTER;
    NEEDS_CONTEXT;
    const Device *of = &devices[current_context()->device];
    *all = of->limit;
    *unused = of->limit - of->reserved - of->plain;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice device) {
    ENTER;
    *pool = (CUmemoryPool)&devices[device];
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice device) { return cuDeviceGetMemPool(pool, device); }

EXPORT CUresult cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *location, CUmemAllocationType type) {
    (void)type;
    return cuDeviceGetMemPool(pool, location->id);
}

EXPORT CUresult cuMemGetDefaultMemPool(CUmemoryPool *pool, CUmemLocation *location, CUmemAllocationType type) {
    return cuMemGetMemPool(pool, location, type);
}

EXPORT CUresult cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void *value) {
    ENTER;
    const Device *of = (Device *)pool;
    switch (attribute) {
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: *(cuuint64_t *)value = of->threshold; break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT: *(cuuint64_t *)value = of->reserved; break;
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT: *(cuuint64_t *)value = of->used; break;
    default: *(int *)value = 1;
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void *value) {
    ENTER;
    if (attribute == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD) ((Device *)pool)->threshold = *(cuuint64_t *)value;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t kept) {
    ENTER;
    Device *of = (Device *)pool;
    pthread_mutex_lock(&state);
    if (of->reserved > kept) of->reserved = of->used > kept ? of->used : kept;
    pthread_mutex_unlock(&state);
    return CUDA_SUCCESS;
}

/* Whenever the host waits, what a pool keeps past its threshold goes back. */
void settle_pools(void) {
    pthread_mutex_lock(&state);
    for (Device *of = devices; of < devices + DEVICES; of++)
        if (of->reserved > of->used && of->reserved > of->threshold)
            of->reserved = of->used > of->threshold ? of->used : of->threshold;
    pthread_mutex_unlock(&state);
}

EXPORT CUresult cuMemPoolGetAccess(CUmemAccess_flags *flags, CUmemoryPool pool, CUmemLocation *location) {
    ENTER;
    int own = location->id == (int)((Device *)pool - devices);
    *flags = own ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : CU_MEM_ACCESS_FLAGS_PROT_NONE;
    return CUDA_SUCCESS;
}

EXPORT size_t standin_pooled(int device) { return devices[device].pooled; }
EXPORT size_t standin_reserved(int device) { return devices[device].reserved; }
EXPORT void standin_limit(int device, size_t bytes) { devices[device].limit = bytes; }

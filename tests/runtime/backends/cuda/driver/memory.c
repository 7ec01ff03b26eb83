/* Memory: the devices' pools and the host's locked pages, all of it the host's, with every block's bounds and life. */
#define _GNU_SOURCE
#include "standin.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ARENA ((size_t)1 << 36)
#define HOST_MEMORY DEVICES
#define ALIGNED 512

typedef struct {
    uintptr_t address;
    size_t bytes;
    int place;        /* a device, or HOST_MEMORY */
    int pooled;       /* stream-ordered, from the device's pool */
    int owner;        /* the device that was current when it was made */
    int given, freed; /* the free was asked for; it was done */
} Block;

/* Of each place, by address: addresses are never given again. */
static Block *placed[DEVICES + 1];
static size_t count[DEVICES + 1], room[DEVICES + 1];
static uintptr_t next[DEVICES + 1], first[DEVICES + 1];

Device devices[DEVICES];
static size_t locked[DEVICES];
static size_t locked_sizes[4096];
static int locks;

__attribute__((constructor)) static void begin(void) {
    for (int place = 0; place <= DEVICES; place++) {
        void *arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        first[place] = next[place] = (uintptr_t)arena;
        if (place < DEVICES) devices[place].limit = (size_t)1 << 30;
    }
}

/* The block that an address lies in, NULL for memory that is none of ours. Called with `state` locked. */
static Block *find(uintptr_t address) {
    for (int place = 0; place <= DEVICES; place++) {
        if (address < first[place] || address >= first[place] + ARENA) continue;
        size_t low = 0, high = count[place];
        while (low < high) {
            size_t middle = (low + high) / 2;
            if (placed[place][middle].address <= address) low = middle + 1; else high = middle;
        }
        return low ? &placed[place][low - 1] : NULL;
    }
    return NULL;
}

static int is_ours(uintptr_t address) {
    for (int place = 0; place <= DEVICES; place++)
        if (address >= first[place] && address < first[place] + ARENA) return 1;
    return 0;
}

static uintptr_t add_block(size_t bytes, int place, int pooled) {
    if (count[place] == room[place]) {
        room[place] = room[place] ? 2 * room[place] : 1024;
        placed[place] = realloc(placed[place], room[place] * sizeof(Block));
    }
    uintptr_t address = next[place];
    next[place] += (bytes + ALIGNED) / ALIGNED * ALIGNED;
    placed[place][count[place]++] = (Block){address, bytes, place, pooled, current_context()->device, 0, 0};
    memset((void *)address, POISON, bytes);
    return address;
}

/* Look at what a call names: whole inside a block that is not freed. Memory of the host's own heap passes. */
CUresult check_range(const char *what, uintptr_t address, size_t bytes) {
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&state);
    Block *block = find(address);
    if (block && block->given) {
        breach("%s uses memory that was freed", what);
        result = CUDA_ERROR_INVALID_VALUE;
    } else if (is_ours(address) && (!block || address + bytes > block->address + block->bytes)) {
        breach("%s goes past the end of its memory", what);
        result = CUDA_ERROR_INVALID_VALUE;
    }
    pthread_mutex_unlock(&state);
    return result;
}

void check_alive(const char *what, uintptr_t address) {
    pthread_mutex_lock(&state);
    const Block *block = find(address);
    if (block && block->freed) breach("%s runs after its memory was freed", what);
    pthread_mutex_unlock(&state);
}

void overwrite_freed(uintptr_t address) {
    pthread_mutex_lock(&state);
    Block *block = find(address);
    memset((void *)block->address, POISON, block->bytes);
    block->freed = 1;
    devices[block->place].used -= block->bytes;
    pthread_mutex_unlock(&state);
}

static CUresult allocate(CUdeviceptr *address, size_t bytes, int device, int pooled) {
    if (!bytes) return CUDA_ERROR_INVALID_VALUE;
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&state);
    Device *of = &devices[device];
    /* What the pool keeps is there for the pool alone. */
    size_t taken = of->plain + (pooled ? of->pooled : of->reserved);
    if (bytes <= of->limit && taken <= of->limit - bytes) {
        *address = add_block(bytes, device, pooled);
        *(pooled ? &of->pooled : &of->plain) += bytes;
        if (pooled && (of->used += bytes) > of->reserved) of->reserved = of->used;
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&state);
    return result;
}

EXPORT CUresult cuMemAllocFromPoolAsync(CUdeviceptr *address, size_t bytes, CUmemoryPool pool, CUstream on) {
    ENTER;
    NEEDS_CONTEXT;
    Stream *stream;
    CUresult result = find_stream(on, &stream);
    if (result) return result;
    int device = (int)((Device *)pool - devices);
    if (stream->capturing) breach("an allocation for device %d is captured", device);
    if (stream->context->device != device) breach("memory of device %d is allocated on a stream of another", device);
    return allocate(address, bytes, device, 1);
}

EXPORT CUresult cuMemAllocAsync(CUdeviceptr *address, size_t bytes, CUstream on) {
    NEEDS_CONTEXT;
    return cuMemAllocFromPoolAsync(address, bytes, (CUmemoryPool)&devices[current_context()->device], on);
}

EXPORT CUresult cuMemFreeAsync(CUdeviceptr address, CUstream on) {
    ENTER;
    Stream *stream;
    CUresult result = find_stream(on, &stream);
    if (result) return result;
    pthread_mutex_lock(&state);
    Block *block = find(address);
    if (!block || block->address != address || block->given || block->place == HOST_MEMORY) {
        breach("a free of what is no memory of a device, or was freed");
        result = CUDA_ERROR_INVALID_VALUE;
    } else if (block->place != stream->context->device) {
        breach("memory of device %d is freed on a stream of another", block->place);
    }
    pthread_mutex_unlock(&state);
    if (result) return result;
    Node *node = new_node(FREE);
    node->target = address;
    if ((result = queue(stream, node))) return result;
    pthread_mutex_lock(&state);
    block = find(address);
    block->given = 1;
    devices[block->place].pooled -= block->bytes;
    pthread_mutex_unlock(&state);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes) {
    ENTER;
    NEEDS_CONTEXT;
    CUresult refused = unsafe_call(__func__);
    return refused ? refused : allocate(address, bytes, current_context()->device, 0);
}

/* The driver may wait for the device here, which makes it unsafe; nobody may count on that, and it does not here. */
static CUresult free_now(uintptr_t address, int host, const char *name) {
    NEEDS_CONTEXT;
    CUresult result = unsafe_call(name);
    if (result) return result;
    pthread_mutex_lock(&state);
    Block *block = find(address);
    if (!block || block->address != address || block->given || block->pooled || (block->place == HOST_MEMORY) != host) {
        breach("%s of what it did not allocate, or was freed", name);
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        block->given = block->freed = 1;
        memset((void *)address, POISON, block->bytes);
        *(host ? &locked[block->owner] : &devices[block->place].plain) -= block->bytes;
    }
    pthread_mutex_unlock(&state);
    return result;
}

EXPORT CUresult cuMemFree_v2(CUdeviceptr address) {
    ENTER;
    return free_now(address, 0, __func__);
}

EXPORT CUresult cuMemAllocHost_v2(void **address, size_t bytes) {
    ENTER;
    NEEDS_CONTEXT;
    CUresult refused = unsafe_call(__func__);
    if (refused) return refused;
    if (!bytes) return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&state);
    *address = (void *)add_block(bytes, HOST_MEMORY, 0);
    locked[current_context()->device] += bytes;
    locked_sizes[locks++ % 4096] = bytes;
    pthread_mutex_unlock(&state);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemHostAlloc(void **address, size_t bytes, unsigned flags) {
    (void)flags;
    return cuMemAllocHost_v2(address, bytes);
}

EXPORT CUresult cuMemFreeHost(void *address) {
    ENTER;
    return free_now((uintptr_t)address, 1, __func__);
}

/* Memory that is not locked is read when the call is made, and written before it returns. */
EXPORT CUresult cuMemcpyAsync(CUdeviceptr target, CUdeviceptr source, size_t bytes, CUstream on) {
    ENTER;
    NEEDS_CONTEXT;
    Stream *stream;
    CUresult result = find_stream(on, &stream);
    if (result) return result;
    if ((result = check_range("a copy's source", source, bytes))) return result;
    if ((result = check_range("a copy's target", target, bytes))) return result;
    if (!bytes) return CUDA_SUCCESS;
    Node *node = new_node(COPY);
    node->target = target;
    node->source = source;
    node->bytes = bytes;
    if (stream->capturing && (!is_ours(source) || !is_ours(target))) breach("a copy of memory that is not locked is captured");
    if (!is_ours(source)) {
        node->name = malloc(bytes);
        node->source = (uintptr_t)memcpy(node->name, (void *)source, bytes);
    }
    if ((result = queue(stream, node))) return result;
    if (!is_ours(target)) run_until(stream, stream->queued);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemsetD8Async(CUdeviceptr target, unsigned char value, size_t bytes, CUstream on) {
    ENTER;
    NEEDS_CONTEXT;
    Stream *stream;
    CUresult result = find_stream(on, &stream);
    if (result || (result = check_range("a fill", target, bytes))) return result;
    Node *node = new_node(FILL);
    node->target = target;
    node->value = value;
    node->bytes = bytes;
    return queue(stream, node);
}

EXPORT CUresult cuPointerGetAttributes(unsigned n, CUpointer_attribute *attributes, void **values, CUdeviceptr address) {
    ENTER;
    pthread_mutex_lock(&state);
    Block *block = find(address);
    for (unsigned i = 0; i < n; i++) switch (attributes[i]) {
        case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
            *(unsigned *)values[i] = !block ? 0 : block->place == HOST_MEMORY ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
            break;
        case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
            *(int *)values[i] = !block ? -2 : block->owner;
            break;
        case CU_POINTER_ATTRIBUTE_IS_MANAGED:
            *(int *)values[i] = 0;
            break;
        default:
            break;
        }
    pthread_mutex_unlock(&state);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuPointerGetAttribute(void *value, CUpointer_attribute attribute, CUdeviceptr address) {
    return cuPointerGetAttributes(1, &attribute, &value, address);
}

/* The device that a pointer is of; -1 for memory of the host. */
int device_of(uintptr_t address) {
    pthread_mutex_lock(&state);
    const Block *block = find(address);
    int device = !block || block->place == HOST_MEMORY ? -1 : block->place;
    pthread_mutex_unlock(&state);
    return device;
}

EXPORT size_t standin_locked(int device) { return locked[device]; }
EXPORT int standin_locks(void) { return locks; }
EXPORT size_t standin_lock(int number) { return locked_sizes[number % 4096]; }

/* Streams: queues that run when somebody waits, or in an order drawn by chance where a test asks for it. */
#define _GNU_SOURCE
#include "standin.h"

#include <stdlib.h>

Stream *streams;

static int made;
static __thread Stream *own[DEVICES]; /* the per-thread default streams */
static pthread_mutex_t engine = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static uint64_t chance; /* 0: nothing runs before somebody waits for it */

static Stream *make_stream(Context *context, unsigned flags) {
    Stream *stream = calloc(1, sizeof *stream);
    pthread_mutex_lock(&state);
    stream->context = context;
    stream->flags = flags;
    stream->id = ++made;
    stream->alive = 1;
    stream->next = streams;
    streams = stream;
    pthread_mutex_unlock(&state);
    return stream;
}

CUresult find_stream(CUstream handle, Stream **found) {
    *found = NULL;
    if (handle == NULL || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD) {
        Context *context = current_context();
        if (!context) return no_context("a default stream");
        Stream **place = handle == CU_STREAM_PER_THREAD ? &own[context->device] : &context->legacy;
        if (!*place) *place = make_stream(context, CU_STREAM_DEFAULT);
        *found = *place;
        return CUDA_SUCCESS;
    }
    pthread_mutex_lock(&state);
    for (Stream *stream = streams; stream && !*found; stream = stream->next)
        if (stream == (Stream *)handle && stream->alive) *found = stream;
    pthread_mutex_unlock(&state);
    return *found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

Node *new_node(enum Kind kind) {
    Node *node = calloc(1, sizeof *node);
    node->kind = kind;
    return node;
}

static void append(Stream *stream, Node *node) {
    node->number = ++stream->queued;
    if (stream->last) stream->last->next = node; else stream->first = node;
    stream->last = node;
}

static void append_wait(Stream *stream, Stream *awaited) {
    Node *node = new_node(WAIT);
    node->awaited = awaited;
    node->until = awaited->queued;
    append(stream, node);
}

/* The legacy stream waits for all blocking streams of its context, and they for it. */
static void order_with_legacy(Stream *stream) {
    Stream *legacy = stream->context->legacy;
    if (stream == legacy) {
        for (Stream *other = streams; other; other = other->next)
            if (other != legacy && other->context == stream->context && !(other->flags & CU_STREAM_NON_BLOCKING) &&
                other->queued > other->done)
                append_wait(legacy, other);
    } else if (legacy && !(stream->flags & CU_STREAM_NON_BLOCKING) && legacy->queued > stream->legacy_seen) {
        stream->legacy_seen = legacy->queued;
        if (legacy->queued > legacy->done) append_wait(stream, legacy);
    }
}

CUresult queue(Stream *stream, Node *node) {
    pthread_mutex_lock(&state);
    CUresult result = CUDA_SUCCESS;
    if (stream->capturing) {
        result = record_node(stream, node);
    } else if (stream != stream->context->legacy || !(result = implicit_wait("work on the legacy stream"))) {
        order_with_legacy(stream);
        append(stream, node);
    }
    pthread_mutex_unlock(&state);
    return result;
}

/* Run the first node of a stream. Called with `engine` locked. */
static void run_first(Stream *stream) {
    pthread_mutex_lock(&state);
    Node *node = stream->first;
    stream->first = node->next;
    if (!node->next) stream->last = NULL;
    stream->running = 1;
    pthread_mutex_unlock(&state);
    run_node(node);
    pthread_mutex_lock(&state);
    stream->running = 0;
    stream->done = node->number;
    pthread_mutex_unlock(&state);
    free(node->name);
    if (node->kind == KERNEL) free(node->data);
    free(node);
}

void run_until(Stream *stream, uint64_t number) {
    pthread_mutex_lock(&engine);
    while (stream->done < number) {
        if (stream->running) {
            breach("stream %d waits for itself", stream->id);
            break;
        }
        run_first(stream);
    }
    pthread_mutex_unlock(&engine);
}

static int is_runnable(const Stream *stream) {
    const Node *node = stream->first;
    return node && !stream->running && (node->kind != WAIT || node->awaited->done >= node->until);
}

/* Run one node of some stream, where a test asked for chance: as a GPU may, before anybody waits. */
void run_sometimes(void) {
    if (!chance || pthread_mutex_trylock(&engine)) return;
    Stream *runnable[64];
    size_t found = 0;
    pthread_mutex_lock(&state);
    chance = chance * 6364136223846793005u + 1442695040888963407u;
    for (Stream *stream = streams; stream && found < 64; stream = stream->next)
        if (is_runnable(stream)) runnable[found++] = stream;
    uint64_t drawn = chance >> 33;
    pthread_mutex_unlock(&state);
    if (found && drawn % 3 == 0) run_first(runnable[drawn / 3 % found]);
    pthread_mutex_unlock(&engine);
}

EXPORT void standin_chance(uint64_t seed) { chance = seed; }

/* Run what is queued on all streams of a device, of which nobody else has to know. */
EXPORT void standin_finish(int device) {
    for (Stream *stream = streams; stream; stream = stream->next)
        if (stream->context == &contexts[device] && !stream->capturing) run_until(stream, stream->queued);
}

EXPORT int standin_pending(void *handle) {
    Stream *stream;
    return find_stream((CUstream)handle, &stream) ? -1 : (int)(stream->queued - stream->done);
}

EXPORT CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int priority) {
    ENTER;
    NEEDS_CONTEXT;
    (void)priority;
    *stream = (CUstream)make_stream(current_context(), flags);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
    return cuStreamCreateWithPriority(stream, flags, 0);
}

EXPORT CUresult cuStreamDestroy_v2(CUstream handle) {
    ENTER;
    FIND_STREAM(handle);
    if (stream->capturing) breach("stream %d is destroyed while it is captured", stream->id);
    stream->alive = 0;
    stream->capturing = NOT_CAPTURING;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamGetCtx_v2(CUstream handle, CUcontext *context, CUgreenCtx *green) {
    ENTER;
    FIND_STREAM(handle);
    *context = (CUcontext)stream->context;
    if (green) *green = NULL;
    return CUDA_SUCCESS;
}

#undef cuStreamGetCtx
EXPORT CUresult cuStreamGetCtx(CUstream handle, CUcontext *context) { return cuStreamGetCtx_v2(handle, context, NULL); }

EXPORT CUresult cuStreamGetDevice(CUstream handle, CUdevice *device) {
    ENTER;
    FIND_STREAM(handle);
    *device = stream->context->device;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamGetFlags(CUstream handle, unsigned *flags) {
    ENTER;
    FIND_STREAM(handle);
    *flags = stream->flags;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamGetPriority(CUstream handle, int *priority) {
    ENTER;
    FIND_STREAM(handle);
    *priority = 0;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamSynchronize(CUstream handle) {
    ENTER;
    FIND_STREAM(handle);
    if (stream->capturing) {
        stream->origin->capturing = stream->capturing = INVALIDATED;
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    CUresult refused = stream == stream->context->legacy ? implicit_wait(__func__) : unsafe_call(__func__);
    if (refused) return refused;
    pthread_mutex_lock(&state);
    order_with_legacy(stream);
    uint64_t number = stream->queued;
    pthread_mutex_unlock(&state);
    run_until(stream, number);
    settle_pools();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamQuery(CUstream handle) {
    ENTER;
    FIND_STREAM(handle);
    if (stream->capturing) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    CUresult refused = unsafe_call(__func__);
    if (refused) return refused;
    return stream->done < stream->queued ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
}

EXPORT CUresult cuCtxSynchronize(void) {
    ENTER;
    NEEDS_CONTEXT;
    CUresult refused = unsafe_call(__func__);
    if (refused) return refused;
    standin_finish(current_context()->device);
    settle_pools();
    return CUDA_SUCCESS;
}

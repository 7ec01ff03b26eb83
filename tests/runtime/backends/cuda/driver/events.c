/* Events: places in the work of a stream, which others wait for and ask about. */
#define _GNU_SOURCE
#include "standin.h"

#include <stdlib.h>

static Event *events;

static Event *find_event(CUevent handle) {
    Event *found = NULL;
    pthread_mutex_lock(&state);
    for (Event *event = events; event && !found; event = event->next)
        if (event == (Event *)handle && event->alive) found = event;
    pthread_mutex_unlock(&state);
    return found;
}

EXPORT CUresult cuEventCreate(CUevent *handle, unsigned flags) {
    ENTER;
    NEEDS_CONTEXT;
    (void)flags;
    Event *event = calloc(1, sizeof *event);
    event->context = current_context();
    event->alive = 1;
    pthread_mutex_lock(&state);
    event->next = events;
    events = event;
    pthread_mutex_unlock(&state);
    *handle = (CUevent)event;
    return CUDA_SUCCESS;
}

#define FIND_EVENT(handle)                                \
    Event *event = find_event(handle);                    \
    if (!event) return CUDA_ERROR_INVALID_HANDLE

EXPORT CUresult cuEventDestroy_v2(CUevent handle) {
    ENTER;
    FIND_EVENT(handle);
    event->alive = 0;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventRecordWithFlags(CUevent handle, CUstream on, unsigned flags) {
    ENTER;
    (void)flags;
    FIND_STREAM(on);
    FIND_EVENT(handle);
    if (stream->context != event->context) return CUDA_ERROR_INVALID_HANDLE;
    unsigned long capture = stream->capturing ? stream->capture_id : 0;
    CUresult result = queue(stream, new_node(MARK));
    if (result) return result;
    pthread_mutex_lock(&state);
    event->stream = stream;
    event->until = stream->queued;
    event->capture_id = capture;
    pthread_mutex_unlock(&state);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventRecord(CUevent handle, CUstream on) { return cuEventRecordWithFlags(handle, on, 0); }

EXPORT CUresult cuStreamWaitEvent(CUstream handle, CUevent awaited, unsigned flags) {
    ENTER;
    (void)flags;
    FIND_STREAM(handle);
    FIND_EVENT(awaited);
    if (!event->stream) return CUDA_SUCCESS;
    if (stream->capturing || event->capture_id) return join_capture(stream, event);
    Node *node = new_node(WAIT);
    node->awaited = event->stream;
    node->until = event->until;
    return queue(stream, node);
}

EXPORT CUresult cuEventQuery(CUevent handle) {
    ENTER;
    FIND_EVENT(handle);
    if (event->capture_id) return captured_event(event->capture_id, __func__);
    CUresult refused = unsafe_call(__func__);
    if (refused) return refused;
    return event->stream && event->stream->done < event->until ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
}

EXPORT CUresult cuEventSynchronize(CUevent handle) {
    ENTER;
    FIND_EVENT(handle);
    if (event->capture_id) return captured_event(event->capture_id, __func__);
    CUresult refused = unsafe_call(__func__);
    if (refused) return refused;
    if (event->stream) run_until(event->stream, event->until);
    settle_pools();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end) {
    ENTER;
    if (!find_event(start) || !find_event(end)) return CUDA_ERROR_INVALID_HANDLE;
    *milliseconds = 1;
    return CUDA_SUCCESS;
}

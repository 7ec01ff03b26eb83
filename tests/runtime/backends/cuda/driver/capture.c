/* Capture of streams into graphs, and who may not do what meanwhile: CUDA C++ Programming Guide, "Stream Capture". */
#define _GNU_SOURCE
#include "standin.h"

#include <stdlib.h>

static Graph *graphs;
static unsigned long captures;
static __thread CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

static void invalidate(Stream *stream, const char *what) {
    breach("%s breaks off the capture of stream %d", what, stream->id);
    stream->origin->capturing = stream->capturing = INVALIDATED;
}

/* What may wait for the whole device, or for a stream that is captured, breaks off the captures that forbid it. */
CUresult unsafe_call(const char *name) {
    CUresult result = CUDA_SUCCESS;
    if (mode == CU_STREAM_CAPTURE_MODE_RELAXED) return result;
    pthread_mutex_lock(&state);
    for (Stream *stream = streams; stream; stream = stream->next) {
        if (stream->capturing != CAPTURING || stream->mode == CU_STREAM_CAPTURE_MODE_RELAXED) continue;
        int ours = pthread_equal(stream->owner, pthread_self());
        int global = stream->mode == CU_STREAM_CAPTURE_MODE_GLOBAL && mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
        if (ours || global) {
            invalidate(stream, name);
            result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
    }
    pthread_mutex_unlock(&state);
    return result;
}

/* The legacy stream would wait for a blocking stream that is captured, in whatever mode. */
CUresult implicit_wait(const char *name) {
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&state);
    for (Stream *stream = streams; stream; stream = stream->next)
        if (stream->capturing == CAPTURING && !(stream->flags & CU_STREAM_NON_BLOCKING) &&
            stream->context == current_context()) {
            invalidate(stream, name);
            result = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
        }
    pthread_mutex_unlock(&state);
    return result;
}

static int is_captured_now(unsigned long id) {
    for (Stream *stream = streams; stream; stream = stream->next)
        if (stream->capturing && stream->capture_id == id) return 1;
    return 0;
}

/* To ask for an event of a capture, or to wait for it, breaks the capture off, in whatever mode. */
CUresult captured_event(unsigned long id, const char *name) {
    pthread_mutex_lock(&state);
    for (Stream *stream = streams; stream; stream = stream->next)
        if (stream->capturing == CAPTURING && stream->capture_id == id) invalidate(stream, name);
    pthread_mutex_unlock(&state);
    return CUDA_ERROR_CAPTURED_EVENT;
}

/* Called with `state` locked. */
CUresult record_node(Stream *stream, Node *node) {
    if (stream->capturing == INVALIDATED) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (node->kind == FREE) {
        invalidate(stream, "a free of memory that the capture did not allocate");
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    Graph *graph = stream->graph;
    if (graph->last) graph->last->next = node; else graph->first = node;
    graph->last = node;
    graph->nodes += node->kind != MARK;
    return CUDA_SUCCESS;
}

/* A wait that touches a capture: within it, from outside it, or of a stream that becomes part of it. */
CUresult join_capture(Stream *stream, Event *event) {
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&state);
    if (stream->capturing == INVALIDATED) {
        result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    } else if (stream->capturing == CAPTURING) {
        if (event->capture_id != stream->capture_id) {
            invalidate(stream, "a wait for work outside");
            result = CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
        }
    } else if (!is_captured_now(event->capture_id)) {
        result = CUDA_ERROR_CAPTURED_EVENT;
    } else {
        Stream *origin = event->stream->origin;
        stream->capturing = CAPTURING;
        stream->origin = origin;
        stream->mode = origin->mode;
        stream->owner = origin->owner;
        stream->graph = origin->graph;
        stream->capture_id = origin->capture_id;
    }
    pthread_mutex_unlock(&state);
    return result;
}

EXPORT CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *exchanged) {
    ENTER;
    CUstreamCaptureMode before = mode;
    mode = *exchanged;
    *exchanged = before;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamBeginCapture_v2(CUstream handle, CUstreamCaptureMode of) {
    ENTER;
    Stream *stream;
    CUresult result = find_stream(handle, &stream);
    if (result) return result;
    if (stream == stream->context->legacy || stream->capturing) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    pthread_mutex_lock(&state);
    stream->capturing = CAPTURING;
    stream->origin = stream;
    stream->mode = of;
    stream->owner = pthread_self();
    stream->graph = calloc(1, sizeof *stream->graph);
    stream->graph->device = stream->context->device;
    stream->capture_id = ++captures;
    pthread_mutex_unlock(&state);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamEndCapture(CUstream handle, CUgraph *graph) {
    ENTER;
    Stream *stream;
    CUresult result = find_stream(handle, &stream);
    if (result) return result;
    *graph = NULL;
    if (!stream->capturing) return CUDA_ERROR_ILLEGAL_STATE;
    if (stream->origin != stream) return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
    pthread_mutex_lock(&state);
    if (stream->mode != CU_STREAM_CAPTURE_MODE_RELAXED && !pthread_equal(stream->owner, pthread_self())) {
        breach("the capture of stream %d is lost, ended by another thread", stream->id);
        result = CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    } else if (stream->capturing == INVALIDATED) result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    else *graph = (CUgraph)stream->graph;
    for (Stream *other = streams; other; other = other->next)
        if (other->capturing && other->origin == stream) other->capturing = NOT_CAPTURING;
    pthread_mutex_unlock(&state);
    return result;
}

EXPORT CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus *status) {
    ENTER;
    Stream *stream;
    CUresult result = find_stream(handle, &stream);
    if (result) return result;
    const CUstreamCaptureStatus told[] = {
        CU_STREAM_CAPTURE_STATUS_NONE, CU_STREAM_CAPTURE_STATUS_ACTIVE, CU_STREAM_CAPTURE_STATUS_INVALIDATED};
    *status = told[stream->capturing];
    if (stream != stream->context->legacy) return CUDA_SUCCESS;
    for (Stream *other = streams; other; other = other->next)
        if (other->capturing && !(other->flags & CU_STREAM_NON_BLOCKING) && other->context == stream->context)
            return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT; /* to ask does no harm to the capture */
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamGetCaptureInfo_v3(
    CUstream handle, CUstreamCaptureStatus *status, cuuint64_t *id, CUgraph *graph, const CUgraphNode **nodes,
    const CUgraphEdgeData **edges, size_t *count
) {
    Stream *stream;
    CUresult result = cuStreamIsCapturing(handle, status);
    if (result || (result = find_stream(handle, &stream))) return result;
    if (id) *id = stream->capture_id;
    if (graph) *graph = (CUgraph)stream->graph;
    if (nodes) *nodes = NULL;
    if (edges) *edges = NULL;
    if (count) *count = 0;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphInstantiateWithParams(CUgraphExec *made, CUgraph of, CUDA_GRAPH_INSTANTIATE_PARAMS *parameters) {
    ENTER;
    Graph *graph = calloc(1, sizeof *graph);
    *graph = *(Graph *)of;
    graph->executable = 1;
    pthread_mutex_lock(&state);
    graph->next = graphs;
    graphs = graph;
    pthread_mutex_unlock(&state);
    parameters->result_out = CUDA_GRAPH_INSTANTIATE_SUCCESS;
    *made = (CUgraphExec)graph;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphLaunch(CUgraphExec handle, CUstream on) {
    ENTER;
    NEEDS_CONTEXT;
    Stream *stream;
    CUresult result = find_stream(on, &stream);
    if (result) return result;
    Graph *graph = (Graph *)handle;
    if (!graph->executable) return CUDA_ERROR_INVALID_HANDLE;
    if (graph->device != stream->context->device) return CUDA_ERROR_INVALID_VALUE;
    graph->launches++;
    Node *node = new_node(GRAPH);
    node->graph = graph;
    return queue(stream, node);
}

void run_graph(Graph *graph) {
    for (Node *node = graph->first; node; node = node->next) run_node(node);
}

EXPORT CUresult cuGraphGetNodes(CUgraph graph, CUgraphNode *nodes, size_t *count) {
    ENTER;
    (void)nodes;
    *count = (size_t)((Graph *)graph)->nodes;
    return CUDA_SUCCESS;
}

/* Nodes are never freed: a launch that is queued goes on after its graph was destroyed, as CUDA has it. */
EXPORT CUresult cuGraphDestroy(CUgraph graph) {
    ENTER;
    (void)graph;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphExecDestroy(CUgraphExec graph) {
    ENTER;
    ((Graph *)graph)->executable = 0;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuUserObjectCreate(CUuserObject *made, void *object, CUhostFn destroy, unsigned count, unsigned flags) {
    ENTER;
    (void)object, (void)destroy, (void)count, (void)flags;
    *made = calloc(1, 1);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuUserObjectRelease(CUuserObject object, unsigned count) {
    ENTER;
    (void)object, (void)count;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphRetainUserObject(CUgraph graph, CUuserObject object, unsigned count, unsigned flags) {
    ENTER;
    (void)graph, (void)object, (void)count, (void)flags;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphReleaseUserObject(CUgraph graph, CUuserObject object, unsigned count) {
    ENTER;
    (void)graph, (void)object, (void)count;
    return CUDA_SUCCESS;
}

/* How often each graph of a device was launched, those first that were made first; returns how many there are. */
EXPORT int standin_graphs(int device, int *launches, int room) {
    int count = 0;
    pthread_mutex_lock(&state);
    for (Graph *graph = graphs; graph; graph = graph->next) count += graph->device == device;
    int place = count;
    for (Graph *graph = graphs; graph; graph = graph->next)
        if (graph->device == device && --place < room) launches[place] = graph->launches;
    pthread_mutex_unlock(&state);
    return count;
}

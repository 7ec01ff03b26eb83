/* A stand-in for the CUDA driver (libcuda.so.1): what its parts know of each other.

   Device memory is the host's. Queued work runs when the host waits for it, so that what is not ordered by an event
   runs too late; freed memory is overwritten in the order of its stream, and its addresses are never given again.
   What CUDA forbids is refused with CUDA's own error, and written down as a breach besides, where a program that goes
   on regardless would be wrong: driver/__init__.py fails the test for it.

   Two locks. `state` guards all structures, is held for moments, and never while Python runs. `engine` is held by the
   thread that runs queued work, which may call Python (kernels, host functions): only calls that wait take it. */
#ifndef STANDIN_H
#define STANDIN_H

#include <cuda.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))
#define DEVICES 2
#define POISON 0xEE

typedef struct Context Context;
typedef struct Stream Stream;
typedef struct Event Event;
typedef struct Graph Graph;
typedef struct Node Node;

typedef void (*KernelFn)(const char *name, void *arguments, unsigned grid, void *stream);

enum Kind { COPY, FILL, FREE, WAIT, HOST, KERNEL, GRAPH, MARK };

/* A piece of work: queued on a stream, or recorded in a graph. */
struct Node {
    enum Kind kind;
    uint64_t number; /* its place in the stream's order, from 1 */
    uintptr_t target, source;
    size_t bytes;
    unsigned char value;
    Stream *awaited; /* WAIT: until `awaited` has done `until` */
    uint64_t until;
    CUhostFn host; /* HOST */
    void *data;
    char *name; /* KERNEL: its name, arguments as kernels.c packs them, and blocks */
    unsigned grid;
    Graph *graph; /* GRAPH */
    Node *next;
};

struct Context {
    int device;
    int retained;
    Stream *legacy;
};

enum Capturing { NOT_CAPTURING, CAPTURING, INVALIDATED };

struct Stream {
    Context *context;
    unsigned flags;
    int id, alive, running;
    Node *first, *last;
    uint64_t queued, done; /* numbers of the last node queued, and of the last done */
    uint64_t legacy_seen;  /* the legacy stream's work that this one waits for already */
    enum Capturing capturing;
    Stream *origin; /* of the capture */
    CUstreamCaptureMode mode;
    pthread_t owner;
    Graph *graph;
    unsigned long capture_id;
    Stream *next;
};

struct Event {
    Context *context;
    int alive;
    Stream *stream; /* where it was recorded last, NULL if never */
    uint64_t until;
    unsigned long capture_id; /* of the capture that it was recorded in, or 0 */
    Event *next;
};

struct Graph {
    Node *first, *last;
    int device, nodes, launches, executable;
    Graph *next;
};

/* The memory of a device, in bytes. A pool is the address of its device. */
typedef struct {
    size_t limit, pooled, plain; /* that there are; asked for of the pool, and past it */
    size_t used, reserved;       /* of the pool: not yet freed in stream order; taken from the driver */
    cuuint64_t threshold;
} Device;

extern Device devices[DEVICES];
extern pthread_mutex_t state;
extern Stream *streams;
extern Context contexts[DEVICES];

/* state.c */
CUresult enter(const char *name);
void breach(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Begins each function of the driver: writes the call down, and returns the error that a test asked for. */
#define ENTER                                \
    do {                                     \
        CUresult asked_for = enter(__func__); \
        if (asked_for) return asked_for;     \
    } while (0)

#define NEEDS_CONTEXT                                                  \
    do {                                                               \
        if (!current_context()) return no_context(__func__);           \
    } while (0)

/* Finds `stream` for a handle, or returns what the driver answers to one of no stream. */
#define FIND_STREAM(handle)                                  \
    Stream *stream;                                          \
    do {                                                     \
        CUresult missing = find_stream(handle, &stream);     \
        if (missing) return missing;                         \
    } while (0)

/* devices.c */
Context *current_context(void);
CUresult no_context(const char *name);

/* streams.c */
CUresult find_stream(CUstream handle, Stream **found);
CUresult queue(Stream *stream, Node *node);
Node *new_node(enum Kind kind);
void run_until(Stream *stream, uint64_t number);
void run_sometimes(void);
void standin_finish(int device);

/* capture.c */
CUresult unsafe_call(const char *name);
CUresult implicit_wait(const char *name);
CUresult captured_event(unsigned long id, const char *name);
CUresult record_node(Stream *stream, Node *node);
CUresult join_capture(Stream *stream, Event *event);
void run_graph(Graph *graph);

/* memory.c */
CUresult check_range(const char *what, uintptr_t address, size_t bytes);
void check_alive(const char *what, uintptr_t address);
int device_of(uintptr_t address);
void overwrite_freed(uintptr_t address);

/* pools.c */
void settle_pools(void);

/* kernels.c */
void run_kernel(Node *node);
void run_node(Node *node);

#endif

/* A tool of NVTX, as Nsight Systems is one: it writes each range, and each end of one, as a line of $CODA_NVTX_LOG.

   The package nvtx loads it by NVTX_INJECTION64_PATH. What is declared here of NVTX 3's interface is the part that tools
   rely on: two tables of callbacks by their numbers, and the attributes of an event. */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef void (*Function)(void);
typedef struct {
    size_t size;
    int (*module_table)(int module, Function ***table, unsigned *count);
} Callbacks;
typedef struct {
    uint16_t version, size;
    uint32_t category;
    int32_t color_type;
    uint32_t color;
    int32_t payload_type, reserved;
    int64_t payload;
    int32_t message_type;
    const char *message; /* a string's handle, which is what `register_string` returned */
} Event;

enum { TABLE_OF_CALLBACKS = 1, MODULE_CORE2 = 5 };
enum { RANGE_PUSH = 4, RANGE_POP = 5, REGISTER_STRING = 10, DOMAIN_CREATE = 12, COUNT = 16 };
enum { PAYLOAD_NONE = 0, REGISTERED = 3 };

static void say(const char *line)
{
    FILE *log = fopen(getenv("CODA_NVTX_LOG"), "a");
    fprintf(log, "%d %d %s\n", getpid(), gettid(), line);
    fclose(log);
}

static const char *keep(const char *name)
{
    return strdup(name);
}

static const char *register_string(const char *domain, const char *text)
{
    (void)domain;
    return strdup(text);
}

static int push(const char *domain, const Event *event)
{
    char line[256];
    const char *name = event->message_type == REGISTERED ? event->message : "?";
    if (event->payload_type == PAYLOAD_NONE)
        snprintf(line, sizeof line, "%s push %s", domain, name);
    else
        snprintf(line, sizeof line, "%s push %s %lld", domain, name, (long long)event->payload);
    say(line);
    return 0;
}

static int pop(const char *domain)
{
    char line[256];
    snprintf(line, sizeof line, "%s pop", domain);
    say(line);
    return 0;
}

int InitializeInjectionNvtx2(const void *(*export_table)(uint32_t))
{
    const Callbacks *callbacks = export_table(TABLE_OF_CALLBACKS);
    Function **table;
    unsigned count;
    if (callbacks == NULL || !callbacks->module_table(MODULE_CORE2, &table, &count) || count < COUNT)
        return 0;
    *table[DOMAIN_CREATE] = (Function)keep;
    *table[REGISTER_STRING] = (Function)register_string;
    *table[RANGE_PUSH] = (Function)push;
    *table[RANGE_POP] = (Function)pop;
    return 1;
}

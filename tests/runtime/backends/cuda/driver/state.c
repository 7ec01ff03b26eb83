/* What a test sets and reads: errors to answer with, breaches, the calls; and how libraries find the functions. */
#define _GNU_SOURCE
#include "standin.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

pthread_mutex_t state;

#define CALLS 4096
#define FAILURES 16

static const char *calls[CALLS];
static unsigned long called;
static char breaches[8192];
static struct { char name[64]; int error, left; } failures[FAILURES];

__attribute__((constructor)) static void begin(void) {
    pthread_mutexattr_t recursive;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&state, &recursive);
    /* "cuInit=100": a script has no other way to ask before it begins. */
    const char *asked = getenv("STANDIN_FAIL"), *error = asked ? strchr(asked, '=') : NULL;
    if (!error) return;
    snprintf(failures[0].name, sizeof failures[0].name, "%.*s", (int)(error - asked), asked);
    failures[0].error = atoi(error + 1);
    failures[0].left = 1 << 30;
}

/* cuMemAlloc_v2 and cuMemAlloc are one function to a test. */
static size_t plain(const char *name) {
    const char *version = strstr(name, "_v");
    return version ? (size_t)(version - name) : strlen(name);
}

static int same(const char *name, const char *asked) {
    return plain(name) == strlen(asked) && !strncmp(name, asked, plain(name));
}

CUresult enter(const char *name) {
    CUresult error = CUDA_SUCCESS;
    pthread_mutex_lock(&state);
    calls[called++ % CALLS] = name;
    for (int i = 0; i < FAILURES; i++)
        if (failures[i].left && same(name, failures[i].name)) {
            failures[i].left--;
            error = (CUresult)failures[i].error;
            break;
        }
    pthread_mutex_unlock(&state);
    if (!error) run_sometimes();
    return error;
}

void breach(const char *format, ...) {
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    pthread_mutex_lock(&state);
    size_t used = strlen(breaches);
    snprintf(breaches + used, sizeof breaches - used, "%s\n", line);
    pthread_mutex_unlock(&state);
}

/* Answer the next `times` calls of `name` with `error`; 0 times takes back what was asked. */
EXPORT void standin_fail(const char *name, int error, int times) {
    pthread_mutex_lock(&state);
    int at = -1;
    for (int i = 0; i < FAILURES; i++) {
        if (!strcmp(failures[i].name, name)) failures[i].left = 0, at = i;
        if (at < 0 && !failures[i].left) at = i;
    }
    if (at >= 0) {
        snprintf(failures[at].name, sizeof failures[at].name, "%s", name);
        failures[at].error = error;
        failures[at].left = times;
    }
    pthread_mutex_unlock(&state);
}

EXPORT void standin_clear(void) {
    pthread_mutex_lock(&state);
    memset(failures, 0, sizeof failures);
    breaches[0] = 0;
    called = 0;
    pthread_mutex_unlock(&state);
}

EXPORT const char *standin_breaches(void) { return breaches; }

/* How often `name` was called since `standin_clear`, of the last 4096 calls. */
EXPORT int standin_called(const char *name) {
    int count = 0;
    pthread_mutex_lock(&state);
    for (unsigned long i = called > CALLS ? called - CALLS : 0; i < called; i++) count += same(calls[i % CALLS], name);
    pthread_mutex_unlock(&state);
    return count;
}

/* Functions that have another signature from this version of CUDA on. */
static const struct { const char *name; int since; const char *symbol; } renewed[] = {
    {"cuStreamGetCtx", 12050, "cuStreamGetCtx_v2"},
    {"cuCtxGetDevice", 13000, "cuCtxGetDevice_v2"},
    {"cuGetProcAddress", 12000, "cuGetProcAddress_v2"},
};

EXPORT CUresult cuGetProcAddress_v2(
    const char *name, void **function, int version, cuuint64_t flags, CUdriverProcAddressQueryResult *result
) {
    (void)flags;
    Dl_info own;
    dladdr((void *)cuGetProcAddress_v2, &own);
    void *library = dlopen(own.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    *function = NULL;
    for (size_t i = 0; i < sizeof renewed / sizeof *renewed; i++)
        if (!strcmp(name, renewed[i].name)) *function = dlsym(library, version >= renewed[i].since ? renewed[i].symbol : name);
    const char *versions[] = {"", "_v2", "_v3", "_v4"};
    for (int i = 0; i < 4 && !*function; i++) {
        char symbol[128];
        snprintf(symbol, sizeof symbol, "%s%s", name, versions[i]);
        *function = dlsym(library, symbol);
    }
    dlclose(library);
    if (result) *result = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

#undef cuGetProcAddress
EXPORT CUresult cuGetProcAddress(const char *name, void **function, int version, cuuint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}

/* Copyright: The hpc.compute authors
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * libnvidia-ml.so.1 of the emulated driver: every function packs its input values, sends them to the daemon and copies
 * back what it answers (frames: wire.py). What a call means is known only there. The little state here is what can't be
 * elsewhere: a connection per thread, and how often the process initialised NVML.
 *
 * With -DOLD_LIBRARY the functions that younger drivers added are left out.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define DEFAULT_SOCKET "/run/emulated-gpu/driver.sock"

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9,
    ARGUMENT_VERSION_MISMATCH = 25, UNKNOWN = 999, KILL = -1, MAX_FRAME = 65536, MAX_REQUEST = 4096,
};

typedef uint64_t Handle; /* nvmlDevice_t, nvmlGpuInstance_t, nvmlComputeInstance_t: opaque to every client */
typedef uint32_t u32;
typedef uint64_t u64;

/* An input value; an output value with its room, which a client may leave out when it is not required. */
struct in { const void *at; size_t size; };
struct out { void *at; size_t room; int required; };

/* -- connection --------------------------------------------------------------------------------------------------- */

struct connection {
    int fd;
    pid_t pid;           /* a forked child must not share its parent's connection */
    unsigned generation; /* the socket path it was made for */
    char frame[MAX_FRAME];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t connection_key;
static __thread struct connection *mine;
static char socket_path[sizeof(((struct sockaddr_un *)0)->sun_path)];
static unsigned generation;
static int initialised;

static void end_connection(void *connection)
{
    close(((struct connection *)connection)->fd);
    free(connection);
}

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }

static void prepare(void)
{
    pthread_key_create(&connection_key, end_connection);
    pthread_atfork(before_fork, after_fork, after_fork);
}

static void drop_connection(void)
{
    if (mine->fd >= 0)
        close(mine->fd);
    mine->fd = -1;
}

/* Makes sure that this thread has a connection to the present socket; 0 when the daemon is not there. */
static int connected(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    unsigned wanted;

    pthread_once(&once, prepare);
    if (!mine) {
        mine = malloc(sizeof *mine);
        if (!mine)
            return 0;
        mine->fd = -1;
        pthread_setspecific(connection_key, mine);
    }
    pthread_mutex_lock(&lock);
    wanted = generation;
    memcpy(address.sun_path, socket_path, sizeof address.sun_path);
    pthread_mutex_unlock(&lock);
    if (mine->fd >= 0 && mine->pid == getpid() && mine->generation == wanted)
        return 1;
    drop_connection();
    mine->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (mine->fd < 0)
        return 0;
    if (connect(mine->fd, (struct sockaddr *)&address, sizeof address) != 0) {
        drop_connection();
        return 0;
    }
    mine->pid = getpid();
    mine->generation = wanted;
    return 1;
}

static int send_all(const char *at, size_t size)
{
    while (size) {
        ssize_t done = send(mine->fd, at, size, MSG_NOSIGNAL);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return 0;
        at += done;
        size -= (size_t)done;
    }
    return 1;
}

/* Reads one frame into mine->frame; the length of its body, or 0. */
static size_t receive(void)
{
    size_t have = 0;
    u32 size = 0;

    while (have < sizeof size || have < sizeof size + size) {
        ssize_t done = recv(mine->fd, mine->frame + have, sizeof mine->frame - have, 0);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return 0;
        have += (size_t)done;
        if (have >= sizeof size) {
            memcpy(&size, mine->frame, sizeof size);
            if (size > sizeof mine->frame - sizeof size)
                return 0;
        }
    }
    return size;
}

/* One call. A daemon that is not there is a driver that is not loaded. */
static int exchange(const char *name, const struct in *ins, size_t in_count, const struct out *outs, size_t out_count)
{
    char request[MAX_REQUEST];
    size_t size = sizeof(u32), left;
    const char *at;
    u32 length;
    int32_t status;

    request[size++] = (char)strlen(name);
    memcpy(request + size, name, strlen(name));
    size += strlen(name);
    for (size_t i = 0; i < in_count; i++) {
        if (!ins[i].at || ins[i].size > sizeof request - size)
            return INVALID_ARGUMENT;
        memcpy(request + size, ins[i].at, ins[i].size);
        size += ins[i].size;
    }
    for (size_t i = 0; i < out_count; i++)
        if (outs[i].required && !outs[i].at)
            return INVALID_ARGUMENT;
    length = (u32)(size - sizeof length);
    memcpy(request, &length, sizeof length);

    if (!connected())
        return DRIVER_NOT_LOADED;
    if (!send_all(request, size)) { /* a daemon that was started again: its socket is another one */
        drop_connection();
        if (!connected() || !send_all(request, size))
            return DRIVER_NOT_LOADED;
    }
    left = receive();
    if (left < sizeof status) {
        drop_connection();
        return UNKNOWN;
    }
    at = mine->frame + sizeof(u32);
    memcpy(&status, at, sizeof status);
    at += sizeof status;
    left -= sizeof status;
    if (status == KILL)
        kill(getpid(), SIGKILL);
    for (size_t i = 0; i < out_count && left >= sizeof length; i++) {
        memcpy(&length, at, sizeof length);
        at += sizeof length;
        left -= sizeof length;
        if (length > left)
            return UNKNOWN;
        if (outs[i].at && length > outs[i].room)
            return INSUFFICIENT_SIZE;
        if (outs[i].at && length)
            memcpy(outs[i].at, at, length);
        at += length;
        left -= length;
    }
    return status;
}

static int call(const char *name, const struct in *ins, size_t in_count, const struct out *outs, size_t out_count)
{
    if (!__atomic_load_n(&initialised, __ATOMIC_ACQUIRE))
        return UNINITIALIZED;
    return exchange(name, ins, in_count, outs, out_count);
}

/* -- shapes of calls ---------------------------------------------------------------------------------------------- */

#define IN(value) {&(value), sizeof(value)},
#define TEXT(string) {string, (string) ? strlen(string) : 0},
#define OUT(pointer) {pointer, sizeof *(pointer), 1},
#define ROOM(pointer, size) {pointer, size, 1},
#define MAYBE(pointer, size) {pointer, size, 0},
#define CALL(ins, outs)                                                                                                \
    call(__func__, (const struct in[]){ins}, sizeof((const struct in[]){ins}) / sizeof(struct in),                     \
         (const struct out[]){outs}, sizeof((const struct out[]){outs}) / sizeof(struct out))

/* A structure whose first word is its version and, in the low three bytes, its size. */
#define VERSIONED_ROOM(pointer) ((pointer) ? *(const u32 *)(pointer)&0xffffff : 0)
/* Arrays whose room the client tells; arrays that NVML expects to be large enough without being told. */
#define COUNTED(count, size) ((count) ? (size_t) * (count) * (size) : 0)
#define TRUSTED MAX_FRAME

#define GET(name, type)                                                                                                \
    API int name(Handle device, type *value) { return CALL(IN(device), OUT(value)); }
#define GET2(name, type)                                                                                               \
    API int name(Handle device, type *first, type *second) { return CALL(IN(device), OUT(first) OUT(second)); }
#define GET_BY(name, type)                                                                                             \
    API int name(Handle device, u32 which, type *value) { return CALL(IN(device) IN(which), OUT(value)); }
#define GET_TEXT(name)                                                                                                 \
    API int name(Handle device, char *text, u32 size) { return CALL(IN(device) IN(size), ROOM(text, size)); }
#define GET_STRUCT(name, size)                                                                                         \
    API int name(Handle device, void *value) { return CALL(IN(device), ROOM(value, size)); }
#define GET_STRUCT_BY(name, size)                                                                                      \
    API int name(Handle device, u32 which, void *value) { return CALL(IN(device) IN(which), ROOM(value, size)); }
#define GET_ARRAY(name, item)                                                                                          \
    API int name(Handle device, u32 *count, void *items)                                                               \
    {                                                                                                                  \
        const u32 room = count && items ? *count : 0;                                                                  \
        return CALL(IN(device) IN(room), OUT(count) MAYBE(items, COUNTED(count, item)));                               \
    }
#define DO(name)                                                                                                       \
    API int name(Handle thing) { return CALL(IN(thing), ); }
#define FIND_TEXT(name)                                                                                                \
    API int name(const char *text, Handle *device) { return CALL(TEXT(text), OUT(device)); }
#define SYSTEM_TEXT(name)                                                                                              \
    API int name(char *text, u32 size) { return CALL(IN(size), ROOM(text, size)); }

/* -- initialisation, errors --------------------------------------------------------------------------------------- */

static int initialise(const char *name, u32 flags)
{
    const char *path = getenv("EMULATED_GPU_SOCKET");
    const struct in ins[] = {{&flags, sizeof flags}};
    int status;

    if (!path || !*path)
        path = DEFAULT_SOCKET;
    if (strlen(path) >= sizeof socket_path)
        return DRIVER_NOT_LOADED;
    pthread_mutex_lock(&lock);
    if (strcmp(path, socket_path) != 0) {
        memset(socket_path, 0, sizeof socket_path);
        strcpy(socket_path, path);
        generation++;
    }
    pthread_mutex_unlock(&lock);
    status = exchange(name, ins, 1, NULL, 0);
    if (status == SUCCESS)
        __atomic_add_fetch(&initialised, 1, __ATOMIC_ACQ_REL);
    return status;
}

API int nvmlInit(void) { return initialise(__func__, 0); }
API int nvmlInit_v2(void) { return initialise(__func__, 0); }
API int nvmlInitWithFlags(u32 flags) { return initialise(__func__, flags); }

API int nvmlShutdown(void)
{
    int status = CALL(, );

    if (status == DRIVER_NOT_LOADED) /* the daemon is gone; the process still gets out */
        status = SUCCESS;
    if (status == SUCCESS)
        __atomic_sub_fetch(&initialised, 1, __ATOMIC_ACQ_REL);
    return status;
}

/* Works without the driver, as the real one does: it is how a client tells that there is none. */
API const char *nvmlErrorString(int code)
{
    static const char *const texts[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions",
        "Already Initialized", "Not Found", "Insufficient Size", "Insufficient External Power", "Driver Not Loaded",
        "Timeout", "Interrupt Request Issue", "NVML Shared Library Not Found", "Function Not Found",
        "Corrupted infoROM", "GPU is lost", "GPU requires reset", "GPU access blocked by the operating system",
        "Driver/library version mismatch", "In use by another client", "Insufficient Memory", "No data",
        "The requested vgpu operation is not available because ECC is enabled", "Insufficient Resources",
        "Requested frequency is not supported", "Argument version mismatch", "Deprecated", "Not Ready",
        "GPU Not Found", "Invalid State",
    };
    return code >= 0 && (size_t)code < sizeof texts / sizeof *texts ? texts[code] : "Unknown Error";
}

/* -- the machine -------------------------------------------------------------------------------------------------- */

SYSTEM_TEXT(nvmlSystemGetDriverVersion)
SYSTEM_TEXT(nvmlSystemGetNVMLVersion)
API int nvmlSystemGetCudaDriverVersion(int *version) { return CALL(, OUT(version)); }
API int nvmlSystemGetCudaDriverVersion_v2(int *version) { return CALL(, OUT(version)); }
API int nvmlSystemGetProcessName(u32 pid, char *name, u32 size) { return CALL(IN(pid) IN(size), ROOM(name, size)); }

API int nvmlDeviceGetCount(u32 *count) { return CALL(, OUT(count)); }
API int nvmlDeviceGetCount_v2(u32 *count) { return CALL(, OUT(count)); }
API int nvmlDeviceGetHandleByIndex(u32 index, Handle *device) { return CALL(IN(index), OUT(device)); }
API int nvmlDeviceGetHandleByIndex_v2(u32 index, Handle *device) { return CALL(IN(index), OUT(device)); }
FIND_TEXT(nvmlDeviceGetHandleByPciBusId)
FIND_TEXT(nvmlDeviceGetHandleByPciBusId_v2)
FIND_TEXT(nvmlDeviceGetHandleByUUID)
FIND_TEXT(nvmlDeviceGetHandleBySerial)

/* -- a device ----------------------------------------------------------------------------------------------------- */

GET_TEXT(nvmlDeviceGetName)
GET_TEXT(nvmlDeviceGetUUID)
GET_TEXT(nvmlDeviceGetSerial)
GET_TEXT(nvmlDeviceGetVbiosVersion)
GET(nvmlDeviceGetIndex, u32)
GET(nvmlDeviceGetMinorNumber, u32)
GET(nvmlDeviceGetBrand, u32)
GET(nvmlDeviceGetArchitecture, u32)
GET2(nvmlDeviceGetCudaComputeCapability, u32)
GET_STRUCT(nvmlDeviceGetPciInfo_v2, 52)
GET_STRUCT(nvmlDeviceGetPciInfo_v3, 68)
API int nvmlDeviceGetPciInfoExt(Handle device, u32 *info)
{
    const u32 version = info ? *info : 0;
    return CALL(IN(device) IN(version), ROOM(info, VERSIONED_ROOM(info)));
}
GET_STRUCT(nvmlDeviceGetMemoryInfo, 24)
GET_STRUCT(nvmlDeviceGetBAR1MemoryInfo, 24)
GET_STRUCT(nvmlDeviceGetUtilizationRates, 8)
GET(nvmlDeviceGetComputeMode, u32)
GET(nvmlDeviceGetPersistenceMode, u32)
GET(nvmlDeviceGetPerformanceState, u32)
GET2(nvmlDeviceGetEccMode, u32)
API int nvmlDeviceGetTotalEccErrors(Handle device, u32 error, u32 counter, u64 *count)
{
    return CALL(IN(device) IN(error) IN(counter), OUT(count));
}
GET(nvmlDeviceGetRetiredPagesPendingStatus, u32)
GET(nvmlDeviceGetPowerUsage, u32)
GET(nvmlDeviceGetPowerManagementLimit, u32)
GET(nvmlDeviceGetEnforcedPowerLimit, u32)
GET(nvmlDeviceGetTotalEnergyConsumption, u64)
GET_BY(nvmlDeviceGetTemperature, u32)
GET_BY(nvmlDeviceGetClockInfo, u32)
GET_BY(nvmlDeviceGetMaxClockInfo, u32)
GET_BY(nvmlDeviceGetApplicationsClock, u32)
GET_BY(nvmlDeviceGetDefaultApplicationsClock, u32)
GET_ARRAY(nvmlDeviceGetSupportedMemoryClocks, sizeof(u32))
API int nvmlDeviceGetSupportedGraphicsClocks(Handle device, u32 memory_clock, u32 *count, u32 *clocks)
{
    const u32 room = count && clocks ? *count : 0;
    return CALL(IN(device) IN(memory_clock) IN(room), OUT(count) MAYBE(clocks, COUNTED(count, sizeof *clocks)));
}
API int nvmlDeviceSetApplicationsClocks(Handle device, u32 memory, u32 graphics)
{
    return CALL(IN(device) IN(memory) IN(graphics), );
}
DO(nvmlDeviceResetApplicationsClocks)
API int nvmlDeviceGetCpuAffinity(Handle device, u32 words, unsigned long *set)
{
    return CALL(IN(device) IN(words), ROOM(set, words * sizeof *set));
}
API int nvmlDeviceGetCpuAffinityWithinScope(Handle device, u32 words, unsigned long *set, u32 scope)
{
    return CALL(IN(device) IN(words) IN(scope), ROOM(set, words * sizeof *set));
}
API int nvmlDeviceGetMemoryAffinity(Handle device, u32 words, unsigned long *set, u32 scope)
{
    return CALL(IN(device) IN(words) IN(scope), ROOM(set, words * sizeof *set));
}

GET_BY(nvmlDeviceGetNvLinkState, u32)
GET_BY(nvmlDeviceGetNvLinkVersion, u32)
GET_STRUCT_BY(nvmlDeviceGetNvLinkRemotePciInfo, 52)
GET_STRUCT_BY(nvmlDeviceGetNvLinkRemotePciInfo_v2, 68)

/* Process lists: the first version had two fields (16 bytes), later ones have the instance ids too (24). */
GET_ARRAY(nvmlDeviceGetComputeRunningProcesses, 16)
GET_ARRAY(nvmlDeviceGetComputeRunningProcesses_v2, 24)
GET_ARRAY(nvmlDeviceGetGraphicsRunningProcesses, 16)
GET_ARRAY(nvmlDeviceGetGraphicsRunningProcesses_v2, 24)
API int nvmlDeviceGetProcessUtilization(Handle device, void *samples, u32 *count, u64 since)
{
    return CALL(IN(device) IN(since), MAYBE(samples, 0) OUT(count));
}

/* -- MIG ---------------------------------------------------------------------------------------------------------- */

GET2(nvmlDeviceGetMigMode, u32)
API int nvmlDeviceSetMigMode(Handle device, u32 mode, u32 *activation) { return CALL(IN(device) IN(mode), OUT(activation)); }
GET(nvmlDeviceIsMigDeviceHandle, u32)
GET(nvmlDeviceGetMaxMigDeviceCount, u32)
GET_BY(nvmlDeviceGetMigDeviceHandleByIndex, Handle)
GET(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, Handle)
GET(nvmlDeviceGetGpuInstanceId, u32)
GET(nvmlDeviceGetComputeInstanceId, u32)
GET_STRUCT(nvmlDeviceGetAttributes, 40)
GET_STRUCT(nvmlDeviceGetAttributes_v2, 40)

GET_STRUCT_BY(nvmlDeviceGetGpuInstanceProfileInfo, 48)
GET_BY(nvmlDeviceGetGpuInstanceRemainingCapacity, u32)
API int nvmlDeviceGetGpuInstancePossiblePlacements(Handle device, u32 profile, void *placements, u32 *count)
{
    return CALL(IN(device) IN(profile), MAYBE(placements, TRUSTED) OUT(count));
}
GET_BY(nvmlDeviceCreateGpuInstance, Handle)
API int nvmlDeviceGetGpuInstances(Handle device, u32 profile, Handle *instances, u32 *count)
{
    return CALL(IN(device) IN(profile), ROOM(instances, TRUSTED) OUT(count));
}
GET_BY(nvmlDeviceGetGpuInstanceById, Handle)
GET_STRUCT(nvmlGpuInstanceGetInfo, 24)
DO(nvmlGpuInstanceDestroy)

API int nvmlGpuInstanceGetComputeInstanceProfileInfo(Handle instance, u32 profile, u32 engine, void *info)
{
    return CALL(IN(instance) IN(profile) IN(engine), ROOM(info, 36));
}
GET_BY(nvmlGpuInstanceGetComputeInstanceRemainingCapacity, u32)
GET_BY(nvmlGpuInstanceCreateComputeInstance, Handle)
API int nvmlGpuInstanceGetComputeInstances(Handle instance, u32 profile, Handle *instances, u32 *count)
{
    return CALL(IN(instance) IN(profile), ROOM(instances, TRUSTED) OUT(count));
}
GET_BY(nvmlGpuInstanceGetComputeInstanceById, Handle)
GET_STRUCT(nvmlComputeInstanceGetInfo, 24)
DO(nvmlComputeInstanceDestroy)

/* -- what younger drivers added ----------------------------------------------------------------------------------- */
#ifndef OLD_LIBRARY

API int nvmlDeviceGetMemoryInfo_v2(Handle device, u32 *info)
{
    const u32 version = info ? *info : 0;
    return CALL(IN(device) IN(version), ROOM(info, VERSIONED_ROOM(info)));
}
GET(nvmlDeviceGetNumaNodeId, u32)
API int nvmlDeviceGetRemappedRows(Handle device, u32 *corrected, u32 *uncorrected, u32 *pending, u32 *failed)
{
    return CALL(IN(device), OUT(corrected) OUT(uncorrected) OUT(pending) OUT(failed));
}
GET_BY(nvmlDeviceGetNvLinkRemoteDeviceType, u32)
GET_ARRAY(nvmlDeviceGetComputeRunningProcesses_v3, 24)
GET_ARRAY(nvmlDeviceGetGraphicsRunningProcesses_v3, 24)
GET_ARRAY(nvmlDeviceGetMPSComputeRunningProcesses_v3, 24)

API int nvmlDeviceGetGpuInstanceProfileInfoV(Handle device, u32 profile, u32 *info)
{
    const u32 version = info ? *info : 0;
    return CALL(IN(device) IN(profile) IN(version), ROOM(info, VERSIONED_ROOM(info)));
}
API int nvmlDeviceGetGpuInstancePossiblePlacements_v2(Handle device, u32 profile, void *placements, u32 *count)
{
    return CALL(IN(device) IN(profile), MAYBE(placements, TRUSTED) OUT(count));
}
API int nvmlDeviceCreateGpuInstanceWithPlacement(Handle device, u32 profile, const u64 *placement, Handle *instance)
{
    return CALL(IN(device) IN(profile) IN(*placement), OUT(instance));
}
API int nvmlGpuInstanceGetComputeInstanceProfileInfoV(Handle instance, u32 profile, u32 engine, u32 *info)
{
    const u32 version = info ? *info : 0;
    return CALL(IN(instance) IN(profile) IN(engine) IN(version), ROOM(info, VERSIONED_ROOM(info)));
}
API int nvmlGpuInstanceGetComputeInstancePossiblePlacements(Handle instance, u32 profile, void *placements, u32 *count)
{
    return CALL(IN(instance) IN(profile), MAYBE(placements, TRUSTED) OUT(count));
}
API int nvmlGpuInstanceCreateComputeInstanceWithPlacement(Handle instance, u32 profile, const u64 *placement, Handle *created)
{
    return CALL(IN(instance) IN(profile) IN(*placement), OUT(created));
}
GET_STRUCT(nvmlComputeInstanceGetInfo_v2, 32)

#endif

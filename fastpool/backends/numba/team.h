/* Kernels run by the calling thread and its helpers: one team of threads in a process, which has one call at a time.
 *
 * A call is cut into chunks of consecutive work items. Each thread that is free takes the next chunk: the caller from the
 * front, helpers from the back. So when a call is repeated, each core takes mostly the same items, which are still in its
 * cache. When no chunk is left, the caller waits for those that helpers still run. While the team has another caller's
 * call, `team_run` does nothing, and the caller runs its kernel alone.
 *
 * `team.state` is a single integer, so that it changes atomically. From the top bits down it holds: a count of
 * calls, of 28 bits, by which a thread that was late notices that its call is over; the chunks of the call; how many of
 * them are taken from the front; and from the back.
 *
 * Helpers are native threads that use nothing of Python but its locks, which need no GIL. After each chunk they watch the
 * state for a while before they sleep, since waking a thread takes as long as moving a megabyte. A child process after a
 * fork starts helpers of its own.
 */

#ifndef FASTPOOL_TEAM_H
#define FASTPOOL_TEAM_H

#include <Python.h>
#include <pythread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#ifdef _WIN32
#include <windows.h>
#define team_yield() SwitchToThread()
#else
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#define team_yield() sched_yield()
#endif

/* Wait for some tens of nanoseconds, and leave the core to its other hardware thread meanwhile. On most ARM processors
 * `yield` takes no time; `isb`, which refills the pipeline, does. */
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#define team_pause() _mm_pause()
#elif defined(__aarch64__) && defined(__GNUC__)
#define team_pause() __asm__ volatile("isb")
#elif defined(_M_ARM64)
#include <intrin.h>
#define team_pause() __isb(_ARM64_BARRIER_SY)
#else
#define team_pause() ((void)0)
#endif

/* How a thread calculates with floats: rounding, and whether subnormals are flushed to zero, as torch.set_flush_denormal
 * has it. Helpers do as their caller does, so that results do not depend on which thread computes them. */
#if defined(__x86_64__) || defined(_M_X64)
typedef unsigned int team_float_mode;
#define team_get_float_mode() _mm_getcsr()
#define team_set_float_mode(mode) _mm_setcsr(mode)
#elif defined(__aarch64__) && defined(__GNUC__)
typedef uint64_t team_float_mode;
static team_float_mode team_get_float_mode(void) {
    team_float_mode mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
#define team_set_float_mode(mode) __asm__ volatile("msr fpcr, %0" : : "r"(mode))
#else
typedef int team_float_mode;
#define team_get_float_mode() 0
#define team_set_float_mode(mode) ((void)(mode))
#endif

/* A kernel: its arguments in words of eight bytes, this thread's scratch, and the work items from `begin` up to `end`. */
typedef void (*team_kernel)(const int64_t *words, char *scratch, int64_t begin, int64_t end);

#define TEAM_BITS 12
#define TEAM_MOST_CHUNKS ((1 << TEAM_BITS) - 1)
#define TEAM_MOST_HELPERS 255

/* How many times a helper polls for a chunk, with a pause each time, before it sleeps: a tenth of a millisecond or two. */
static atomic_int team_watch = 5000;
/* After so many pauses, some tens of microseconds, a caller that waits for the chunks of helpers yields its core: a helper
 * may need it. */
#define TEAM_MOST_PAUSES 1000

typedef struct {
    atomic_int asleep;
    PyThread_type_lock wake; /* locked but for waking: the helper sleeps in acquiring it, and who releases it wakes it */
} team_helper;

static struct {
    atomic_int busy;         /* whether the team has a call */
    _Atomic uint64_t state;  /* see above */
    _Atomic int64_t done;    /* how many chunks are done */
    atomic_int helpers;      /* how many helpers the call has scratch for: others take no chunk of it */
    team_kernel kernel;
    const int64_t *words;
    char *scratch;
    int64_t scratch_bytes, items;
    team_float_mode float_mode; /* of the caller */
    atomic_int starting;     /* whether a thread is in `team_start` */
    atomic_int started;      /* how many helpers there are */
    team_helper helper[TEAM_MOST_HELPERS];
} team;

/* Take a chunk and run it, as the caller (thread 0) or a helper. 0 if none is left to take; 1 also if another thread took
 * it first: try again. */
static int team_take_chunk(int thread) {
    uint64_t state = atomic_load_explicit(&team.state, memory_order_acquire);
    const uint64_t back = state & TEAM_MOST_CHUNKS, front = state >> TEAM_BITS & TEAM_MOST_CHUNKS;
    const uint64_t chunks = state >> 2 * TEAM_BITS & TEAM_MOST_CHUNKS;
    if (front + back >= chunks || thread > atomic_load_explicit(&team.helpers, memory_order_relaxed))
        return 0;
    const int64_t chunk = thread == 0 ? front : chunks - 1 - back;
    const uint64_t next = state + (thread == 0 ? 1 << TEAM_BITS : 1);
    /* The exchange fails if the state belongs to another call by now. Once it succeeds, the fields of the call stay as
     * they are until its last chunk is done: its caller waits for this one. */
    if (atomic_compare_exchange_strong_explicit(&team.state, &state, next, memory_order_acq_rel,
                                                memory_order_relaxed)) {
        /* Not items * chunk / chunks, which may overflow. */
        const int64_t each = team.items / (int64_t)chunks, more = team.items % (int64_t)chunks;
        const int64_t begin = each * chunk + (chunk < more ? chunk : more);
        if (thread != 0)
            team_set_float_mode(team.float_mode);
        team.kernel(team.words, team.scratch + thread * team.scratch_bytes, begin, begin + each + (chunk < more));
        atomic_fetch_add_explicit(&team.done, 1, memory_order_release);
    }
    return 1;
}

static void team_help(void *index) {
    const int helper = (int)(intptr_t)index;
    team_helper *me = &team.helper[helper];
    for (;;) {
        for (int idle = 0; idle < atomic_load_explicit(&team_watch, memory_order_relaxed); idle++) {
            if (team_take_chunk(helper + 1))
                idle = 0;
            team_pause();
        }
        atomic_store(&me->asleep, 1);
        PyThread_acquire_lock(me->wake, WAIT_LOCK); /* `team_wake` sets `asleep` to 0 before it releases the lock */
    }
}

/* A new thread inherits which signals are blocked. Helpers get only those of errors in their own code; all others are for
 * the threads of the program. */
#ifdef _WIN32
typedef int team_signals;
#define team_block_signals(before) ((void)(before))
#define team_restore_signals(before) ((void)(before))
#else
typedef sigset_t team_signals;
#ifdef __linux__
#define team_set_signals sigprocmask /* of this thread alone; pthread_sigmask would need a newer C library */
#else
#define team_set_signals pthread_sigmask
#endif

static void team_block_signals(team_signals *before) {
    const int errors[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    sigset_t others;
    sigfillset(&others);
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        sigdelset(&others, errors[i]);
    team_set_signals(SIG_BLOCK, &others, before);
}

static void team_restore_signals(const team_signals *before) { team_set_signals(SIG_SETMASK, before, NULL); }
#endif

/* Start helpers until there are `count`, or as many as the system allows. To be called before `team_run`, with the GIL. */
static void team_start(int count) {
    int idle = 0;
    if (atomic_load(&team.started) >= count || !atomic_compare_exchange_strong(&team.starting, &idle, 1))
        return;
    team_signals before;
    team_block_signals(&before);
    for (int started = atomic_load(&team.started); started < count; started++) {
        PyThread_type_lock wake = PyThread_allocate_lock();
        if (wake == NULL)
            break;
        PyThread_acquire_lock(wake, WAIT_LOCK);
        team.helper[started].wake = wake;
        if (PyThread_start_new_thread(team_help, (void *)(intptr_t)started) == PYTHREAD_INVALID_THREAD_ID) {
            PyThread_release_lock(wake);
            PyThread_free_lock(wake);
            break;
        }
        atomic_store(&team.started, started + 1);
    }
    team_restore_signals(&before);
    atomic_store(&team.starting, 0);
}

/* Wake those of the first `count` helpers that sleep. Only the caller that holds `busy` may do so. */
static void team_wake(int count) {
    const int started = atomic_load(&team.started);
    for (int helper = 0; helper < count && helper < started; helper++) {
        int asleep = 1;
        if (atomic_compare_exchange_strong(&team.helper[helper].asleep, &asleep, 0))
            PyThread_release_lock(team.helper[helper].wake);
    }
}

/* Run a call in so many chunks with up to `helpers` helpers, at most TEAM_MOST_HELPERS. `scratch` has `scratch_bytes` for
 * the caller, and then as many for each helper. 0, with nothing done, if the team has another call. */
static int team_run(team_kernel kernel, const int64_t *words, char *scratch, int64_t scratch_bytes, int64_t items,
                    int64_t chunks, int helpers) {
    int idle = 0;
    if (!atomic_compare_exchange_strong(&team.busy, &idle, 1))
        return 0;
    team_wake(helpers);
    team.kernel = kernel;
    team.words = words;
    team.scratch = scratch;
    team.scratch_bytes = scratch_bytes;
    team.items = items;
    team.float_mode = team_get_float_mode();
    atomic_store_explicit(&team.done, 0, memory_order_relaxed);
    atomic_store_explicit(&team.helpers, helpers, memory_order_relaxed);
    const uint64_t call = (atomic_load_explicit(&team.state, memory_order_relaxed) >> 3 * TEAM_BITS) + 1;
    atomic_store_explicit(&team.state, (call << TEAM_BITS | (uint64_t)chunks) << 2 * TEAM_BITS, memory_order_release);
    while (team_take_chunk(0))
        ;
    for (int waited = 0; atomic_load_explicit(&team.done, memory_order_acquire) < chunks;) {
        if (waited < TEAM_MOST_PAUSES) {
            team_pause();
            waited++;
        } else
            team_yield();
    }
    atomic_store_explicit(&team.busy, 0, memory_order_release);
    return 1;
}

/* How many times helpers poll before they sleep from now on; how many it was before. */
static int team_set_watch(int pauses) { return atomic_exchange(&team_watch, pauses); }

static int team_size(void) { return atomic_load(&team.started); }

/* Threads do not survive a fork: the child begins with a team of none. */
static void team_forget(void) { memset((void *)&team, 0, sizeof team); }

static void team_follow_forks(void) {
#ifndef _WIN32
    pthread_atfork(NULL, NULL, team_forget);
#endif
}

#endif

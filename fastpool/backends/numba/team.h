/* Kernels run by the calling thread and its helpers.
 *
 * A call is cut into chunks of work items. Whoever is free takes the next chunk: the caller from the front, helpers from
 * the back, so that the same call made again finds in each core's cache what it left there. The caller waits only for
 * chunks that a helper has taken. A caller that finds the mailbox taken by another's call runs alone.
 *
 * The mailbox's state is one number, so that it changes at once: from the top bits down, the number of the call, its
 * chunks, and how many of them are taken from the front and from the back.
 *
 * Helpers are native threads that use nothing of Python but its locks, which need no GIL. They watch the mailbox for a
 * while after each chunk, since waking a sleeping thread takes as long as moving a megabyte, and then sleep. A forked
 * child starts its own.
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

/* Let the processor rest for some tens of nanoseconds. `yield` takes no time on most ARM processors; `isb` does, since it
 * refills the pipeline. */
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

/* The arguments in words of eight bytes, this thread's scratch, and the work items from `begin` up to `end`. */
typedef void (*team_kernel)(const int64_t *words, char *scratch, int64_t begin, int64_t end);

#define TEAM_BITS 12
#define TEAM_MOST_CHUNKS ((1 << TEAM_BITS) - 1)
#define TEAM_MOST_HELPERS 255

/* Pauses that a helper watches for before it sleeps: a tenth of a millisecond or two. */
static atomic_int team_watch = 5000;
/* Pauses, some tens of microseconds, after which a caller that waits for a helper's chunk leaves its core to others. */
#define TEAM_PATIENCE 1000

typedef struct {
    atomic_int asleep;
    PyThread_type_lock call; /* a semaphore: the helper takes it to fall asleep, and whoever wakes the helper gives it */
} team_helper;

static struct {
    atomic_int taken;        /* whether a call has the mailbox */
    _Atomic uint64_t state;
    _Atomic int64_t done;    /* chunks */
    atomic_int helpers;      /* that the call has scratch for */
    team_kernel kernel;
    const int64_t *words;
    char *scratch;
    int64_t scratch_bytes, items;
    atomic_int starting, started;
    team_helper helper[TEAM_MOST_HELPERS];
} team;

/* Take a chunk and run it, as the caller (thread 0) or a helper; 0 if none is left to take. */
static int team_take_chunk(int thread) {
    uint64_t state = atomic_load_explicit(&team.state, memory_order_acquire);
    const uint64_t back = state & TEAM_MOST_CHUNKS, front = state >> TEAM_BITS & TEAM_MOST_CHUNKS;
    const uint64_t chunks = state >> 2 * TEAM_BITS & TEAM_MOST_CHUNKS;
    if (front + back >= chunks || thread > atomic_load_explicit(&team.helpers, memory_order_relaxed))
        return 0;
    const int64_t chunk = thread == 0 ? front : chunks - 1 - back;
    const uint64_t next = state + (thread == 0 ? 1 << TEAM_BITS : 1);
    /* After this exchange the call's fields stay as they are until its last chunk is done. */
    if (atomic_compare_exchange_strong_explicit(&team.state, &state, next, memory_order_acq_rel,
                                                memory_order_relaxed)) {
        /* Not items * chunk / chunks, which may overflow. */
        const int64_t each = team.items / (int64_t)chunks, more = team.items % (int64_t)chunks;
        const int64_t begin = each * chunk + (chunk < more ? chunk : more);
        team.kernel(team.words, team.scratch + thread * team.scratch_bytes, begin, begin + each + (chunk < more));
        atomic_fetch_add_explicit(&team.done, 1, memory_order_release);
    }
    return 1;
}

static void team_help(void *number) {
    const int helper = (int)(intptr_t)number;
    team_helper *me = &team.helper[helper];
    for (;;) {
        for (int idle = 0; idle < atomic_load_explicit(&team_watch, memory_order_relaxed); idle++) {
            if (team_take_chunk(helper + 1))
                idle = 0;
            team_pause();
        }
        atomic_store(&me->asleep, 1);
        PyThread_acquire_lock(me->call, WAIT_LOCK); /* whoever releases it has set `asleep` to 0 */
    }
}

/* Let a new thread, which inherits what is blocked here, take only signals that tell of an error in itself: all others are
 * for the threads of the program. */
#ifdef _WIN32
typedef int team_signals;
#define team_block_signals(before) ((void)(before))
#define team_restore_signals(before) ((void)(before))
#else
typedef sigset_t team_signals;
#ifdef __linux__
#define team_set_signals sigprocmask /* of this thread; the other name asks for a newer C library */
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

/* See to it that so many helpers are there, if the system lets them: before `team_run`, and with the GIL. */
static void team_start(int count) {
    int idle = 0;
    if (atomic_load(&team.started) >= count || !atomic_compare_exchange_strong(&team.starting, &idle, 1))
        return;
    team_signals before;
    team_block_signals(&before);
    for (int started = atomic_load(&team.started); started < count; started++) {
        PyThread_type_lock call = PyThread_allocate_lock();
        if (call == NULL)
            break;
        PyThread_acquire_lock(call, WAIT_LOCK);
        team.helper[started].call = call;
        if (PyThread_start_new_thread(team_help, (void *)(intptr_t)started) == PYTHREAD_INVALID_THREAD_ID) {
            PyThread_release_lock(call);
            PyThread_free_lock(call);
            break;
        }
        atomic_store(&team.started, started + 1);
    }
    team_restore_signals(&before);
    atomic_store(&team.starting, 0);
}

/* Wake up to `count` helpers that sleep. Only who has the mailbox calls it. */
static void team_wake(int count) {
    const int started = atomic_load(&team.started);
    for (int helper = 0; helper < count && helper < started; helper++) {
        int asleep = 1;
        if (atomic_compare_exchange_strong(&team.helper[helper].asleep, &asleep, 0))
            PyThread_release_lock(team.helper[helper].call);
    }
}

/* Run a call in so many chunks with up to `helpers` helpers, at most TEAM_MOST_HELPERS, each of which has its part of the
 * scratch behind the caller's. 0, and nothing has been done, where another call has the mailbox. */
static int team_run(team_kernel kernel, const int64_t *words, char *scratch, int64_t scratch_bytes, int64_t items,
                    int64_t chunks, int helpers) {
    int free_mailbox = 0;
    if (!atomic_compare_exchange_strong(&team.taken, &free_mailbox, 1))
        return 0;
    team_wake(helpers);
    team.kernel = kernel;
    team.words = words;
    team.scratch = scratch;
    team.scratch_bytes = scratch_bytes;
    team.items = items;
    atomic_store_explicit(&team.done, 0, memory_order_relaxed);
    atomic_store_explicit(&team.helpers, helpers, memory_order_relaxed);
    const uint64_t call = (atomic_load_explicit(&team.state, memory_order_relaxed) >> 3 * TEAM_BITS) + 1;
    atomic_store_explicit(&team.state, (call << TEAM_BITS | (uint64_t)chunks) << 2 * TEAM_BITS, memory_order_release);
    while (team_take_chunk(0))
        ;
    for (int waited = 0; atomic_load_explicit(&team.done, memory_order_acquire) < chunks;) {
        if (waited < TEAM_PATIENCE) {
            team_pause();
            waited++;
        } else
            team_yield();
    }
    atomic_store_explicit(&team.taken, 0, memory_order_release);
    return 1;
}

static int team_set_watch(int pauses) { return atomic_exchange(&team_watch, pauses); }

static int team_size(void) { return atomic_load(&team.started); }

static void team_forget(void) { memset((void *)&team, 0, sizeof team); }

static void team_follow_forks(void) {
#ifndef _WIN32
    pthread_atfork(NULL, NULL, team_forget);
#endif
}

#endif

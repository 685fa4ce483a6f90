/* Thousands of calls of team.h from several threads at once, for ThreadSanitizer; tests/sanitize.py builds and runs it.
 *
 * Each item of a call is counted without atomics, and each thread writes to its scratch: any item that two threads do at
 * once, or that the caller reads before a helper has done it, is a race. With RACE defined the kernel writes to a place
 * of all threads, which must be reported. Locks are those of this file, and so are threads, in place of Python's.
 */

#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>

#include "team.h"

PyThread_type_lock PyThread_allocate_lock(void) {
    sem_t *lock = malloc(sizeof *lock);
    sem_init(lock, 0, 1);
    return lock;
}

void PyThread_free_lock(PyThread_type_lock lock) { free(lock); }

int PyThread_acquire_lock(PyThread_type_lock lock, int wait) {
    (void)wait;
    while (sem_wait(lock))
        ;
    return 1;
}

void PyThread_release_lock(PyThread_type_lock lock) { sem_post(lock); }

static void *begin(void *work) {
    void **both = work, *argument = both[1];
    void (*function)(void *) = (void (*)(void *))both[0];
    free(work);
    function(argument);
    return NULL;
}

unsigned long PyThread_start_new_thread(void (*function)(void *), void *argument) {
    pthread_t thread;
    void **both = malloc(2 * sizeof *both);
    both[0] = (void *)function, both[1] = argument;
    if (pthread_create(&thread, NULL, begin, both))
        return PYTHREAD_INVALID_THREAD_ID;
    pthread_detach(thread);
    return 1;
}

enum { ITEMS = 100, CALLERS = 4, HELPERS = 3, CALLS = 5000, SCRATCH = 64 };

static int64_t shared;
static atomic_long helped; /* chunks that helpers did */

static void count(const int64_t *words, char *scratch, int64_t first, int64_t last) {
    int64_t *counts = (int64_t *)words[0];
    if (scratch != (char *)words[1])
        atomic_fetch_add_explicit(&helped, 1, memory_order_relaxed); /* which orders nothing, so hides no race */
    memset(scratch, (int)first, SCRATCH);
    for (int64_t item = first; item < last; item++)
        counts[item]++;
#ifdef RACE
    shared += scratch[0];
#endif
}

static void *call_often(void *result) {
    char scratch[(HELPERS + 1) * SCRATCH];
    int64_t counts[ITEMS] = {0}, words[] = {(int64_t)counts, (int64_t)scratch};
    int64_t all = 0;
    for (int call = 0; call < CALLS; call++) {
        team_start(1 + call % HELPERS);
        if (team_run(count, words, scratch, SCRATCH, ITEMS, 1 + call % 20, 1 + call % HELPERS)) {
            all++;
            if (call % 500 == 0) { /* let helpers fall asleep */
                struct timespec pause = {0, 2000000};
                nanosleep(&pause, NULL);
            }
        } else
            sched_yield();
        for (int item = 0; item < ITEMS; item++)
            if (counts[item] != all) {
                fprintf(stderr, "item %d was done %ld times of %ld\n", item, (long)counts[item], (long)all);
                exit(3);
            }
    }
    *(int64_t *)result = all;
    return NULL;
}

int main(void) {
    pthread_t callers[CALLERS];
    int64_t done[CALLERS], all = 0;
    for (int i = 0; i < CALLERS; i++)
        pthread_create(&callers[i], NULL, call_often, &done[i]);
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(callers[i], NULL);
        all += done[i];
    }
    printf("%ld calls were shared with %d helpers, which did %ld chunks\n", (long)all, team_size(), (long)helped);
    return all > CALLS / 2 && helped > 0 ? 0 : 2;
}

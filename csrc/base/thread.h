// Threads where Linux and macOS differ: their names, and conditions with a deadline on a clock that
// nobody sets.
// Limit: macOS's side is written by its manual; no Mac has run it yet.
// Who calls it: runtime/engine.c, backends/cpu/pool.c.
#ifndef CTOK_BASE_THREAD_H
#define CTOK_BASE_THREAD_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

// Names the calling thread, for debuggers; at most 15 characters.
static inline void thread_set_name(const char *name) {
#if defined(__APPLE__)
    (void)pthread_setname_np(name);
#else
    (void)pthread_setname_np(pthread_self(), name);
#endif
}

// Microseconds on a clock that never goes back; its zero is arbitrary.
static inline int64_t thread_now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static inline struct timespec thread_timespec(int64_t us) {
    return (struct timespec){.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
}

// Initialises a condition variable for thread_wait_until.
static inline void thread_condition_init(pthread_cond_t *condition) {
#if defined(__APPLE__)
    pthread_cond_init(condition, NULL);
#else
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &monotonic);
    pthread_condattr_destroy(&monotonic);
#endif
}

// Waits on a condition until thread_now_us would give `deadline`; false when it has passed. The
// lock is held.
static inline bool thread_wait_until(pthread_cond_t *condition, pthread_mutex_t *lock,
                                     int64_t deadline) {
#if defined(__APPLE__)
    int64_t left = deadline - thread_now_us();
    struct timespec t = thread_timespec(left > 0 ? left : 0);
    return pthread_cond_timedwait_relative_np(condition, lock, &t) != ETIMEDOUT;
#else
    struct timespec t = thread_timespec(deadline);
    return pthread_cond_timedwait(condition, lock, &t) != ETIMEDOUT;
#endif
}

#endif

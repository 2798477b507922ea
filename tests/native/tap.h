// What the native programs print, as TAP (https://testanything.org): a line "ok N - what" or "not
// ok N - what" for each case, and "1..N" at the end, which tests/run.ts counts. In C and, for the
// emulator's own test, in C++. Included once by each program.
#ifndef CTOK_TEST_TAP_H
#define CTOK_TEST_TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

static int num_cases, num_failed;

// One case; what it says is one line. Returns is_ok.
__attribute__((format(printf, 2, 3))) static inline bool report(bool is_ok, const char *format,
                                                                ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("%sok %d - ", is_ok ? "" : "not ", ++num_cases);
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    num_failed += !is_ok;
    return is_ok;
}

// A case that cannot run here, and why.
static inline void report_skip(const char *what, const char *why) {
    report(true, "%s # SKIP %s", what, why);
}

// Under QEMU, where tests/run.ts says so: threads after a fork hang there, and what the process
// takes of memory is the emulator's too.
static inline bool is_emulated(void) { return getenv("CTOK_EMULATED") != NULL; }

// The line that ends the output. Returns the program's exit status: 1 when a case failed.
static inline int report_end(void) {
    printf("1..%d\n", num_cases);
    return num_failed > 0;
}

#endif

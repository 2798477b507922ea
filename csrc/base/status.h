// Status and error text inside the core. A function that can fail returns a ctok_status and fills
// the ctok_error that its caller owns; nothing here is thread-local and nothing is printed. `error`
// may be NULL: the status alone is then kept.
#ifndef CTOK_BASE_STATUS_H
#define CTOK_BASE_STATUS_H

#include "../include/ctok.h"

// Fills *error (message in printf form, cut at its capacity) and returns `status`, so that a
// failure is one statement:
//     if (rank > 6) return ctok_fail(error, CTOK_E_FILE_FORMAT, rank,
//                                    "tensor %s: expected rank 0 to 6, found %d", name, rank);
// detail: a number for machines (an offset, a size, an index); 0 where there is none.
ctok_status ctok_fail(ctok_error *error, ctok_status status, int64_t detail, const char *format,
                      ...) __attribute__((format(printf, 4, 5)));

// Passes a failure on:  CTOK_TRY(checkpoint_open(&checkpoint, path, error));
#define CTOK_TRY(expression)                            \
    do {                                                \
        ctok_status try_status_ = (expression);         \
        if (try_status_ != CTOK_OK) return try_status_; \
    } while (0)

#endif

// Formats a failure into the caller's ctok_error. Called by every layer; prints nothing, allocates
// nothing.
#include "status.h"

#include <stdarg.h>
#include <stdio.h>

ctok_status ctok_fail(ctok_error *error, ctok_status status, int64_t detail, const char *format,
                      ...) {
    if (error) {
        error->status = status;
        error->detail = detail;
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(error->message, sizeof error->message, format, arguments);
        va_end(arguments);
    }
    return status;
}

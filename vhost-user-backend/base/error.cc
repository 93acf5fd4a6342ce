// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/base/error.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <system_error>

namespace outrigger {

Error error_from_code(std::string_view what, int os_error) {
    std::string message(what);
    message += ": ";
    message += std::generic_category().message(os_error);
    return {.message = std::move(message), .os_error = os_error};
}

Error error_from_errno(std::string_view what) {
    return error_from_code(what, errno);
}

void abort_on_bug(const char* condition, const char* file, int line) {
    std::fprintf(stderr, "outrigger: bug: '%s' does not hold at %s:%d\n", condition, file, line);
    std::abort();
}

}  // namespace outrigger

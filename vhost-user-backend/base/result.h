// SPDX-License-Identifier: Apache-2.0
/// The project's way to return "a value or the reason why not": std::expected with a short name,
/// and OUTRIGGER_TRY to pass a failure on. g++ 12 has no monadic operations on std::expected.
#pragma once

#if __cplusplus <= 202002L
#error "Outrigger needs C++23: add -std=c++23 to the command line of the compiler"
#endif

#include <expected>
#include <utility>

#include "vhost-user-backend/base/error.h"

namespace outrigger {

template <class T, class E = Error>
using Result = std::expected<T, E>;

/// `return failure(SomeEnum::kReason);` reads better than std::unexpected at every place.
template <class E>
[[nodiscard]] constexpr auto failure(E&& error) {
    return std::unexpected<std::decay_t<E>>(std::forward<E>(error));
}

}  // namespace outrigger

/// Evaluates a Result; returns its error from the enclosing function, else yields its value.
#define OUTRIGGER_TRY(expression)                                   \
    __extension__({                                                 \
        auto try_result_ = (expression);                            \
        if (!try_result_.has_value()) [[unlikely]]                  \
            return std::unexpected(std::move(try_result_).error()); \
        *std::move(try_result_);                                    \
    })

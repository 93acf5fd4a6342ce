// SPDX-License-Identifier: Apache-2.0
/// Where random bytes come from.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::rng {

/// Thread-bound: queue worker, after the control thread made it.
class EntropySource {
  public:
    EntropySource() = default;
    EntropySource(const EntropySource&) = delete;
    EntropySource& operator=(const EntropySource&) = delete;
    virtual ~EntropySource() = default;

    /// Puts up to out.size() bytes into `out` and returns how many, 0 when none are there now.
    /// Never waits. An error means that nothing will come any more.
    [[nodiscard]] virtual Result<size_t> read_now(std::span<std::byte> out) = 0;

    /// A descriptor that becomes readable when bytes are there, or -1 when there is none and the
    /// only way is to ask again a little later. Wait for it after a read_now() that gave nothing:
    /// a source may begin its work only then.
    [[nodiscard]] virtual int readable_fd() const { return -1; }

    /// For logs.
    [[nodiscard]] virtual std::string_view name() const = 0;
};

/// `text`: "getrandom", "unix:PATH" (a stream socket that sends raw bytes) or the path of a file or
/// device (such as /dev/hwrng).
[[nodiscard]] Result<std::unique_ptr<EntropySource>> open_entropy_source(std::string_view text);

/// The kernel's generator, without a descriptor, a lock or a wait.
[[nodiscard]] std::unique_ptr<EntropySource> make_getrandom_source();

}  // namespace outrigger::rng

// SPDX-License-Identifier: Apache-2.0
/// A block device of the host for one test: a file behind a loop device, with sectors of a chosen
/// size. Only root can make one, and not in every container.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {

class LoopDevice final {
  public:
    /// Nothing where no loop device can be had. `fd` is borrowed.
    [[nodiscard]] static std::optional<LoopDevice> create(int fd, uint32_t sector_bytes) {
        const UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
        // Somebody else may take a free one first.
        for (int attempt = 0; control.valid() && attempt < 8; ++attempt) {
            const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
            if (number < 0) {
                return std::nullopt;
            }
            LoopDevice device;
            device.path_ = "/dev/loop" + std::to_string(number);
            device.fd_.reset(::open(device.path_.c_str(), O_RDWR | O_CLOEXEC));
            struct loop_config config = {};
            config.fd = static_cast<uint32_t>(fd);
            config.block_size = sector_bytes;
            // It goes with the last descriptor.
            config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
            if (device.fd_.valid() && ::ioctl(device.fd_.get(), LOOP_CONFIGURE, &config) == 0) {
                return device;
            }
        }
        return std::nullopt;
    }

    [[nodiscard]] const std::string& path() const { return path_; }

    [[nodiscard]] int fd() const { return fd_.get(); }

  private:
    LoopDevice() = default;

    std::string path_;
    UniqueFd fd_;
};

}  // namespace outrigger

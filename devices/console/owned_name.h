// SPDX-License-Identifier: Apache-2.0
/// A symbolic link that we made: removed when its owner goes, if it is still ours.
#pragma once

#include <string>

#include <sys/types.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::console {

/// The directory that `path` is in: "." when it names none.
[[nodiscard]] std::string directory_of(const std::string& path);
/// The rest of it.
[[nodiscard]] std::string name_in_directory(const std::string& path);

/// Thread-bound: control thread.
class OwnedName final {
  public:
    /// Takes charge of what is at `path`, which was made just now.
    [[nodiscard]] static Result<OwnedName> adopt(const std::string& path);

    OwnedName(OwnedName&& other) noexcept = default;
    OwnedName& operator=(OwnedName&& other) = delete;
    OwnedName(const OwnedName&) = delete;
    OwnedName& operator=(const OwnedName&) = delete;
    ~OwnedName();

  private:
    OwnedName(UniqueFd directory, std::string name, dev_t device, ino_t inode)
        : directory_(std::move(directory)),
          name_(std::move(name)),
          device_(device),
          inode_(inode) {}

    UniqueFd directory_;  // invalid: moved from
    std::string name_;
    dev_t device_;
    ino_t inode_;
};

}  // namespace outrigger::console

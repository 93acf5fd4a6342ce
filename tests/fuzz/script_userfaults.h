// SPDX-License-Identifier: Apache-2.0
/// Userfaultfds that are none: a script's pages are always there, because who runs it would be the
/// one to wait for them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include <fcntl.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/userfault.h"

namespace outrigger::fuzz {

/// Must outlive what it opens.
class ScriptUserfaults final : public UserfaultSource {
  public:
    [[nodiscard]] Result<std::unique_ptr<Userfault>> open() const override {
        return std::make_unique<One>(open_);
    }

    /// How many there are.
    [[nodiscard]] size_t count() const { return open_; }

  private:
    class One final : public Userfault {
      public:
        explicit One(size_t& open) : open_(open) { ++open_; }

        One(const One&) = delete;
        One& operator=(const One&) = delete;

        ~One() override { --open_; }

        [[nodiscard]] Result<UniqueFd> share() const override {
            return UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC));
        }

        [[nodiscard]] Result<void> arm(std::span<std::byte> pages) override {
            OUTRIGGER_ASSERT(!pages.empty());
            armed_.push_back(pages.data());
            return {};
        }

        void disarm(std::span<std::byte> pages) override { forget(pages); }

        void give_up(std::span<std::byte> pages) override { forget(pages); }

      private:
        /// Only what was armed, and once.
        void forget(std::span<std::byte> pages) {
            const auto found = std::ranges::find(armed_, pages.data());
            OUTRIGGER_ASSERT(found != armed_.end());
            armed_.erase(found);
        }

        size_t& open_;
        std::vector<std::byte*> armed_;
    };

    mutable size_t open_ = 0;
};

}  // namespace outrigger::fuzz

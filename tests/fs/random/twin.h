// SPDX-License-Identifier: Apache-2.0
/// Two directories that are done the same to: what each call returns must be the same in both.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace outrigger::randomops {

/// Numbers that a seed alone decides.
class Dice final {
  public:
    explicit Dice(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15U + 1) {}

    /// 0 to `count` - 1.
    [[nodiscard]] uint32_t below(uint32_t count) {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return static_cast<uint32_t>((state_ >> 20) % count);
    }

    [[nodiscard]] bool one_in(uint32_t count) { return below(count) == 0; }

  private:
    uint64_t state_;
};

/// What a call did: its result, and what else it told.
struct Outcome {
    long result = 0;
    int error = 0;
    std::string detail{};

    friend bool operator==(const Outcome&, const Outcome&) = default;

    [[nodiscard]] std::string text() const;
};

class Twin final {
  public:
    /// Which of the two: a directory's descriptor, and the files that are open in it.
    struct Side {
        int root = -1;
        std::vector<int> files{};
    };

    using Call = std::function<Outcome(Side&)>;

    /// Directories that exist (both are left open until the end).
    Twin(const std::string& subject, const std::string& oracle);
    Twin(const Twin&) = delete;
    Twin& operator=(const Twin&) = delete;
    ~Twin();

    /// Does it to the subject, then to the oracle. False when they differ; then mismatch() says
    /// how.
    [[nodiscard]] bool both(const std::string& what, const Call& call);

    [[nodiscard]] const std::string& mismatch() const { return mismatch_; }

    /// The last operations, the oldest first.
    [[nodiscard]] const std::deque<std::string>& history() const { return history_; }

    [[nodiscard]] size_t open_files() const { return sides_[0].files.size(); }

    void note(const std::string& line);

  private:
    static constexpr size_t kHistoryMax = 60;

    std::array<Side, 2> sides_;
    std::string mismatch_;
    std::deque<std::string> history_;
};

}  // namespace outrigger::randomops

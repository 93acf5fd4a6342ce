// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/base/log.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <mutex>
#include <utility>

#include <unistd.h>

#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include "vhost-user-backend/base/log_writer.h"

namespace outrigger {
namespace {

struct LevelName {
    std::string_view name;
    LogLevel level;
};

constexpr LevelName kLevelNames[] = {
    {"off", LogLevel::kOff},
    {"error", LogLevel::kError},
    {"warning", LogLevel::kWarning},
    {"info", LogLevel::kInfo},
    {"debug", LogLevel::kDebug},
    {"trace", LogLevel::kTrace},
};

spdlog::level::level_enum to_spdlog(LogLevel level) {
    switch (level) {
        case LogLevel::kTrace:
            return spdlog::level::trace;
        case LogLevel::kDebug:
            return spdlog::level::debug;
        case LogLevel::kInfo:
            return spdlog::level::info;
        case LogLevel::kWarning:
            return spdlog::level::warn;
        case LogLevel::kError:
            return spdlog::level::err;
        case LogLevel::kOff:
            return spdlog::level::off;
    }
    return spdlog::level::off;
}

/// Its lock is held no longer than LogWriter waits.
class StderrSink final : public spdlog::sinks::base_sink<std::mutex> {
  protected:
    void sink_it_(const spdlog::details::log_msg& message) override {
        spdlog::memory_buf_t line;
        formatter_->format(message, line);
        writer_.write({line.data(), line.size()});
    }

    void flush_() override {}

  private:
    LogWriter writer_{STDERR_FILENO};
};

spdlog::logger& logger() {
    // Leaked on purpose: threads may log until the process is gone.
    static spdlog::logger* const instance = [] {
        auto sink = std::make_shared<StderrSink>();
        auto* created = new spdlog::logger("outrigger", std::move(sink));
        // The journal stamps lines itself.
        const bool under_journal = std::getenv("JOURNAL_STREAM") != nullptr;
        created->set_pattern(under_journal ? "[%l] %v" : "%Y-%m-%dT%H:%M:%S.%e [%P] [%l] %v");
        created->set_level(spdlog::level::info);
        created->flush_on(spdlog::level::trace);
        return created;
    }();
    return *instance;
}

}  // namespace

void set_log_level(LogLevel lowest) {
    logger().set_level(to_spdlog(lowest));
}

LogLevel log_level() {
    for (const auto& [name, level] : kLevelNames) {
        if (to_spdlog(level) == logger().level()) {
            return level;
        }
    }
    return LogLevel::kOff;
}

std::string_view log_level_name(LogLevel level) {
    return std::ranges::find(kLevelNames, level, &LevelName::level)->name;
}

std::optional<LogLevel> log_level_named(std::string_view name) {
    const auto* const found = std::ranges::find(kLevelNames, name, &LevelName::name);
    return found != std::end(kLevelNames) ? std::optional(found->level) : std::nullopt;
}

bool log_enabled(LogLevel level) {
    return logger().should_log(to_spdlog(level));
}

void write_log(LogLevel level, std::string_view line) {
    logger().log(to_spdlog(level), spdlog::string_view_t(line.data(), line.size()));
}

bool LogLimiter::allow(uint64_t& suppressed) {
    const std::lock_guard lock(mutex_);
    const Clock::time_point now = Clock::now();
    if (now - second_began_ >= std::chrono::seconds(1)) {
        second_began_ = now;
        lines_ = 0;
    }
    if (lines_ == lines_per_second_) {
        ++suppressed_;
        return false;
    }
    ++lines_;
    suppressed = std::exchange(suppressed_, 0);
    return true;
}

}  // namespace outrigger

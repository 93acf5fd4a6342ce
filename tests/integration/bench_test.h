// SPDX-License-Identifier: Apache-2.0
/// outrigger-bench as a process, and the back ends that it is let loose on.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/support/child_process.h"

namespace outrigger::testing {

inline std::string program(const char* variable) {
    const char* const path = std::getenv(variable);
    return path != nullptr ? path : "";
}

/// What the load generator said.
struct Outcome {
    int status = -1;
    std::string printed;
    std::string complained;

    [[nodiscard]] bool prints(std::string_view text) const {
        return printed.find(text) != std::string::npos;
    }

    [[nodiscard]] bool complains(std::string_view text) const {
        return complained.find(text) != std::string::npos;
    }
};

class BenchTest : public ::testing::Test {
  protected:
    BenchTest() {
        std::string pattern = ::testing::TempDir() + "bench-XXXXXX";
        directory_ = ::mkdtemp(pattern.data());
    }

    ~BenchTest() override {
        daemons_.clear();
        std::filesystem::remove_all(directory_);
    }

    [[nodiscard]] std::string path(const std::string& name) const {
        return directory_ + "/" + name;
    }

    ChildProcess& start(const std::string& executable, std::vector<std::string> arguments) {
        daemons_.push_back(std::make_unique<ChildProcess>(
            executable, ChildProcess::Options{.arguments = std::move(arguments)}));
        return *daemons_.back();
    }

    /// Short rounds: it is not speed that is tested.
    static std::vector<std::string> with_rounds(std::vector<std::string> arguments) {
        arguments.insert(arguments.begin() + 1, {"--rounds=2", "--round-ms=20"});
        return arguments;
    }

    static Outcome bench(std::vector<std::string> arguments) {
        ChildProcess process(program("OUTRIGGER_BENCH_PROGRAM"),
                             {.arguments = with_rounds(std::move(arguments))});
        return outcome_of(process);
    }

    static Outcome outcome_of(ChildProcess& process) {
        const auto ended = process.wait();
        EXPECT_TRUE(ended) << "outrigger-bench hangs";
        return {.status = ended ? ended->status : -1,
                .printed = process.printed(),
                .complained = process.complained()};
    }

    [[nodiscard]] std::string a() const { return "--a=" + path("a"); }

    [[nodiscard]] std::string b() const { return "--b=" + path("b"); }

  private:
    std::string directory_;
    std::vector<std::unique_ptr<ChildProcess>> daemons_;
};

}  // namespace outrigger::testing
